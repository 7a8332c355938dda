# SPDX-License-Identifier: Apache-2.0
"""A USB/IP server in this process: hands the first device of a pyusb backend to one client at a time, on loopback."""

import select
import socket
import struct
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from usb.core import USBError, USBTimeoutError

from tests.support.usbip_client import (
    CMD_UNLINK,
    DEVICE,
    DIR_IN,
    OPERATION,
    REP_DEVLIST,
    REP_IMPORT,
    REQ_DEVLIST,
    RET_SUBMIT,
    RET_UNLINK,
    URB,
    VERSION,
    receive,
)

BUS_ID = b"1-1"
POLL = 10  # milliseconds that a pending read looks for data before the client is listened to again
ECONNRESET = 104


class UsbIpServer:
    """The server. `backend` may be anything that is a pyusb backend and answers descriptors over endpoint 0."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._thread = threading.Thread(target=self._serve)

    @contextmanager
    def running(self) -> Iterator["UsbIpServer"]:
        """Serve until the block ends; clients have to be gone by then."""
        self._thread.start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._thread.join(10)
            assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock, suppress(EOFError, ConnectionError):
                self._serve_one(sock)

    def _serve_one(self, sock: socket.socket) -> None:
        _, code, _ = OPERATION.unpack(receive(sock, OPERATION.size))
        places = list(self._backend.enumerate_devices())
        if code == REQ_DEVLIST:
            records = b"".join(map(self._record, places[:1]))
            sock.sendall(OPERATION.pack(VERSION, REP_DEVLIST, 0) + len(places[:1]).to_bytes(4) + records)
            return
        wanted = receive(sock, 32).rstrip(b"\0")
        if not places or wanted != BUS_ID:
            sock.sendall(OPERATION.pack(VERSION, REP_IMPORT, 1))
            return
        sock.sendall(OPERATION.pack(VERSION, REP_IMPORT, 0) + self._record(places[0]))
        handle = self._backend.open_device(places[0])
        try:
            self._backend.claim_interface(handle, 0)
            self._transfers(sock, handle)
        finally:
            self._backend.close_device(handle)

    def _record(self, place: Any) -> bytes:
        device = self._backend.get_device_descriptor(place)
        ids = (device.idVendor, device.idProduct, device.bcdDevice)
        return DEVICE.pack(b"/sys/devices/1-1", BUS_ID, 1, 2, 2, *ids, 0, 0, 0, 0, 1, 0)

    def _transfers(self, sock: socket.socket, handle: Any) -> None:
        pending: tuple[int, int, int] | None = None  # a read that waits: number, endpoint, size
        while True:
            if pending is None or select.select([sock], [], [], 0)[0]:
                pending = self._command(sock, handle, pending)
            if pending is not None:
                number, endpoint, size = pending
                buffer = array("B", bytes(size))
                try:
                    length = self._backend.bulk_read(handle, endpoint | 0x80, 0, buffer, POLL)
                except USBTimeoutError:
                    continue
                except USBError as error:
                    _answer(sock, RET_SUBMIT, number, -(error.errno or 5))
                else:
                    _answer(sock, RET_SUBMIT, number, 0, buffer.tobytes()[:length])
                pending = None

    def _command(
        self, sock: socket.socket, handle: Any, pending: tuple[int, int, int] | None
    ) -> tuple[int, int, int] | None:
        command, number, _, direction, endpoint, flags, size, *_, setup = URB.unpack(receive(sock, URB.size))
        if command == CMD_UNLINK:
            found = pending is not None and pending[0] == flags
            _answer(sock, RET_UNLINK, number, -ECONNRESET if found else 0)
            return None if found else pending
        data = array("B", bytes(size) if direction == DIR_IN else receive(sock, size))
        if endpoint and direction == DIR_IN:
            return number, endpoint, size
        try:
            if endpoint:
                length = self._backend.bulk_write(handle, endpoint, 0, data, 1000)
            else:
                kind, request, value, index, _ = struct.unpack("<BBHHH", setup)
                length = self._backend.ctrl_transfer(handle, kind, request, value, index, data, 1000)
        except USBError as error:
            _answer(sock, RET_SUBMIT, number, -(error.errno or 5))
        else:
            _answer(sock, RET_SUBMIT, number, 0, data.tobytes()[:length] if direction == DIR_IN else b"")
        return pending


def _answer(sock: socket.socket, command: int, number: int, status: int, data: bytes = b"") -> None:
    sock.sendall(URB.pack(command, number, 0, 0, 0, status & 0xFFFFFFFF, len(data), 0, 0, 0, bytes(8)) + data)
