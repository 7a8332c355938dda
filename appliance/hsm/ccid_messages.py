# SPDX-License-Identifier: Apache-2.0
"""A CCID reader takes commands and answers them, in bounded time: the messages (USB CCID, rev. 1.10, 6)."""

import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from appliance.errors import DeviceBusy, DeviceError, DeviceStall, DeviceTimeout, ProtocolError
from appliance.hsm.usb import UsbPipe

SLOT = 0
HEADER = struct.Struct("<BIBB3s")  # type, length of the data, slot, sequence number, three bytes of the message
MOST_STALE = 16  # answers to earlier commands that are thrown away before one of ours
MOST_EMPTY = 16  # empty packets before an answer
LONGEST_DATA = 65544  # bytes in one message: the longest extended APDU

# Bulk-OUT and bulk-IN message types (6.1, 6.2)
SET_PARAMETERS, POWER_ON, POWER_OFF, SLOT_STATUS, TRANSFER = 0x61, 0x62, 0x63, 0x65, 0x6F
DATA_BLOCK, SLOT_STATUS_ANSWER, PARAMETERS = 0x80, 0x81, 0x82

# What the reader says went wrong (table 6.2-2).
MUTE, GARBLED, OVERRUN = 0xFE, 0xFD, 0xFC
SENTENCES = {
    MUTE: "the card does not answer",
    GARBLED: "the card's answer was garbled",
    OVERRUN: "the card's answer was garbled",
    0xFB: "the reader reports a hardware fault",
    0xF6: "the reader does not speak the card's protocol",
    0x00: "the reader does not know the command",
}
BUSY = (0xE0, 0xF2)


@dataclass(frozen=True, slots=True)
class ClassDescriptor:
    """What of the CCID class descriptor (5.1) matters here."""

    voltages: int  # bit 0: 5 V, bit 1: 3 V, bit 2: 1.8 V
    features: int
    longest_message: int  # bytes
    longest_field: int = 254  # bytes that the reader takes in a block of T=1 (dwMaxIFSD)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """The first CCID descriptor among the class-specific ones. Raises `ProtocolError`."""
        while len(raw) >= 2 and raw[0] >= 2:
            # 21 is the type of the standard; FF stands in readers that are older than it.
            if raw[0] == 54 and len(raw) >= 54 and raw[1] in (0x21, 0xFF):
                features, longest = struct.unpack_from("<II", raw, 40)
                (longest_field,) = struct.unpack_from("<I", raw, 28)
                return cls(raw[5], features, longest, longest_field)
            raw = raw[raw[0] :]
        raise ProtocolError("the reader has no CCID class descriptor")


@dataclass(frozen=True, slots=True)
class Message:
    """A message from the reader."""

    kind: int
    slot: int
    sequence: int
    card: int  # 0: active, 1: inactive, 2: absent
    command: int  # 0: done, 1: failed, 2: more time is needed
    error: int
    chain: int
    data: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """The message of these bytes, which begin with a whole header."""
        kind, _, slot, sequence, (status, error, chain) = HEADER.unpack_from(raw)
        return cls(kind, slot, sequence, status & 0x03, status >> 6, error, chain, raw[HEADER.size :])

    def failure(self) -> DeviceError:
        """The error that a failed command comes to."""
        if self.card == 2:
            return DeviceError("there is no card in the reader")
        if self.error in BUSY:
            return DeviceBusy("the reader is busy with another command")
        return DeviceError(SENTENCES.get(self.error, f"the reader reports error {self.error:02X}"))


class Messages:
    """CCID commands and their answers on slot 0 of one reader, one at a time."""

    def __init__(self, pipe: UsbPipe, longest: int, clock: Callable[[], float]) -> None:
        self._pipe = pipe
        self._longest = longest
        self._clock = clock
        # A reader may still hold the answer to the last command of somebody who was killed: start anywhere else.
        self._sequence = secrets.randbelow(256)

    def deadline(self, seconds: float) -> float:
        """The moment that far from now."""
        return self._clock() + seconds

    def ask(self, kind: int, answer: int, deadline: float, specific: bytes = bytes(3), data: bytes = b"") -> Message:
        """Send one command and return its answer, which may say that the command failed.

        Raises `ProtocolError` for an answer that is none, `DeviceTimeout` at the deadline however often the reader asks
        for more time, and what `UsbPipe` raises.
        """
        self._sequence = (self._sequence + 1) & 0xFF
        self._send(HEADER.pack(kind, len(data), SLOT, self._sequence, specific) + data, deadline)
        stale = 0
        while True:
            message = self._receive(deadline)
            if message.sequence != self._sequence:
                stale += 1
                if stale > MOST_STALE:
                    raise ProtocolError("the reader answers only commands that were not sent")
                continue
            if message.slot != SLOT:
                raise ProtocolError(f"the reader answers for slot {message.slot}")
            match message.command:
                case 0 if message.kind == answer:
                    return message
                case 1:  # of whatever type: some readers answer every bad command alike
                    return message
                case 2:
                    continue
            raise ProtocolError(f"the reader answers with message {message.kind:02X}, status {message.command}")

    def drain(self, deadline: float) -> None:
        """Throw one answer away."""
        self._receive(deadline)

    def _send(self, raw: bytes, deadline: float) -> None:
        try:
            self._pipe.write(raw, self._left(deadline))
        except DeviceStall:
            self._pipe.clear_halt()  # for the next command; whether this one was taken is not known
            raise

    def _receive(self, deadline: float) -> Message:
        """The next message, put together by the length in its header."""
        raw = b""
        empty = 0
        while True:
            part = self._read(deadline)
            if not part and not raw and empty < MOST_EMPTY:
                empty += 1  # the empty packet that ends a message of whole packets, when that was read to its length
                continue
            raw += part
            if len(raw) >= HEADER.size:
                total = HEADER.size + int.from_bytes(raw[1:5], "little")
                if total > HEADER.size + LONGEST_DATA or len(raw) > total:
                    raise ProtocolError("the reader's message does not have the length that it announces")
                if len(raw) == total:
                    return Message.parse(raw)
            if not part or len(part) % self._pipe.packet_size:
                raise ProtocolError("the reader's message ends too early")

    def _read(self, deadline: float) -> bytes:
        # Asking for more than the longest message leaves room for the empty packet behind one of whole packets:
        # a reader may take no further command until that has been read.
        size = self._longest + 1
        try:
            return self._pipe.read(size, self._left(deadline))
        except DeviceStall:
            self._pipe.clear_halt()
            return self._pipe.read(size, self._left(deadline))

    def _left(self, deadline: float) -> float:
        left = deadline - self._clock()
        if left <= 0:
            raise DeviceTimeout("the device did not answer in time")
        return left


def done(message: Message) -> Message:
    """The answer of a command that did not fail. Raises the error of one that did."""
    if message.command:
        raise message.failure()
    return message
