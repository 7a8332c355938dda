# SPDX-License-Identifier: Apache-2.0
"""A network door that does to its client what a test says, and the command line of that client."""

import asyncio
import json
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from appliance.console.frames import Decoder, Frame, Kind, encode
from tests.support.process import LIMIT

ROOT = Path(__file__).parents[2]
LUNASH = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from appliance.console.relay import relay
sys.exit(relay(Path(sys.argv[1]), *(sys.argv[2:] or [None])))
"""


class Peer:
    """The door's end of one connection."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()
        self._frames: list[Frame] = []

    async def frame(self) -> Frame:
        """The next frame that the client sent."""
        async with asyncio.timeout(LIMIT):
            while not self._frames:
                data = await self._reader.read(65536)
                assert data, "the client has closed"
                self._frames = list(self._decoder.feed(data))
        return self._frames.pop(0)

    async def data(self, size: int) -> bytes:
        """The next `size` bytes of input."""
        data = b""
        while len(data) < size:
            kind, payload = await self.frame()
            assert kind is Kind.DATA
            data += payload
        return data

    async def opening(self) -> dict[str, str]:
        """What the client's first frame says."""
        kind, payload = await self.frame()
        assert kind is Kind.OPEN
        opening: dict[str, str] = json.loads(payload)
        return opening

    async def say(self, kind: Kind, payload: bytes) -> None:
        """Send one frame."""
        await self.send(encode(kind, payload))

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        async with asyncio.timeout(LIMIT):
            await self._writer.drain()

    def close(self) -> None:
        """Break off."""
        self._writer.close()


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def door(path: Path, script: Script) -> AsyncIterator[None]:
    """A door at `path` that does to one client what `script` says, to its end."""
    failures: list[BaseException] = []
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            await script(Peer(reader, writer))
        except BaseException as error:  # noqa: BLE001  it is raised below, where pytest sees it
            failures.append(error)
        finally:
            writer.close()

    def connected(reader: StreamReader, writer: StreamWriter) -> None:
        serving.append(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_unix_server(connected, path)
    async with server:
        yield
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*serving)
    if failures:
        raise failures[0]


def lunash(path: Path, *command: str) -> list[str | Path]:
    """The command line of the client for the door at `path`."""
    return [sys.executable, "-c", LUNASH, path, *command]
