# SPDX-License-Identifier: Apache-2.0
"""What the vendor's driver is to a vendor's PKCS#11 library: a socket through which it reaches the devices of one kind.

The devices are on any bus that pyusb reaches; one is claimed for the time of an exchange. What stands in the packets is
told in pkcs11_module/messages.c.
"""

import select
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from appliance.errors import DeviceError, DeviceGone, DeviceStall, DeviceTimeout, ProtocolError, StateError
from appliance.hsm.model import Attachment
from appliance.hsm.usb import UsbBus
from appliance.log import get_logger
from appliance.simulator.descriptors import VENDOR_CLASS
from appliance.simulator.families import LUNA, PKCS11, Family
from appliance.simulator.pkcs11_card import ANSWER, ERROR
from appliance.simulator.vendor_interface import HEADER, LONGEST_MESSAGE

_LONGEST_PACKET = 8192  # bytes
_MOST_SLOTS = 128  # that the library takes
_EXCHANGE = struct.Struct("<cBI")
_WRITE_TIMEOUT = 5.0  # seconds; a device takes a message at once, or it is broken
_GLANCE = 0.1  # seconds between two looks at whether a silent device is still waited for
_OK, _SLOT_ID_INVALID, _ARGUMENTS_BAD, _DEVICE_ERROR, _DEVICE_REMOVED, _TOKEN_NOT_PRESENT = 0, 3, 7, 0x30, 0x32, 0xE0
_TOKEN_PRESENT, _REMOVABLE_DEVICE, _HARDWARE_SLOT = 1, 2, 4  # flags of a slot
# By family: the flags and the name. Luna's library does not say that its tokens come and go.
SLOTS = {
    LUNA.name: (_HARDWARE_SLOT, b"Luna UHD Slot"),
    PKCS11.name: (_HARDWARE_SLOT | _REMOVABLE_DEVICE, b"Simulated Slot"),
}

_log = get_logger(__name__)


@dataclass(slots=True)
class _Slot:
    """A place for a device. One that is pulled out leaves it empty; the next one comes into the first that is."""

    where: tuple[int, int] | None = None  # bus and address of the device in it
    insertions: int = 0
    busy: threading.Lock = field(default_factory=threading.Lock)  # held for an exchange


