# SPDX-License-Identifier: Apache-2.0
"""The cables between the tokens, which a USB/IP server exports, and the appliance: each can be cut at any transfer.

Everything here runs on one event loop. The tests, in another thread, say what a cable shall do and wait until it did.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from appliance.hsm.ccid_messages import TRANSFER
from appliance.simulator import usbip_protocol as protocol
from appliance.simulator.ccid_reader import HEADER
from appliance.simulator.faults import name_of
from appliance.simulator.usbip_protocol import Request, Submit
from tests.support.guest.machine import BOUND

_PART = 65536  # bytes


class Cable:
    """One cable. It counts the bulk transfers that the appliance asks for, from `count_from_here` on."""

    def __init__(self) -> None:
        self.transfers: list[str] = []  # each by its name: the command to the card, or the answer to it
        self._stop_at: int | str = 0
        self._cuts = True
        self._then: Callable[[], object] = lambda: None
        self._stopped = threading.Event()
        self._carries = threading.Event()
        self._carries.set()
        self._plugged: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def count_from_here(
        self, stop_at: int | str = 0, then: Callable[[], object] | None = None, *, cut: bool = True
    ) -> None:
        """Count anew. The transfer with the number `stop_at`, or the first of that name, waits while `then` is called.

        `then` is what happens while the transfer is on its way. After it the cable is cut; without `cut` all goes on.
        """
        self.transfers = []
        self._stopped.clear()
        self._then = then or (lambda: None)
        self._stop_at = stop_at
        self._cuts = cut

    def wait_cut(self) -> None:
        """The transfer was reached, and what was to happen to it has happened."""
        assert self._stopped.wait(BOUND), f"only {len(self.transfers)} transfers: {self.transfers}"

    def hold(self) -> None:
        """Carry nothing to the device until `let_go`, whatever the appliance asks for."""
        self._carries.clear()

    def let_go(self) -> None:
        """Carry again."""
        self._carries.set()

    def cut(self) -> None:
        """Pull it out, now."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cut)

    async def pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: set[asyncio.StreamWriter]
    ) -> None:
        """Carry the commands of one import to the device, up to the one at which the cable is cut."""
        self._loop = asyncio.get_running_loop()
        self._plugged |= ends
        try:
            while True:
                head = await reader.readexactly(protocol.COMMAND.size)
                command, data = protocol.command(head), b""
                if isinstance(command, Submit):
                    if not command.inbound and command.length:
                        data = await reader.readexactly(command.length)
                    if command.endpoint & 0x7F and await self._stop(command, data):
                        return
                if not self._carries.is_set():
                    await asyncio.to_thread(self._carries.wait)
                writer.write(head + data)
                await writer.drain()
        finally:
            self._plugged -= ends

    async def _stop(self, command: Submit, data: bytes) -> bool:
        """Count a transfer; whether it is the one that goes no further."""
        self.transfers.append(f"answer to {self._last()}" if command.inbound else _name(data))
        if self._stop_at not in (len(self.transfers), self.transfers[-1]) or self._stopped.is_set():
            return False
        await asyncio.to_thread(self._then)
        if self._cuts:
            self._cut()
        self._stopped.set()
        return self._cuts

    def _last(self) -> str:
        return next((name for name in reversed(self.transfers) if not name.startswith("answer")), "nothing")

    def _cut(self) -> None:
        for writer in self._plugged:
            writer.transport.abort()


class Cables:
    """Every device's cable, by its bus id: a USB/IP relay in front of the server that exports the devices."""

    def __init__(self) -> None:
        self._cables: defaultdict[str, Cable] = defaultdict(Cable)
        self._server: asyncio.Server | None = None
        self._upstream = ("", 0)

    def __getitem__(self, bus_id: str) -> Cable:
        return self._cables[bus_id]

    async def start(self, upstream: tuple[str, int]) -> int:
        """Listen in front of the server at `upstream`; the port."""
        self._upstream = upstream
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Pull everything out."""
        if self._server is not None:
            self._server.close()
        for cable in self._cables.values():
            cable.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(*self._upstream)
        ends = {writer, here}
        back = asyncio.create_task(_carry(there, writer))
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                opening = await reader.readexactly(protocol.OPERATION.size)
                here.write(opening)
                if protocol.operation(opening) is Request.IMPORT:
                    wanted = await reader.readexactly(protocol.BUS_ID_LENGTH)
                    here.write(wanted)
                    await self[wanted.rstrip(b"\0").decode()].pass_on(reader, here, ends)
                else:
                    await back
        finally:  # also when that has failed which was to happen to a transfer
            for end in ends:
                end.transport.abort()
            await back


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry what the device says to the appliance."""
    with suppress(ConnectionError):
        while part := await reader.read(_PART):
            writer.write(part)
            await writer.drain()
        writer.close()


def _name(message: bytes) -> str:
    """What a message to a device is: the command to the card in it, where that is a reader, else its first byte."""
    if message[:1] == bytes([TRANSFER]):
        return name_of(message[HEADER:]) or "unknown command"
    return f"message {message[:1].hex()}"
