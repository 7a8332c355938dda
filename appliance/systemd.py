# SPDX-License-Identifier: Apache-2.0
"""The service manager is told the daemon's state and gives it its sockets; without one, nothing here does anything.

The protocols are those of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3): environment variables, a datagram
socket and inherited file descriptors.
"""

import os
import socket
import stat

from appliance.log import get_logger

FIRST_FD = 3  # SD_LISTEN_FDS_START
MOST_FDS = 64  # more is a mistake in the environment

_log = get_logger(__name__)


def notify(**state: str | int) -> bool:
    """Tell the service manager, e.g. ``notify(READY=1, STATUS="...")``; whether that was sent.

    READY=1: everything is started. STATUS: one line for people. WATCHDOG=1: alive. STOPPING=1: the end has begun.
    EXTEND_TIMEOUT_USEC: microseconds from now in which the start or the end may still take. Never blocks.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace, unix(7)
    # A value holds one line: what a device says of itself must not become a state of ours.
    lines = [f"{key}={' '.join(str(value).splitlines())}\n" for key, value in state.items()]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.connect(address)
            sender.send("".join(lines).encode("utf-8", "backslashreplace"))
    except OSError as error:  # of which to have no descriptor left is one
        _log.warning("service manager not told", reason=str(error), state=", ".join(state))
        return False
    return True


def watchdog_timeout() -> float | None:
    """Within how many seconds WATCHDOG=1 must follow the one before, or the service is killed; None: no watchdog.

    Tell it in half of that time.
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not _is_number(microseconds) or int(microseconds) == 0:
        return None
    return int(microseconds) / 1_000_000


def listen_fds() -> tuple[tuple[str, socket.socket], ...]:
    """The listening sockets this process was started with, each with its name; they are ours from now on.

    The variables are removed, so that a second call and child processes find none.
    """
    process = os.environ.pop("LISTEN_PID", "")
    number = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if process != str(os.getpid()) or not _is_number(number) or int(number) > MOST_FDS:
        return ()
    found = []
    for index in range(int(number)):
        inherited = _listening_socket(FIRST_FD + index)
        if inherited:
            found.append((names[index] if index < len(names) else "", inherited))
    return tuple(found)


def _listening_socket(descriptor: int) -> socket.socket | None:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError(None, "not a socket")  # noqa: TRY301  one way out for everything that is none
        os.set_inheritable(descriptor, False)
        inherited = socket.socket(fileno=descriptor)
    except OSError as error:
        _log.warning("inherited descriptor ignored", descriptor=descriptor, reason=error.strerror)
        return None
    if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        _log.warning("inherited descriptor ignored", descriptor=descriptor, reason="not listening")
        inherited.close()
        return None
    return inherited


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19
