# SPDX-License-Identifier: Apache-2.0
"""One client of the network door is a `Stream`: what it sends is checked and bounded, what it is sent is waited for.

A client that does not read its output, floods its input or breaks the format costs its own session, nothing else.
"""

import asyncio
from typing import Final

from appliance.console.frames import LARGEST_PAYLOAD, Decoder, FrameError, Kind, decode_open, encode
from appliance.errors import Hangup

OPENING_LIMIT: Final = 10.0  # seconds from the connection to its opening
WRITE_LIMIT: Final = 10.0  # seconds for one chunk of output to go out
MOST_INPUT: Final = 65536  # bytes typed ahead; while there are more, nothing is read from the client

_CHUNK = 4096  # bytes of output that must find their way within the limit
_TASTE = 1024  # bytes of input given at a time: what a terminal makes of one byte takes some microseconds


class Connection:
    """A `Stream` over one accepted connection; make it inside the event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._writer.transport.set_write_buffer_limits(high=0)  # drain() returns when the kernel has taken everything
        self._decoder = Decoder()
        self._input = bytearray()
        self._input_ended = False
        self._news = asyncio.Event()  # there is input, or there will be none
        self._room = asyncio.Event()  # there is room for input
        self._room.set()
        self._gone = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self.fault = ""  # how the client broke the format, if it did

    async def opening(self) -> tuple[str | None, str]:
        """Wait for the client's first frame: the command (None for an interactive session) and the claimed source.

        To be called once, first. Raises `Hangup`, and `FrameError` when the opening is late, wrong or not first.
        """
        try:
            async with asyncio.timeout(OPENING_LIMIT):
                (kind, payload), *more = await self._first_frames()
        except TimeoutError as error:
            raise FrameError("no opening in time") from error
        if kind is not Kind.OPEN:
            raise FrameError(f"a frame of type {kind} before the opening")
        opening = decode_open(payload)
        for frame in more:
            self._take(*frame)
        self._pump = asyncio.create_task(self._take_all())
        return opening

    async def read(self) -> bytes:
        """At least one byte of input. Raises `Hangup` when there will be none: the client ended it, left or broke.

        Others get their turn before each read, however much there is.
        """
        await asyncio.sleep(0)
        while not self._input and not self._input_ended and not self._gone.is_set():
            self._news.clear()
            await self._news.wait()
        if self._gone.is_set() or not self._input:
            raise Hangup
        data = bytes(self._input[:_TASTE])
        del self._input[:_TASTE]
        if len(self._input) <= MOST_INPUT:
            self._room.set()
        return data

    async def write(self, data: bytes) -> None:
        """Send output. Raises `Hangup` when the client is gone, or reads nothing for `WRITE_LIMIT` seconds."""
        for start in range(0, len(data), _CHUNK):
            await self._send(encode(Kind.DATA, data[start : start + _CHUNK]))

    async def hung_up(self) -> None:
        """Return when the client is gone; with more than `MOST_INPUT` bytes unread, that is noticed in writing only."""
        await self._gone.wait()

    def flush_input(self) -> None:
        """Forget what was typed so far."""
        self._input.clear()
        self._room.set()

    async def finish(self, status: int) -> None:
        """Tell the client the exit status. Raises `Hangup`."""
        await self._send(encode(Kind.EXIT, bytes([status])))

    def close(self) -> None:
        """Drop the connection at once; what was sent successfully still arrives."""
        if self._pump is not None:
            self._pump.cancel()
        self._gone.set()
        self._writer.transport.abort()

    async def _first_frames(self) -> list[tuple[Kind, bytes]]:
        frames: list[tuple[Kind, bytes]] = []
        while not frames:
            frames = list(self._decoder.feed(await self._receive()))
        return frames

    async def _receive(self) -> bytes:
        try:
            received = await self._reader.read(LARGEST_PAYLOAD)
        except OSError as error:
            raise Hangup from error
        if not received:
            raise Hangup
        return received

    async def _take_all(self) -> None:
        """Take input until the client is gone or has broken the format."""
        try:
            while True:
                await self._room.wait()
                for kind, payload in self._decoder.feed(await self._receive()):
                    self._take(kind, payload)
        except Hangup:
            pass
        except FrameError as error:
            self.fault = str(error)
        finally:
            self._gone.set()
            self._news.set()

    def _take(self, kind: Kind, payload: bytes) -> None:
        """One frame after the opening. Raises `FrameError` when it does not fit there."""
        match kind:
            case Kind.DATA if not self._input_ended:
                self._input += payload
                if len(self._input) > MOST_INPUT:
                    self._room.clear()
            case Kind.END if not self._input_ended:
                self._input_ended = True
            case _:
                raise FrameError(f"a frame of type {kind} where none may be")
        self._news.set()

    async def _send(self, frame: bytes) -> None:
        if self._gone.is_set():
            raise Hangup
        self._writer.write(frame)
        try:
            async with asyncio.timeout(WRITE_LIMIT):
                await self._writer.drain()
        except OSError as error:  # TimeoutError is one
            self.close()
            raise Hangup from error
