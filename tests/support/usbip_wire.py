# SPDX-License-Identifier: Apache-2.0
"""A USB/IP client that sends and receives single messages, for tests of what a server says on the wire."""

import asyncio
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Self

from tests.support.usbip_client import (
    CMD_SUBMIT,
    CMD_UNLINK,
    DEVICE,
    DIR_IN,
    DIR_OUT,
    OPERATION,
    REP_DEVLIST,
    REP_IMPORT,
    REQ_DEVLIST,
    REQ_IMPORT,
    RET_SUBMIT,
    RET_UNLINK,
    URB,
    VERSION,
)

BOUND = 20.0  # seconds to wait for anything


@dataclass(frozen=True)
class Answer:
    """RET_SUBMIT or RET_UNLINK."""

    command: int
    number: int
    status: int
    length: int = 0
    data: bytes = b""


def submit_message(
    number: int, device: int, direction: int, endpoint: int, length: int, *, flags: int = 0, setup: bytes = bytes(8)
) -> bytes:
    """CMD_SUBMIT without the data of a transfer to the device."""
    return URB.pack(CMD_SUBMIT, number, device, direction, endpoint, flags, length, 0, 0, 0, setup)


class Wire:
    """One connection."""

    connected: ClassVar[list["Wire"]] = []  # for `close_all`

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.device = 0
        self.inbound: set[int] = set()  # numbers of transfers to the host
        self._number = 0

    @classmethod
    async def connect(cls, address: tuple[str, int]) -> Self:
        """A connection on which nothing was said."""
        wire = cls(*await asyncio.open_connection(*address))
        cls.connected.append(wire)
        return wire

    @classmethod
    async def attach(cls, address: tuple[str, int], bus_id: str) -> Self:
        """A connection with an imported device."""
        wire = await cls.connect(address)
        assert await wire.request_import(bus_id) == 0
        return wire

    async def close(self) -> None:
        """Leave."""
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    @classmethod
    async def close_all(cls) -> None:
        """Leave all connections."""
        while cls.connected:
            await cls.connected.pop().close()

    async def receive(self, size: int) -> bytes:
        """Exactly that many bytes, in time."""
        async with asyncio.timeout(BOUND):
            return await self.reader.readexactly(size)

    async def ended(self) -> bytes:
        """All that comes until the server closes the connection."""
        async with asyncio.timeout(BOUND):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def devices(self) -> list[str]:
        """The bus ids that the server lists."""
        self.writer.write(OPERATION.pack(VERSION, REQ_DEVLIST, 0))
        assert OPERATION.unpack(await self.receive(OPERATION.size)) == (VERSION, REP_DEVLIST, 0)
        ids = []
        for _ in range(int.from_bytes(await self.receive(4))):
            record = DEVICE.unpack(await self.receive(DEVICE.size))
            await self.receive(4 * record[-1])
            ids.append(record[1].rstrip(b"\0").decode())
        return ids

    async def request_import(self, bus_id: str) -> int:
        """The status that the server answers."""
        self.writer.write(OPERATION.pack(VERSION, REQ_IMPORT, 0) + bus_id.encode().ljust(32, b"\0"))
        version, code, status = OPERATION.unpack(await self.receive(OPERATION.size))
        assert (version, code) == (VERSION, REP_IMPORT)
        if status == 0:
            record = DEVICE.unpack(await self.receive(DEVICE.size))
            assert record[1].rstrip(b"\0").decode() == bus_id
            self.device = record[2] << 16 | record[3]
        return int(status)

    def submit_in(self, endpoint: int, length: int, *, flags: int = 0, setup: bytes = bytes(8)) -> int:
        """Ask for a transfer to the host; its number."""
        self._number += 1
        self.inbound.add(self._number)
        self.writer.write(submit_message(self._number, self.device, DIR_IN, endpoint, length, flags=flags, setup=setup))
        return self._number

    def submit_out(self, endpoint: int, data: bytes, *, flags: int = 0, setup: bytes = bytes(8)) -> int:
        """Ask for a transfer to the device; its number."""
        self._number += 1
        head = submit_message(self._number, self.device, DIR_OUT, endpoint, len(data), flags=flags, setup=setup)
        self.writer.write(head + data)
        return self._number

    def unlink(self, target: int) -> int:
        """Take a transfer back; the number of the command."""
        self._number += 1
        self.writer.write(URB.pack(CMD_UNLINK, self._number, self.device, 0, 0, target, 0, 0, 0, 0, bytes(8)))
        return self._number

    async def answer(self) -> Answer:
        """The next one."""
        command, number, device, direction, endpoint, status, length, *rest = URB.unpack(await self.receive(URB.size))
        assert (device, direction, endpoint, rest) == (0, 0, 0, [0, 0, 0, bytes(8)])
        status -= (status & 0x80000000) << 1
        if command == RET_UNLINK:
            return Answer(command, number, status)
        assert command == RET_SUBMIT
        return Answer(command, number, status, length, await self.receive(length if number in self.inbound else 0))

    async def control(
        self, kind: int, request: int, value: int = 0, index: int = 0, size: int = 0, data: bytes = b""
    ) -> Answer:
        """One control transfer."""
        setup = struct.pack("<BBHHH", kind, request, value, index, len(data) if data else size)
        if kind & 0x80:
            self.submit_in(0, size, setup=setup)
        else:
            self.submit_out(0, data, setup=setup)
        return await self.answer()
