# SPDX-License-Identifier: Apache-2.0
"""The USB descriptors of a simulated token, byte for byte as a host reads them.

Layouts: USB 2.0, 9.6, and the CCID specification 1.1, 5.1.
"""

import struct
from dataclasses import dataclass
from enum import StrEnum

CCID_CLASS, VENDOR_CLASS = 0x0B, 0xFF
OUT, IN = 0x01, 0x81  # the bulk endpoints
PACKET = 64  # bytes; full speed
LONGEST_MESSAGE = 271  # bytes of a CCID message: a short APDU of 261 and the header

MANUFACTURER = "appliance-console"
_ENGLISH = 0x0409

_DEVICE, _CONFIGURATION, _STRING, _INTERFACE, _ENDPOINT, _CCID = 1, 2, 3, 4, 5, 0x21


class Level(StrEnum):
    """What the host exchanges with the device: with a reader (CCID 1.1, 3.2), or with one that is no reader.

    ``reader`` in a token file says which.
    """

    APDU = "apdu"  # short ones
    EXTENDED = "extended-apdu"  # of any length, in parts where a message is too short for them
    TPDU = "tpdu"  # blocks of T=1
    VENDOR = "vendor"  # messages of the maker's own, without CCID


READERS = (Level.APDU, Level.EXTENDED, Level.TPDU)


# Configuration by ATR, voltage, clock and baud rate are automatic. At the APDU levels so are the negotiation of
# parameters and IFSD; at TPDU level only the selection of what the host has set, as in a Nitrokey HSM.
FEATURES = {Level.APDU: 0x0002047A, Level.EXTENDED: 0x0004047A, Level.TPDU: 0x000100BA}
_CLOCK, _RATE = 4000, 10753  # kHz and bit/s: one each

CCID = {
    level: struct.pack(
        "<BBHBBLLLBLLBLLLLLBBHBB",
        *(54, _CCID, 0x0110, 0, 0x07),  # one slot; 5, 3 and 1.8 V
        0x00000002,  # T=1
        *(_CLOCK, _CLOCK, 0, _RATE, _RATE, 0),
        *(254, 0, 0),  # the longest information field; no synchronous protocols; no mechanics
        *(features, LONGEST_MESSAGE),
        *(0xFF, 0xFF, 0, 0, 1),  # class bytes echoed; no display, no PIN pad; one slot busy at a time
    )
    for level, features in FEATURES.items()
}
ENDPOINTS = tuple(struct.pack("<BBBBHB", 7, _ENDPOINT, address, 0x02, PACKET, 0) for address in (OUT, IN))


@dataclass(frozen=True, slots=True)
class Looks:
    """What devices of a family say of themselves."""

    vendor_id: int
    product_id: int
    product: str


def interface(level: Level) -> bytes:
    """The descriptor of the one interface."""
    kind = CCID_CLASS if level in READERS else VENDOR_CLASS
    return struct.pack("<BBBBBBBBB", 9, _INTERFACE, 0, 0, 2, kind, 0, 0, 0)


def class_descriptor(level: Level) -> bytes:
    """What a reader says of itself behind its interface; empty for a device that is none."""
    return CCID.get(level, b"")


def configuration(level: Level) -> bytes:
    """The descriptor of the one configuration, without what belongs to it."""
    length = 9 + len(interface(level)) + len(class_descriptor(level)) + sum(map(len, ENDPOINTS))
    return struct.pack("<BBHBBBBB", 9, _CONFIGURATION, length, 1, 1, 0, 0x80, 50)


def device(looks: Looks, usb_serial: str) -> bytes:
    """The device descriptor; a device without a serial number refers to no such string."""
    strings = (1, 2, 3 if usb_serial else 0)
    ids = (looks.vendor_id, looks.product_id)
    return struct.pack("<BBHBBBBHHHBBBB", 18, _DEVICE, 0x0200, 0, 0, 0, PACKET, *ids, 0x0010, *strings, 1)


def descriptor(looks: Looks, usb_serial: str, level: Level, value: int) -> bytes | None:
    """The answer to GET_DESCRIPTOR with this wValue, in full; None when there is no such descriptor."""
    strings = ["", MANUFACTURER, looks.product, *([usb_serial] if usb_serial else [])]
    match divmod(value, 0x100):
        case 1, 0:
            return device(looks, usb_serial)
        case 2, 0:
            return b"".join((configuration(level), interface(level), class_descriptor(level), *ENDPOINTS))
        case 3, 0:
            return struct.pack("<BBH", 4, _STRING, _ENGLISH)
        case 3, index if index < len(strings):
            text = strings[index].encode("utf-16-le")
            return bytes([2 + len(text), _STRING]) + text
        case _:
            return None
