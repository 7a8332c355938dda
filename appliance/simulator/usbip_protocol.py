# SPDX-License-Identifier: Apache-2.0
"""USB/IP as bytes: what a client asks and what a server answers, checked and bounded.

Layouts: Documentation/usb/usbip_protocol.rst of the Linux kernel. All numbers are big-endian but those in SETUP.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from appliance.errors import ApplianceError
from appliance.hsm.model import Attachment
from appliance.simulator import descriptors

VERSION = 0x0111
LONGEST_TRANSFER = 1 << 20  # bytes; Linux cuts longer ones into pieces

OPERATION = struct.Struct(">HHI")  # version, code, status
BUS_ID_LENGTH = 32
COMMAND = struct.Struct(">IIIIIIIIII8s")  # command, number, device, direction, endpoint; five fields; SETUP

_DEVICE = struct.Struct(">256s32sIIIHHHBBBBBB")  # path, bus id; bus, number, speed; ids; class; configurations
_INTERFACE = struct.Struct(">BBBx")
_SETUP = struct.Struct("<BBHHH")  # USB 2.0, table 9-2
_FULL_SPEED = 2  # enum usb_device_speed
_IN = 1
_SHORT_NOT_OK, _ZERO_PACKET = 0x01, 0x40  # transfer_flags
_NO_PACKETS = (0, 0xFFFFFFFF)  # number_of_packets of what is not isochronous


class Malformed(ApplianceError):
    """A client sent something that the protocol does not allow; its connection ends."""


class Request(IntEnum):
    """What a connection begins with; the answer's code is the same without the highest bit."""

    DEVICES = 0x8005
    IMPORT = 0x8003


class Status(IntEnum):
    """How a request ended, in the words of usbip(8)."""

    OK = 0
    BUSY = 2
    GONE = 4


class Kind(IntEnum):
    """The commands after an import, and their answers."""

    SUBMIT = 1
    UNLINK = 2
    SUBMITTED = 3
    UNLINKED = 4


@dataclass(frozen=True, slots=True)
class Setup:
    """The SETUP packet of a control transfer."""

    kind: int
    request: int
    value: int
    index: int
    length: int  # bytes

    @property
    def inbound(self) -> bool:
        """Whether the data stage, if there is one, goes to the host."""
        return bool(self.kind & 0x80)


@dataclass(frozen=True, slots=True)
class Submit:
    """One transfer is asked for; for one to the device, that many bytes follow."""

    number: int
    device: int
    endpoint: int  # with bit 7 for one to the host
    length: int  # bytes
    setup: Setup
    short_not_ok: bool
    zero_packet: bool

    @property
    def inbound(self) -> bool:
        """Whether the data goes to the host."""
        return bool(self.endpoint & 0x80)


@dataclass(frozen=True, slots=True)
class Unlink:
    """The transfer `target` is taken back."""

    number: int
    device: int
    target: int


@dataclass(frozen=True, slots=True)
class Export:
    """How one plugged device is shown."""

    attachment: Attachment
    level: descriptors.Level = descriptors.Level.APDU

    @property
    def bus_id(self) -> str:
        """Such as 1-2. The number after the bus is the address, new with each plug-in."""
        return f"{self.attachment.bus}-{self.attachment.address}"

    @property
    def number(self) -> int:
        """By what a client means the device once it is imported."""
        return self.attachment.bus << 16 | self.attachment.address

    def record(self) -> bytes:
        """The device as OP_REP_DEVLIST and OP_REP_IMPORT describe it."""
        found = self.attachment
        path = f"/sys/devices/simulated/usb{found.bus}/{self.bus_id}".encode()
        looks = descriptors.Looks(found.vendor_id, found.product_id, found.product)
        device = struct.unpack("<BBHBBBBHHHBBBB", descriptors.device(looks, found.usb_serial))
        ids, classes, configurations = device[7:10], device[3:6], device[13]
        configured, interfaces = 1, 1
        return _DEVICE.pack(
            *(path, self.bus_id.encode(), found.bus, found.address, _FULL_SPEED),
            *(*ids, *classes, configured, configurations, interfaces),
        )

    def record_with_interfaces(self) -> bytes:
        """The same with what OP_REP_DEVLIST says of each interface."""
        return self.record() + _INTERFACE.pack(*descriptors.interface(self.level)[5:8])


def operation(data: bytes) -> Request:
    """What a connection is for. Raises `Malformed`."""
    version, code, _ = OPERATION.unpack(data)
    if version != VERSION:
        raise Malformed(f"version {version:04x}")
    try:
        return Request(code)
    except ValueError as error:
        raise Malformed(f"operation {code:04x}") from error


def reply(request: Request, status: Status, body: bytes = b"") -> bytes:
    """The answer to a request."""
    return OPERATION.pack(VERSION, request & 0x7FFF, status) + body


def command(data: bytes) -> Submit | Unlink:
    """A command, without the data that may follow it. Raises `Malformed`."""
    kind, number, device, direction, endpoint, first, length, _, packets, _, setup = COMMAND.unpack(data)
    match kind:
        case Kind.UNLINK:
            return Unlink(number, device, first)
        case Kind.SUBMIT:
            if direction > _IN or endpoint > 15 or length > LONGEST_TRANSFER or packets not in _NO_PACKETS:
                raise Malformed(f"a transfer of {length} bytes, endpoint {endpoint}, direction {direction}")
            address = endpoint | (0x80 if direction == _IN else 0)
            flags = bool(first & _SHORT_NOT_OK), bool(first & _ZERO_PACKET)
            return Submit(number, device, address, length, Setup(*_SETUP.unpack(setup)), *flags)
        case _:
            raise Malformed(f"command {kind:08x}")


@dataclass(frozen=True, slots=True)
class Result:
    """How a transfer ended: 0 or a negative errno, the bytes that went over, and those of them for the host."""

    status: int
    length: int = 0
    data: bytes = b""

    @classmethod
    def received(cls, data: bytes, status: int = 0) -> Self:
        """A transfer to the host."""
        return cls(status, len(data), data)


def submitted(number: int, result: Result) -> bytes:
    """USBIP_RET_SUBMIT; device, direction and endpoint are not repeated in answers."""
    status = result.status & 0xFFFFFFFF
    return COMMAND.pack(Kind.SUBMITTED, number, 0, 0, 0, status, result.length, 0, 0, 0, bytes(8)) + result.data


def unlinked(number: int, status: int) -> bytes:
    """USBIP_RET_UNLINK: -ECONNRESET when the transfer was taken back, 0 when it was over before."""
    return COMMAND.pack(Kind.UNLINKED, number, 0, 0, 0, status & 0xFFFFFFFF, 0, 0, 0, 0, bytes(8))
