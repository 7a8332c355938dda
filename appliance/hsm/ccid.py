# SPDX-License-Identifier: Apache-2.0
"""A card in a USB reader is powered and exchanges APDUs, in bounded time: the host side of CCID (USB CCID, rev. 1.10).

Three layers, top to bottom: ISO 7816-4 (chained commands, long answers), the reader's exchange level, CCID messages.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

from appliance.errors import DeviceTimeout, ProtocolError
from appliance.hsm.ccid_levels import ShortApduLevel, level
from appliance.hsm.ccid_messages import (
    BUSY,
    DATA_BLOCK,
    HEADER,
    LONGEST_DATA,
    POWER_OFF,
    POWER_ON,
    SLOT_STATUS,
    SLOT_STATUS_ANSWER,
    ClassDescriptor,
    Messages,
    done,
)
from appliance.hsm.usb import UsbPipe

INTERFACE_CLASS = 0x0B  # USB class "smart card"

POWER_TIMEOUT = 10.0  # seconds, for all voltages together
APDU_TIMEOUT = 60.0  # seconds, for one command with everything that belongs to it
STALE_TIMEOUT = 3.0  # seconds in which a reader that is not stuck takes a command, also when the machine is busy

SHORTEST_MESSAGE = 261 + HEADER.size  # bytes; some readers understate what they take (short APDU level)
MOST_PARTS = 300  # of one answer: more than 65536 bytes in parts of 256
LONGEST_ATR = 33  # bytes; ISO 7816-3, 8.2.1


@dataclass(frozen=True, slots=True)
class Command:
    """A command APDU (ISO 7816-4, 5.1), in the extended form when more than 256 bytes of answer are wanted.

    Data of a short one may be of any length and is then sent as a chain (5.1.1.1); of an extended one, 65535 bytes.
    """

    ins: int
    p1: int = 0
    p2: int = 0
    data: bytes = field(default=b"", repr=False)  # may be a PIN
    le: int | None = None  # bytes of answer wanted, 1..65536; None when none is expected
    cla: int = 0

    @property
    def extended(self) -> bool:
        """Whether the lengths take two bytes each; not every reader or card knows that form."""
        return self.le is not None and self.le > 256

    def encode(self) -> bytes:
        """The bytes of one APDU; `data` of a short one must be of at most 255 bytes."""
        head = bytes([self.cla, self.ins, self.p1, self.p2])
        size = 2 if self.extended else 1
        mark = b"\0" if self.extended else b""
        body = len(self.data).to_bytes(size) + self.data if self.data else b""
        return head + mark + body + (b"" if self.le is None else (self.le % (1 << 8 * size)).to_bytes(size))

    def links(self) -> Iterator[Self]:
        """The commands of the chain, the last with the original class byte."""
        size = 0xFFFF if self.extended else 0xFF
        parts = [self.data[start : start + size] for start in range(0, len(self.data), size)] or [b""]
        for part in parts[:-1]:
            yield replace(self, cla=self.cla | 0x10, data=part, le=None)
        yield replace(self, data=parts[-1])


class Response(NamedTuple):
    """A response APDU: the data, and the status word SW1-SW2."""

    data: bytes
    status: int


class Card:
    """The card in slot 0 of a CCID reader."""

    def __init__(self, pipe: UsbPipe, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `ProtocolError` when the reader is none, `DeviceError` when it works at a level not spoken here."""
        self._reader = ClassDescriptor.parse(pipe.class_descriptor)
        longest = min(max(self._reader.longest_message, SHORTEST_MESSAGE), HEADER.size + LONGEST_DATA)
        self._messages = Messages(pipe, longest, clock)
        self._level = level(self._messages, self._reader)

    @property
    def short_only(self) -> bool:
        """Whether the reader takes no extended APDU."""
        return isinstance(self._level, ShortApduLevel)

    def power_on(self) -> bytes:
        """Power the card, at the first voltage that it answers at, and return its answer to reset (ISO 7816-3, 8).

        Raises `DeviceError` when there is no card, it stays mute, or it cannot be spoken to.
        """
        self._wake()
        deadline = self._messages.deadline(POWER_TIMEOUT)
        answer_to_reset = self._power(deadline)
        self._level.begin(answer_to_reset, deadline)
        return answer_to_reset

    def power_off(self) -> None:
        """Take the power from the card, and with it every authorisation."""
        done(self._messages.ask(POWER_OFF, SLOT_STATUS_ANSWER, self._messages.deadline(POWER_TIMEOUT)))

    def transmit(self, command: Command, timeout: float = APDU_TIMEOUT) -> Response:
        """The card's answer; a chain is sent, and a long answer collected, before this returns.

        `timeout` is in seconds, for all of it. Of a chain that the card refuses, the answer is the refusal.
        """
        deadline = self._messages.deadline(timeout)
        *chained, last = command.links()
        for link in chained:
            response = self._transmit_one(link, deadline)
            if response.status != 0x9000:
                return response
        response = self._transmit_one(last, deadline)
        data = response.data
        for _ in range(MOST_PARTS):
            if response.status >> 8 != 0x61:  # ISO 7816-4, 5.3.4: that many bytes are left
                return Response(data, response.status)
            response = self._transmit_one(Command(0xC0, le=response.status & 0xFF or 256, cla=command.cla), deadline)
            data += response.data
        raise ProtocolError("the card's answer does not end")

    def _transmit_one(self, command: Command, deadline: float) -> Response:
        response = self._exchange_one(command, deadline)
        # ISO 7816-4, 5.3.4: the right length is in SW2. A command that asked for nothing is not sent twice.
        if response.status >> 8 == 0x6C and command.le is not None:
            return self._exchange_one(replace(command, le=response.status & 0xFF or 256), deadline)
        return response

    def _exchange_one(self, command: Command, deadline: float) -> Response:
        raw = self._level.exchange(command.encode(), deadline)
        if len(raw) < 2:
            raise ProtocolError("the card's answer has no status word")
        return Response(raw[:-2], int.from_bytes(raw[-2:]))

    def _power(self, deadline: float) -> bytes:
        automatic = [0] if self._reader.features & 0x08 else []
        selectable = [number for number in (1, 2, 3) if self._reader.voltages & 1 << (number - 1)]
        for voltage in automatic + selectable or [0]:
            message = self._messages.ask(POWER_ON, DATA_BLOCK, deadline, specific=bytes([voltage, 0, 0]))
            if message.command == 0 and 2 <= len(message.data) <= LONGEST_ATR:
                return message.data
            if message.command == 0:
                raise ProtocolError(f"the card's answer to reset has {len(message.data)} bytes")
            if message.card == 2 or message.error in BUSY:
                break
            self._messages.ask(POWER_OFF, SLOT_STATUS_ANSWER, deadline)
        raise message.failure()

    def _wake(self) -> None:
        """Find the reader ready; one that still holds the answer to somebody else's command takes none before."""
        try:
            self._messages.ask(SLOT_STATUS, SLOT_STATUS_ANSWER, self._messages.deadline(STALE_TIMEOUT))
        except DeviceTimeout:
            self._messages.drain(self._messages.deadline(STALE_TIMEOUT))
