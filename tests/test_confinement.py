# SPDX-License-Identifier: Apache-2.0
"""The daemon works under the system call filter of its unit, and the filter is one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pty_child import PATIENCE, console, read_until, running, terminal
from tests.support.vendor_module import SOFTHSM, needs_softhsm, softhsm

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "systemd/appliance-console@.service"

pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


def confined(*command: str | Path) -> list[str | Path]:
    """The command, under the filter of the unit."""
    return [sys.executable, "-m", "tests.support.confinement", UNIT, *command]


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code under the filter."""
    return subprocess.run(  # noqa: S603  # code of this file
        confined(sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize(
    "code",
    [
        "import pyudev; pyudev.Context()",  # runs ldconfig
        "import usb.backend.libusb1 as b; assert b.get_backend()",  # runs ldconfig, makes callbacks
        "import hashlib; hashlib.scrypt(b'', salt=b'', n=2**14, r=8, p=1)",
        "import asyncio; asyncio.run(asyncio.to_thread(int))",
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15); socket.socketpair()",
        "import tempfile; from socket import *; from appliance import journald as j; s = socket(AF_UNIX, SOCK_DGRAM);"
        "j.SOCKET = tempfile.mkdtemp() + '/s'; s.bind(j.SOCKET); assert j.send('text', 6, {}) and s.recv(99)",
        "import os, tempfile; f = tempfile.TemporaryFile(); os.fchmod(f.fileno(), 0o600); os.fsync(f.fileno())",
    ],
)
def test_what_the_daemon_does_is_allowed(code: str) -> None:
    """Libraries through ctypes, child processes, threads, scrypt, netlink, the journal and durable files all work."""
    result = python(code)

    assert (result.returncode, result.stderr) == (0, "")


@needs_softhsm
def test_a_pkcs11_library_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process starts, loads and calls it, and is killed."""
    softhsm(tmp_path, monkeypatch)
    load = f"from pathlib import Path; from appliance.hsm.pkcs11.client import loaded; l = loaded(Path('{SOFTHSM}'))"
    result = python(f"{load}; print([token.label for token in l.__enter__().tokens()]); l.__exit__(None, None, None)")

    assert (result.returncode, result.stderr) == (0, "")
    assert "'vault'" in result.stdout


@needs_softhsm
def test_the_built_in_hsm_works(tmp_path: Path) -> None:
    """It is initialised through the library, deleted by SoftHSM's program, and read back."""
    result = python(
        "from tests.support.builtin_house import *; from appliance.hsm.model import BUILTIN\n"
        f"hsm = softhsm_driver(Path('{tmp_path}')).open(BUILTIN)\n"
        "hsm.initialize('vault', Secret(SO_PIN), list); print(hsm.probe().state, end=' ')\n"
        "hsm.factory_reset(list); print(hsm.probe().state)"
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "initialized zeroized\n"


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket(socket.AF_INET)",
        "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)",
        "import os; os.chown('.', os.getuid(), os.getgid())",
        "import os; os.nice(1)",
        "import os; os.setuid(os.getuid())",
        "import os; os.chroot('/')",
    ],
)
def test_what_it_never_does_is_refused(code: str) -> None:
    """No network, no code made at run time, no other owner, priority, user or root."""
    assert "PermissionError: [Errno 1]" in python(code).stderr


def test_the_daemon_gives_its_prompt_and_ends(tmp_path: Path) -> None:
    """Confined, it opens the port, looks for devices, asks for a login, takes a password, and ends when it is told."""
    with terminal() as (master, port), running(confined(*console(port, tmp_path))) as process:
        read_until(master, b"login: ", process)
        os.write(master, b"admin\r")
        read_until(master, b"assword: ", process)
        os.write(master, b"wrong\r")
        read_until(master, b"login: ", process)
        process.terminate()
        assert process.wait(PATIENCE) == 0
