# SPDX-License-Identifier: Apache-2.0
"""A library that hangs neither delays the console nor leaves a process behind, however the daemon ends."""

import os
import select
import signal
import sys
from pathlib import Path

import pytest

from tests.support.pty_child import PATIENCE, read_until, running, terminal
from tests.support.vendor_module import VendorModule, needs_softhsm

pytestmark = needs_softhsm


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("fault", ["hang", "crash"])
def test_the_console_does_not_wait(vendor: VendorModule, tmp_path: Path, fault: str, end: signal.Signals) -> None:
    """A person logs in while the library is stuck; when the daemon ends or is killed, none of its processes is left."""
    vendor.tell("fault-C_Initialize", fault)
    with terminal() as (master, port), running(command(port, tmp_path, vendor)) as process:
        read_until(master, b"login: ", process)
        os.write(master, b"admin\r")
        read_until(master, b"assword: ", process)
        os.write(master, b"PASSWORD\r")
        read_until(master, b"required to change your password", process)
        library = library_process(process.pid, vendor)
        process.send_signal(end)
        process.wait(PATIENCE)
        assert all(select.select([watch], [], [], PATIENCE)[0] for watch in library)


def command(port: str, folder: Path, vendor: VendorModule) -> list[str | Path]:
    """Our daemon, with the vendor's library."""
    return [sys.executable, "-m", "tests.support.library_daemon", port, folder / "state", vendor.library]


def library_process(daemon: int, vendor: VendorModule) -> list[int]:
    """Descriptors for the children of the daemon, once the library was called in one of them."""
    vendor.reached("C_Initialize")
    children = " ".join(path.read_text() for path in Path(f"/proc/{daemon}/task").glob("*/children")).split()
    return [os.pidfd_open(int(child)) for child in children]
