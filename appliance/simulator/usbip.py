# SPDX-License-Identifier: Apache-2.0
"""The plugged devices are exported over USB/IP, so that a Linux kernel with vhci_hcd takes them for its own.

Whoever reaches the port may import every device and do with it what he likes: the protocol has no authentication. On an
address other than loopback, that is everybody on that network.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterable

from appliance.errors import ApplianceError, DeviceError
from appliance.hsm.model import Attachment
from appliance.log import get_logger
from appliance.simulator import usbip_protocol as protocol
from appliance.simulator.device import SimulatedDevice
from appliance.simulator.usbip_import import Import
from appliance.simulator.usbip_protocol import Export, Malformed, Request, Status

MOST_CONNECTIONS = 256  # at a time: one for each device of a bus, and as many that ask

_OPENING_TIMEOUT = 10.0  # seconds until a client has said what it wants
_CLOSE_TIMEOUT = 5.0  # seconds for the transfers under way, at the end

_log = get_logger(__name__)


class UsbIpUnavailable(ApplianceError):
    """The server cannot listen at the address."""


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ADDR:PORT, an IPv6 address in brackets. Raises `UsbIpUnavailable`."""
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise UsbIpUnavailable(f"USB/IP: {text!r} is not ADDR:PORT, such as 127.0.0.1:3240.")
    return host, int(port)


class UsbIpServer:
    """The server; `plugged` says which devices are on the bus, and is called in the loop that `start` runs in."""

    def __init__(self, plugged: Callable[[], Iterable[tuple[Attachment, SimulatedDevice]]]) -> None:
        self._plugged = plugged
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen, and say where: port 0 is any that is free. Raises `UsbIpUnavailable`."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port)
        except (socket.gaierror, UnicodeError) as error:
            raise UsbIpUnavailable(f"USB/IP: {host!r} is no address of this machine.") from error
        except OSError as error:
            # asyncio's own text says it all twice, and Python 3.13 gives no number where no address is of this machine.
            reason = os.strerror(error.errno or errno.EADDRNOTAVAIL)
            raise UsbIpUnavailable(f"USB/IP: cannot listen at {host}, port {port}: {reason}.") from error
        address: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        _log.info("usbip server listens", address=address[0], port=address[1])
        return address

    async def close(self) -> None:
        """Listen no more, and end every connection."""
        if self._server is not None:
            self._server.close()
        for writer in self._connections.values():
            writer.transport.abort()
        if self._connections:
            await asyncio.wait(set(self._connections), timeout=_CLOSE_TIMEOUT)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections[task] = writer
        peer = writer.get_extra_info("peername")
        try:
            await self._converse(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass  # the client left, or said nothing
        except DeviceError as problem:
            _log.warning("usbip client cannot be served", peer=peer, reason=str(problem))
        except Malformed as error:
            _log.warning("usbip client misbehaved", peer=peer, reason=str(error))
        finally:
            del self._connections[task]
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        async with asyncio.timeout(_OPENING_TIMEOUT):
            request = protocol.operation(await reader.readexactly(protocol.OPERATION.size))
            if request is Request.DEVICES:
                writer.write(self._list())
                await writer.drain()
                return
            wanted = await reader.readexactly(protocol.BUS_ID_LENGTH)
        await self._import(wanted.rstrip(b"\0").decode("ascii", "replace"), reader, writer)

    def _list(self) -> bytes:
        records = [Export(attachment, device.level).record_with_interfaces() for attachment, device in self._plugged()]
        return protocol.reply(Request.DEVICES, Status.OK, len(records).to_bytes(4) + b"".join(records))

    async def _import(self, bus_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plugged = [(Export(attachment), device) for attachment, device in self._plugged()]
        found = next(((export, device) for export, device in plugged if export.bus_id == bus_id), None)
        if found is None:
            await _refuse(writer, Status.GONE)
            return
        imported = Import(*found, reader, writer)
        try:
            await imported.claim()
        except OSError as error:
            await _refuse(writer, Status.BUSY if error.errno == errno.EBUSY else Status.GONE)
            return
        _log.info("usbip device imported", bus_id=bus_id)
        writer.write(protocol.reply(Request.IMPORT, Status.OK, found[0].record()))
        try:
            await imported.serve()
        finally:
            _log.info("usbip device let go", bus_id=bus_id)


async def _refuse(writer: asyncio.StreamWriter, status: Status) -> None:
    _log.info("usbip import refused", status=status.name.lower())
    writer.write(protocol.reply(Request.IMPORT, status))
    await writer.drain()
