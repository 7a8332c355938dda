# SPDX-License-Identifier: Apache-2.0
"""A stream at whose other end a script types."""

import asyncio
from collections import deque

from appliance.errors import Hangup, LineEvent


class FakeStream:
    """What is to be read comes from `typed`, an error among it is raised; what is written is kept in `sent`."""

    def __init__(self, *typed: bytes | LineEvent) -> None:
        self.typed = deque(typed)
        self.sent = b""
        self.writes = 0
        self.flushed = 0
        self._more = asyncio.Event()

    def type(self, *typed: bytes | LineEvent) -> None:
        """Type more."""
        self.typed.extend(typed)
        self._more.set()

    async def read(self) -> bytes:
        """The next piece; waits when there is none."""
        while not self.typed:
            self._more.clear()
            await self._more.wait()
        if isinstance(self.typed[0], Hangup):
            raise self.typed[0]
        match self.typed.popleft():
            case bytes(data):
                return data
            case event:
                raise event

    async def write(self, data: bytes) -> None:
        """Keep `data`."""
        self.sent += data
        self.writes += 1

    async def hung_up(self) -> None:
        """Never: the script says when."""
        await asyncio.Event().wait()

    def flush_input(self) -> None:
        """Count the calls."""
        self.typed.clear()
        self.flushed += 1
