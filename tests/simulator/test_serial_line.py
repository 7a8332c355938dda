# SPDX-License-Identifier: Apache-2.0
"""The far end of the demonstration's serial line, where terminal programs come and go."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from appliance.simulator import serial_line
from appliance.simulator.serial_line import SerialLine, Socket
from tests.support.clock import let_time_pass

PATIENCE = 20.0  # seconds until a test gives up waiting


class CountedLine(SerialLine):
    """Counts how often the cable was pulled out or plugged in."""

    def __init__(self, port: Path) -> None:
        super().__init__(port)
        self.changes: list[str] = []

    def plug(self) -> None:
        """Pull the cable out."""
        super().plug()
        self.changes.append("out")

    def connect(self, receive: Callable[[bytes], int]) -> None:
        """Plug the cable in."""
        super().connect(receive)
        self.changes.append("in")

    async def until(self, *changes: str) -> None:
        """Wait until exactly these changes have happened."""
        async with asyncio.timeout(PATIENCE):
            while self.changes != list(changes):  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0.01)


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[CountedLine]:
    """A line with nothing at its far end."""
    line = CountedLine(tmp_path / "ttyS0")
    line.plug()
    line.changes.clear()
    yield line
    line.close()


@pytest.fixture
async def socket(line: CountedLine) -> AsyncIterator[Socket]:
    """Where terminal programs attach to the line."""
    socket = Socket(line)
    socket.start()
    yield socket
    socket.close()


async def test_a_line_that_is_closed_reads_nothing_more(line: CountedLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the daemon to open the port; once it is closed, the number of its end may be another's."""
    loop = asyncio.get_running_loop()
    stop, stopped = loop.remove_reader, asyncio.Event()
    read: list[object] = []

    def stop_and_tell(end: int) -> bool:
        stopped.set()
        return stop(end)

    monkeypatch.setattr(loop, "remove_reader", stop_and_tell)
    line.connect(len)
    async with asyncio.timeout(PATIENCE):
        await stopped.wait()
    line.close()
    monkeypatch.setattr(loop, "add_reader", lambda *reader: read.append(reader))
    let_time_pass(serial_line._SETTLED)
    for _ in range(3):
        await asyncio.sleep(0)

    assert read == []


def attach(socket: Socket) -> int:
    """A terminal program opens the port."""
    return os.open(socket.path, os.O_RDWR | os.O_NOCTTY)


async def test_each_program_that_leaves_pulls_the_cable(line: CountedLine, socket: Socket) -> None:
    """The next one finds a line that was hung up."""
    for _ in range(3):
        line.changes.clear()
        program = attach(socket)
        await line.until("in")
        os.close(program)
        await line.until("in", "out")


async def test_a_second_program_does_not_pull_the_cable(line: CountedLine, socket: Socket) -> None:
    """`stty` on the port of a terminal program that runs is no hang-up; when that one leaves, it is."""
    program = attach(socket)
    await line.until("in")
    os.close(attach(socket))
    os.close(program)
    await line.until("in", "out")


async def test_a_program_found_before_the_kernel_told_of_it_is_counted_once(
    line: CountedLine, socket: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes in the moment in which another leaves: when it leaves too, nobody is left logged in."""
    first = attach(socket)
    await line.until("in")
    programs: list[int] = []
    is_open = socket._is_open  # the moment that is meant lies inside

    def meanwhile() -> bool:
        if not programs:
            programs.append(attach(socket))
        return is_open()

    monkeypatch.setattr(socket, "_is_open", meanwhile)
    os.close(first)
    await line.until("in", "out", "in")
    os.close(programs[0])
    await line.until("in", "out", "in", "out")
