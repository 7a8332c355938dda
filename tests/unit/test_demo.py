# SPDX-License-Identifier: Apache-2.0
"""What the demonstration says and whom it lets in, without running it."""

import asyncio
import errno
import os
import pwd
import sys
from pathlib import Path

import pytest

from appliance import demo
from appliance.simulator.serial_line import SerialLine

BOUND = 30.0  # seconds


def test_the_user_is_the_one_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who started the demonstration is `admin` at its door, also where LOGNAME names another."""
    monkeypatch.setenv("LOGNAME", "somebody")

    assert demo._our_user() == {pwd.getpwuid(os.getuid()).pw_name: "admin"}


def test_the_commands_work_in_any_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The line for the network names `lunash` by an absolute path, however the demonstration was called."""
    monkeypatch.setattr("sys.argv", [".venv/bin/appliance-console", "demo"])

    demo._explain(tmp_path / "bus", tmp_path / "state", "")

    (line,) = (line for line in capsys.readouterr().out.splitlines() if "network" in line)
    assert Path(line.split()[1]).is_absolute()


async def test_a_terminal_that_is_taken_away_is_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It can be read no more, which ends the demonstration; the loop does not try for ever."""
    master, slave = os.openpty()
    terminal, left, reads = os.fdopen(slave, "r+b", buffering=0), asyncio.Event(), list[int]()

    def fail(fd: int, _: int) -> bytes:
        reads.append(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(os, "read", fail)
    line = SerialLine(tmp_path / "ttyS0")
    line.plug()
    with demo._own_terminal(line, left.set):
        os.write(master, b"x")
        async with asyncio.timeout(BOUND):
            await left.wait()
        for _ in range(3):
            await asyncio.sleep(0)
    line.close()
    terminal.close()
    os.close(master)

    assert reads.count(slave) == 1