class VendorDriver:
    """The driver for the devices of a family on `bus`, from `start` to `close`; for any number of libraries."""

    def __init__(self, bus: UsbBus, family: Family, path: Path) -> None:
        """`path` is the socket's."""
        self._bus = bus
        self._looks = family.looks
        self._flags, self._name = SLOTS[family.name]
        self._path = path
        self._slots: list[_Slot] = []
        self._lock = threading.Lock()  # of what follows, and of the slots
        self._left_out = 0  # devices for which there was no slot at the last look
        self._connections: dict[socket.socket, threading.Thread] = {}  # also some that have ended
        self._closing = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._accepting = threading.Thread(target=self._accept, name=f"driver {path.name}", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Listen; only the user who runs this process may connect. Raises `StateError`."""
        try:
            self._path.unlink(missing_ok=True)  # of one that was killed
            self._listener.bind(str(self._path))
            self._path.chmod(0o600)  # before it listens, nobody can connect
            self._listener.listen()
        except OSError as error:
            self._listener.close()
            raise StateError(self._path, f"no socket can be made there: {error.strerror or error}") from error
        self._accepting.start()

    def close(self) -> None:
        """Serve nobody any more, and wait no longer for what a device does not answer."""
        with self._lock:
            self._closing = True
            serving = list(self._connections.items())
        _shut(self._listener)
        self._accepting.join()
        self._listener.close()
        for connection, thread in serving:
            _shut(connection)
            thread.join()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._closing:
                    return
                time.sleep(_GLANCE)  # no descriptor is free, perhaps
                continue
            thread = threading.Thread(target=self._serve, args=[connection], name=f"{self._path.name}", daemon=True)
            with self._lock:
                if self._closing:
                    connection.close()
                    return
                self._connections = {one: its for one, its in self._connections.items() if its.is_alive()}
                self._connections[connection] = thread
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        """One library, until it leaves."""
        with connection:
            try:
                while packet := connection.recv(_LONGEST_PACKET):
                    connection.send(self._answer(packet, connection))
            except OSError:  # the library's process is gone
                pass

    def _answer(self, packet: bytes, connection: socket.socket) -> bytes:
        match packet[:1]:
            case b"L":
                return self._list()
            case b"X" if HEADER <= len(packet) - _EXCHANGE.size <= LONGEST_MESSAGE:
                _, number, insertion = _EXCHANGE.unpack_from(packet)
                code, answer = self._exchange(number, insertion, packet[_EXCHANGE.size :], connection)
                return struct.pack("<I", code) + answer
        return struct.pack("<I", _ARGUMENTS_BAD)

    # Which device is in which slot

    def _list(self) -> bytes:
        with self._lock:
            self._look()
            told = [
                struct.pack("<BI", self._flags | (_TOKEN_PRESENT if slot.where else 0), slot.insertions)
                for slot in self._slots
            ]
        return bytes([len(told)]) + b"".join(told) + self._name

    def _look(self) -> None:
        """Take devices that have left out of their slots, and put those that have come into the first empty ones.

        Those for which there is none are in none until one is empty.
        """
        try:
            there = set(self._bus.addresses([(self._looks.vendor_id, self._looks.product_id)]))
        except DeviceError as problem:
            _log.warning("simulated vendor's driver sees no bus", reason=problem.reason)
            there = set()
        for slot in self._slots:
            if slot.where not in there:
                slot.where = None
            there.discard(slot.where)
        coming = deque(sorted(there))
        while coming and (empty := self._empty_slot()):
            empty.where = coming.popleft()
            empty.insertions += 1
        if len(coming) > self._left_out:
            _log.warning("simulated vendor's driver has no slot left", slots=_MOST_SLOTS, left_out=len(coming))
        self._left_out = len(coming)

    def _empty_slot(self) -> _Slot | None:
        """The first one, perhaps a new one; None when there are as many as there may be."""
        slot = next((slot for slot in self._slots if slot.where is None), None)
        if slot is None and len(self._slots) < _MOST_SLOTS:
            slot = _Slot()
            self._slots.append(slot)
        return slot

    # One message

    def _exchange(self, number: int, insertion: int, message: bytes, connection: socket.socket) -> tuple[int, bytes]:
        """A code of PKCS#11, and what the device answers; `insertion` is the one that is meant, 0 for any."""
        with self._lock:
            self._look()
            if number >= len(self._slots):
                return _SLOT_ID_INVALID, b""
            slot = self._slots[number]
            where = slot.where
            if insertion not in (0, slot.insertions):
                return _DEVICE_REMOVED, b""
        if where is None:
            return _TOKEN_NOT_PRESENT, b""
        while not slot.busy.acquire(timeout=_GLANCE):
            if self._closing or _has_left(connection):
                return _DEVICE_ERROR, b""
        place = Attachment("/unknown", *where, 0, self._looks.vendor_id, self._looks.product_id)
        try:
            return _OK, self._transceive(place, message)
        except DeviceGone:
            return _DEVICE_REMOVED, b""
        except DeviceError as problem:
            _log.info("simulated vendor's driver had no answer", slot=number, reason=problem.reason)
            return _DEVICE_ERROR, b""
        finally:
            slot.busy.release()

    def _transceive(self, where: Attachment, message: bytes) -> bytes:
        """The device's answer, however long it takes: who stopped waiting must not leave it to the next one."""
        with self._bus.open(where, VENDOR_CLASS) as pipe:
            try:
                pipe.write(message, _WRITE_TIMEOUT)
                while True:
                    try:
                        return _whole(pipe.read(LONGEST_MESSAGE, _GLANCE), message)
                    except DeviceTimeout:
                        if self._closing:
                            raise
            except DeviceStall:
                pipe.clear_halt()
                raise


def _whole(answer: bytes, message: bytes) -> bytes:
    """The answer, if it is one to this message. Raises `ProtocolError`."""
    length = int.from_bytes(answer[1:HEADER], "big")
    if len(answer) != HEADER + length or answer[0] not in (message[0] | ANSWER, ERROR):
        raise ProtocolError("the answer is none to what was sent")
    return answer


def _has_left(connection: socket.socket) -> bool:
    """Whether nobody waits at the other end any more."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # it is already
        connection.shutdown(socket.SHUT_RDWR)
