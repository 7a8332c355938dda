# SPDX-License-Identifier: Apache-2.0
"""The client's end of the network door, byte by byte, so that it can also misbehave."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Self

from appliance.console.frames import Decoder, Kind, encode, encode_open

LIMIT = 20.0  # seconds for anything; reached only when something is broken


class DoorClient:
    """One connection to a door."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status: int | None = None  # the exit status, once the door told it
        self.seen = b""  # all output so far
        self._position = 0
        self._decoder = Decoder()

    @classmethod
    @asynccontextmanager
    async def connect(cls, path: Path, *, uid: int = 0) -> AsyncIterator[Self]:
        """Connect as the user `uid`; another than our own takes root, and a path that the user may walk."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _as_user(uid):
                sock.connect(str(path))
        except OSError:
            sock.close()
            raise
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def open(self, command: str | None = None, source: str = "") -> None:
        """Say what is wanted."""
        await self.send(encode_open(command, source))

    async def type(self, data: bytes) -> None:
        """Send `data` as input."""
        await self.send(encode(Kind.DATA, data))

    async def send(self, data: bytes) -> None:
        """Send bytes as they are. Raises `OSError` when the door has closed."""
        self.writer.write(data)
        async with asyncio.timeout(LIMIT):
            await self.writer.drain()

    @property
    def unsent(self) -> int:
        """Bytes that the door did not let us send yet."""
        return self.writer.transport.get_write_buffer_size()

    def deafen(self) -> None:
        """Take nothing any more of what the door sends."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()

    async def expect(self, wanted: bytes) -> bytes:
        """Wait until `wanted` is printed, and return what came since the last `expect`, with it."""
        while (found := self.seen.find(wanted, self._position)) < 0:
            assert await self._receive(), f"no {wanted!r} in {self.seen[self._position :]!r}"
        start, self._position = self._position, found + len(wanted)
        return self.seen[start : self._position]

    async def ended(self) -> int | None:
        """Wait until the door closes: the exit status, None when it told none."""
        while await self._receive():
            continue
        return self.status

    async def _receive(self) -> bool:
        """Take what the door sends; False when it has closed."""
        async with asyncio.timeout(LIMIT):
            try:
                data = await self.reader.read(65536)
            except ConnectionResetError:  # it closed with something of ours unread
                return False
        for kind, payload in self._decoder.feed(data):
            assert self.status is None, "nothing follows the exit status"
            match kind:
                case Kind.DATA:
                    self.seen += payload
                case Kind.EXIT:
                    self.status = payload[0]
                case _:
                    raise AssertionError(f"the door sent a frame of type {kind}")
        return bool(data)


@contextmanager
def _as_user(uid: int) -> Iterator[None]:
    """Be the user `uid`, in no group of ours, for a moment; the whole process is, so nothing may be awaited inside."""
    before, group, groups = os.geteuid(), os.getegid(), os.getgroups()
    if uid == before:
        yield
        return
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before)
        os.setegid(group)
        os.setgroups(groups)
