# SPDX-License-Identifier: Apache-2.0
"""Tries to reach what a console daemon has no business with, and what it has; run by the appliance's own Python.

It knows nothing but the standard library and is copied to the appliance as it is.
"""

import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path


def opens(path: str) -> Callable[[], object]:
    """Open a device to read and write."""
    return lambda: os.close(os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))


def writes(folder: str) -> Callable[[], object]:
    """Make a file, and remove it."""

    def attempt() -> None:
        path = Path(folder) / "attempt"
        path.write_text("")
        path.unlink()

    return attempt


def makes_socket(family: int, kind: int = socket.SOCK_STREAM) -> Callable[[], object]:
    """Have a socket."""
    return lambda: socket.socket(family, kind).close()


def mounts() -> None:
    """Mount a file system of its own on /mnt, and take it off."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", b"/mnt", b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), "mount")
    libc.umount(b"/mnt")


def becomes_another() -> None:
    """Become the user nobody; in a child, because there is no way back."""
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise PermissionError


def all_attempts(port: str, token: str, other: str, nodes: str, state: str) -> dict[str, Callable[[], object]]:
    """What is tried, by name. In the folder `nodes` are device nodes that are open to everybody."""
    return {
        **{f"open {path}": opens(path) for path in (port, "/dev/ptmx")},
        **{f"open {path.name}, were it open to all": opens(str(path)) for path in Path(nodes).iterdir()},
        "open the token": opens(token),
        "open another USB device": opens(other),
        "write the state": writes(state),
        **{f"write {folder}": writes(folder) for folder in ("/etc", "/usr", "/run", "/var/log")},
        "read /etc/shadow": lambda: Path("/etc/shadow").read_bytes(),
        "read /root": lambda: list(Path("/root").iterdir()),
        "see process 1": lambda: Path("/proc/1/status").read_bytes(),
        "unix socket": makes_socket(socket.AF_UNIX),
        "netlink": makes_socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "inet socket": makes_socket(socket.AF_INET),
        "inet6 socket": makes_socket(socket.AF_INET6),
        "packet socket": makes_socket(socket.AF_PACKET, socket.SOCK_RAW),
        "mount": mounts,
        "become another user": becomes_another,
    }


def outcome(attempt: Callable[[], object]) -> bool:
    """Whether it succeeds."""
    try:
        attempt()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    results = {name: outcome(attempt) for name, attempt in all_attempts(*sys.argv[1:]).items()}
    print("attempts:", json.dumps(results))
