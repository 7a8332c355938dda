# SPDX-License-Identifier: Apache-2.0
"""A pty plays the physical line: the master is the far end of the cable, the slave the serial port of the appliance."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import pty
import struct
import termios
import time
import tty
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Self

TIOCGEXCL = 0x80045440
PATIENCE = 20.0  # seconds until a test gives up waiting


def rubbish(count: int) -> bytes:
    """So many bytes without any sense, always the same ones."""
    return hashlib.shake_256(b"noise on the line").digest(count)


class PtyLine:
    """The far end of a line. `port` is a path that stays the same when the cable is pulled and plugged in again.

    The slave is kept open here too, so that the far end outlasts the sessions on it, as a cable does.
    """

    def __init__(self, port: Path) -> None:
        self.port = port
        self.seen = b""  # everything that arrived and was not matched by `read_until`
        self._master = self._slave = -1

    def plug(self) -> Self:
        """Connect the cable."""
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.port.symlink_to(os.ttyname(self._slave))
        return self

    def hang_up(self) -> None:
        """Pull the cable: the port sees a hang-up and is gone."""
        if self._master >= 0:
            os.close(self._slave)
            os.close(self._master)
            self.port.unlink()
            self._master = -1
            self.seen = b""

    async def type(self, data: bytes | str, patience: float = PATIENCE) -> None:
        """Send bytes to the port, as fast as it takes them."""
        loop = asyncio.get_running_loop()
        rest = memoryview(data.encode() if isinstance(data, str) else data)
        async with asyncio.timeout(patience):
            while rest:
                possible = asyncio.Event()
                loop.add_writer(self._master, possible.set)
                try:
                    await possible.wait()
                finally:
                    loop.remove_writer(self._master)
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(self._master, rest) :]

    def put(self, data: bytes) -> None:
        """Send less than 4096 bytes, none of them FF, and return when they wait at the open port.

        The loop stands still meanwhile, so that nobody takes them.
        """
        os.write(self._master, data)
        limit = time.monotonic() + PATIENCE
        while self.waiting() < len(data) and time.monotonic() < limit:
            time.sleep(0.001)

    async def deliver(self, data: bytes) -> None:
        """`put`, and return when the port has taken them."""
        self.put(data)
        async with asyncio.timeout(PATIENCE):
            while self.waiting():  # noqa: ASYNC110  the kernel tells nobody
                await asyncio.sleep(0)

    async def send_break(self) -> None:
        """A BREAK, as PARMRK encodes it: the kernel makes none on a pty, but hands this on once PARMRK is off."""
        attributes = termios.tcgetattr(self._slave)
        attributes[0] &= ~termios.PARMRK
        termios.tcsetattr(self._slave, termios.TCSANOW, attributes)
        os.write(self._master, b"\xff\x00\x00")

    async def read(self, patience: float | None = PATIENCE) -> bytes:
        """What has arrived, at least one byte."""
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._master, arrived.set)
        try:
            async with asyncio.timeout(patience):
                await arrived.wait()
        finally:
            loop.remove_reader(self._master)
        return os.read(self._master, 65536)

    async def read_until(self, end: bytes | str) -> str:
        """Everything up to and including `end`; what comes behind it is kept."""
        end = end.encode() if isinstance(end, str) else end
        try:
            async with asyncio.timeout(PATIENCE):
                while end not in self.seen:
                    self.seen += await self.read()
        except TimeoutError:
            raise AssertionError(f"{end!r} did not come, but {self.seen[-2000:]!r}") from None
        found, _, self.seen = self.seen.partition(end)
        return (found + end).decode("utf-8", "surrogateescape")

    async def read_exactly(self, count: int) -> bytes:
        """The next `count` bytes."""
        while len(self.seen) < count:
            self.seen += await self.read()
        data, self.seen = self.seen[:count], self.seen[count:]
        return data

    @contextlib.asynccontextmanager
    async def discarding(self) -> AsyncIterator[None]:
        """Read and forget what arrives."""

        async def discard() -> None:
            while True:
                await self.read(patience=None)

        task = asyncio.create_task(discard())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    def waiting(self) -> int:
        """How many bytes the port has not read yet (ioctl_tty(2), FIONREAD)."""
        return self._ask(termios.FIONREAD)

    def is_exclusive(self) -> bool:
        """Whether the port refuses to be opened once more (ioctl_tty(2), TIOCGEXCL)."""
        return bool(self._ask(TIOCGEXCL))

    def attributes(self) -> Sequence[int]:
        """The input, output, control and local modes of the port, as termios(3) numbers them."""
        return [int(mode) for mode in termios.tcgetattr(self._slave)[:4]]

    def set_control_modes(self, modes: int, value: int) -> None:
        """Give the control modes `modes` the value `value`."""
        attributes = termios.tcgetattr(self._slave)
        attributes[2] = attributes[2] & ~modes | value
        termios.tcsetattr(self._slave, termios.TCSANOW, attributes)

    def _ask(self, request: int) -> int:
        (answer,) = struct.unpack("=i", fcntl.ioctl(self._slave, request, bytes(4)))
        return int(answer)
