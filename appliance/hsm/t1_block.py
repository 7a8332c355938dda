# SPDX-License-Identifier: Apache-2.0
"""The blocks of the protocol T=1, as values and as bytes (ISO/IEC 7816-3:2006, 11.3)."""

from enum import IntEnum
from typing import NamedTuple, Self

from appliance.errors import DeviceError, ProtocolError

LONGEST_FIELD = 254  # bytes of information in one block (11.3.2.3)
PROLOGUE = 3  # bytes: NAD, PCB, LEN
_SUPERVISORY, _RECEIVE_READY = 0xC0, 0x80
_ANSWERED = 0x20  # in an S-block: it is the response
_SEQUENCE, _MORE = 0x40, 0x20  # in an I-block
_EXPECTED = 0x10  # in an R-block: N(R)


class Trouble(IntEnum):
    """What an R-block says of the block before it (11.3.2.2)."""

    NONE = 0
    GARBLED = 1  # the redundancy code, or the parity of a character
    OTHER = 2


class Request(IntEnum):
    """The PCB of an S-block that asks for something (11.3.2.2)."""

    RESYNCH = 0xC0
    IFS = 0xC1
    ABORT = 0xC2
    WTX = 0xC3


class BlockFault(Exception):
    """In place of a block came none, or none that can be used; `error` is what it comes to if it goes on like that."""

    def __init__(self, error: DeviceError, trouble: Trouble = Trouble.OTHER) -> None:
        super().__init__(error.reason)
        self.error = error
        self.trouble = trouble


class Block(NamedTuple):
    """A block with the node address 0: its protocol control byte and its information field."""

    pcb: int
    data: bytes = b""

    @classmethod
    def information(cls, sequence: int, more: bool, data: bytes) -> Self:
        """An I-block: a part of an APDU, the last one unless there is more."""
        return cls(sequence * _SEQUENCE | more * _MORE, data)

    @classmethod
    def ready(cls, expected: int, trouble: Trouble = Trouble.NONE) -> Self:
        """An R-block: the I-block with this number is awaited, for the first time or again."""
        return cls(_RECEIVE_READY | expected * _EXPECTED | trouble)

    @classmethod
    def response(cls, request: int, data: bytes = b"") -> Self:
        """The S-block that answers a request; it repeats its data."""
        return cls(request | _ANSWERED, data)

    @property
    def is_information(self) -> bool:
        """Whether it is an I-block."""
        return not self.pcb & 0x80

    @property
    def is_ready(self) -> bool:
        """Whether it is an R-block."""
        return self.pcb & 0xC0 == _RECEIVE_READY

    @property
    def is_supervisory(self) -> bool:
        """Whether it is an S-block."""
        return self.pcb & 0xC0 == _SUPERVISORY

    @property
    def number(self) -> int:
        """N(S) of an I-block, N(R) of an R-block."""
        return int(bool(self.pcb & (_SEQUENCE if self.is_information else _EXPECTED)))

    @property
    def more(self) -> bool:
        """Whether an I-block is not the last of its chain."""
        return self.is_information and bool(self.pcb & _MORE)

    def encode(self, crc: bool = False) -> bytes:
        """The bytes, with the redundancy code."""
        head = bytes([0, self.pcb, len(self.data)]) + self.data
        return head + _redundancy(head, crc)

    @classmethod
    def decode(cls, raw: bytes, crc: bool = False) -> Self:
        """The block of these bytes. Raises `BlockFault` unless they are exactly one that the standard knows."""
        size = redundancy_size(crc)
        if len(raw) < PROLOGUE + size or len(raw) != PROLOGUE + raw[2] + size:
            raise BlockFault(ProtocolError("the card's block does not have the length that it announces"))
        if _redundancy(raw[:-size], crc) != raw[-size:]:
            raise BlockFault(ProtocolError("the card's block was garbled"), Trouble.GARBLED)
        block = cls(raw[1], raw[PROLOGUE:-size])
        if raw[0] or raw[2] > LONGEST_FIELD or not block._is_known():
            raise BlockFault(ProtocolError(f"the card sends a block {raw[:PROLOGUE].hex().upper()}"))
        return block

    def _is_known(self) -> bool:
        if self.is_information:
            return not self.pcb & 0x1F
        if self.is_ready:
            return not self.data and not self.pcb & 0x20 and self.pcb & 0x0F <= Trouble.OTHER
        return True  # of an S-block whoever gets it makes what it can


def redundancy_size(crc: bool) -> int:
    """Bytes behind the information field."""
    return 2 if crc else 1


def _redundancy(data: bytes, crc: bool) -> bytes:
    """The exclusive-or of all bytes, or the CRC of ISO/IEC 13239 as T=1 readers compute it (11.3.4)."""
    if not crc:
        check = 0
        for byte in data:
            check ^= byte
        return bytes([check])
    check = 0xFFFF
    for byte in data:
        check ^= byte
        for _ in range(8):
            check = check >> 1 ^ (0x8408 if check & 1 else 0)
    return check.to_bytes(2)
