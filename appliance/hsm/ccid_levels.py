# SPDX-License-Identifier: Apache-2.0
"""How an APDU gets through a reader: as it is, in several messages, or in blocks of T=1 (USB CCID, rev. 1.10, 3.2)."""

import struct
from typing import Protocol

from appliance.errors import DeviceError, ProtocolError
from appliance.hsm.atr import DEFAULT_RATE, T1, AnswerToReset
from appliance.hsm.ccid_messages import (
    DATA_BLOCK,
    GARBLED,
    HEADER,
    MUTE,
    OVERRUN,
    PARAMETERS,
    SET_PARAMETERS,
    TRANSFER,
    ClassDescriptor,
    Message,
    Messages,
    done,
)
from appliance.hsm.t1 import Link, garbled, silent
from appliance.hsm.t1_block import LONGEST_FIELD, PROLOGUE, redundancy_size

MOST_PARTS = 300  # messages of one answer

# dwFeatures (5.1)
NEGOTIATES = 0x40  # the reader comes to terms with the card by itself
SELECTS = 0x80  # the reader makes the protocol and parameters selection that follows from SetParameters
ANNOUNCES_ROOM = 0x400  # the reader sends the first IFS request by itself


class Level(Protocol):
    """What carries APDUs; it raises the errors of `Messages`, and of commands that fail."""

    def begin(self, answer_to_reset: bytes, deadline: float) -> None:
        """Agree with a card that has just got its power."""

    def exchange(self, apdu: bytes, deadline: float) -> bytes:
        """The response APDU."""


def level(messages: Messages, reader: ClassDescriptor) -> Level:
    """The one at which the reader works. Raises `DeviceError` when it is not spoken here."""
    match reader.features >> 16 & 0x07:
        case 0x01:
            return TpduLevel(messages, reader)
        case 0x02:
            return ShortApduLevel(messages)
        case 0x04:
            return ExtendedApduLevel(messages, reader.longest_message)
        case 0x00:
            raise DeviceError("the reader works at character level, which is not supported")
        case _:
            raise ProtocolError("the reader claims several exchange levels")


class ShortApduLevel:
    """One message is one APDU (dwFeatures 00020000)."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    def begin(self, answer_to_reset: bytes, deadline: float) -> None:
        """The reader agrees with the card by itself."""

    def exchange(self, apdu: bytes, deadline: float) -> bytes:
        """The response APDU. Raises `DeviceError` for an extended command, which such a reader does not understand."""
        if len(apdu) > 5 and not apdu[4]:
            raise DeviceError("the reader takes short commands only")
        return done(self._messages.ask(TRANSFER, DATA_BLOCK, deadline, data=apdu)).data


class ExtendedApduLevel:
    """An APDU may take several messages each way (00040000; wLevelParameter 6.1.4, bChainParameter 6.2.1)."""

    def __init__(self, messages: Messages, longest_message: int) -> None:
        self._messages = messages
        self._size = longest_message - HEADER.size
        if self._size < 1:
            raise ProtocolError("the reader has no room for data in its messages")

    def begin(self, answer_to_reset: bytes, deadline: float) -> None:
        """The reader agrees with the card by itself."""

    def exchange(self, apdu: bytes, deadline: float) -> bytes:
        """The response APDU."""
        parts = [apdu[start : start + self._size] for start in range(0, len(apdu), self._size)]
        for number, part in enumerate(parts):
            more_before, more_behind = number > 0, number < len(parts) - 1
            level = {(False, False): 0, (False, True): 1, (True, False): 2, (True, True): 3}[more_before, more_behind]
            message = self._transfer(level, part, deadline)
            if more_behind and (message.data or message.chain != 0x10):
                raise ProtocolError("the reader answers before it has the whole command")
        response = message.data
        for _ in range(MOST_PARTS):
            if message.chain not in (1, 3):
                return response
            message = self._transfer(0x10, b"", deadline)
            response += message.data
        raise ProtocolError("the reader's answer does not end")

    def _transfer(self, level: int, data: bytes, deadline: float) -> Message:
        return done(
            self._messages.ask(TRANSFER, DATA_BLOCK, deadline, specific=struct.pack("<BH", 0, level), data=data)
        )


class TpduLevel:
    """One message is one block of T=1 (00010000): the protocol is left to the host."""

    def __init__(self, messages: Messages, reader: ClassDescriptor) -> None:
        self._messages = messages
        self._reader = reader
        self._link: Link | None = None

    def begin(self, answer_to_reset: bytes, deadline: float) -> None:
        """Have reader and card agree on T=1 and its parameters.

        Raises `DeviceError` for a card that does not know it.
        """
        self._link = None
        card = AnswerToReset.parse(answer_to_reset)
        if not card.speaks_t1:
            raise DeviceError("the card does not speak the protocol T=1")
        room = self._reader.longest_message - HEADER.size - PROLOGUE - redundancy_size(card.crc)
        room = min(room, self._reader.longest_field, LONGEST_FIELD)
        if room < 1:
            raise ProtocolError("the reader has no room for data in its messages")
        self._agree(card, deadline)
        link = Link(self._swap, ifsc=card.ifsc, room=room, crc=card.crc)
        if not self._reader.features & ANNOUNCES_ROOM:
            link.announce_room(deadline)
        self._link = link

    def exchange(self, apdu: bytes, deadline: float) -> bytes:
        """The response APDU."""
        if self._link is None:
            raise DeviceError("the card has no power")
        return self._link.transmit(apdu, deadline)

    def _agree(self, card: AnswerToReset, deadline: float) -> None:
        """Protocol and parameters selection, and SetParameters (6.1.7).

        A card is not made faster than it is at first unless the reader sees to that: commands take far longer than
        their bytes.
        """
        if self._reader.features & NEGOTIATES:
            return
        rate = card.rate
        if card.specific is None and not self._reader.features & SELECTS:
            rate = DEFAULT_RATE
            if card.protocols[0] != T1:
                self._select(deadline)
        kind = 0x10 | card.inverse << 1 | card.crc
        parameters = bytes([rate, kind, card.guard_time, card.waiting, 0, card.ifsc, 0])
        done(self._messages.ask(SET_PARAMETERS, PARAMETERS, deadline, bytes([T1, 0, 0]), parameters))

    def _select(self, deadline: float) -> None:
        """Choose T=1 of several protocols (ISO/IEC 7816-3:2006, 9)."""
        request = bytes([0xFF, T1, 0xFF ^ T1])
        if done(self._messages.ask(TRANSFER, DATA_BLOCK, deadline, data=request)).data != request:
            raise DeviceError("the card does not agree to the protocol T=1")

    def _swap(self, block: bytes, waits: int, deadline: float) -> bytes:
        """One block each way; `waits` is bBWI (6.1.4)."""
        message = self._messages.ask(TRANSFER, DATA_BLOCK, deadline, struct.pack("<BH", waits, 0), block)
        match message.command, message.card, message.error:
            case 0, _, _:
                return message.data
            case _, 0, error if error == MUTE:
                raise silent()
            case _, 0, error if error in (GARBLED, OVERRUN):
                raise garbled()
        raise message.failure()
