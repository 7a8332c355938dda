# SPDX-License-Identifier: Apache-2.0
"""A card in a USB reader is powered and exchanges APDUs, in bounded time: the host side of CCID (USB CCID, rev. 1.10).

Three layers, top to bottom: ISO 7816-4 (chained commands, long answers), the reader's exchange level, CCID messages.
"""

import secrets
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

from appliance.errors import DeviceBusy, DeviceError, DeviceStall, DeviceTimeout, ProtocolError
from appliance.hsm.usb import UsbPipe

INTERFACE_CLASS = 0x0B  # USB class "smart card"

POWER_TIMEOUT = 10.0  # seconds, for all voltages together
APDU_TIMEOUT = 60.0  # seconds, for one command with everything that belongs to it
STALE_TIMEOUT = 1.0  # seconds in which a reader that is not stuck takes a command

SLOT = 0
HEADER = struct.Struct("<BIBB3s")  # type, length of the data, slot, sequence number, three bytes of the message
MOST_STALE = 16  # answers to earlier commands that are thrown away before one of ours
MOST_EMPTY = 16  # empty packets before an answer
LONGEST_DATA = 65544  # bytes in one message: the longest extended APDU
SHORTEST_MESSAGE = 261 + HEADER.size  # bytes; some readers understate what they take (short APDU level)
MOST_PARTS = 300  # of one answer: more than 65536 bytes in parts of 256
LONGEST_ATR = 33  # bytes; ISO 7816-3, 8.2.1

# Bulk-OUT and bulk-IN message types (6.1, 6.2)
POWER_ON, POWER_OFF, SLOT_STATUS, TRANSFER = 0x62, 0x63, 0x65, 0x6F
DATA_BLOCK, SLOT_STATUS_ANSWER = 0x80, 0x81

# What the reader says went wrong (table 6.2-2).
SENTENCES = {
    0xFE: "the card does not answer",
    0xFD: "the card's answer was garbled",
    0xFB: "the reader reports a hardware fault",
    0xF6: "the reader does not speak the card's protocol",
    0x00: "the reader does not know the command",
}
BUSY = (0xE0, 0xF2)


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


@dataclass(frozen=True, slots=True)
class ClassDescriptor:
    """What of the CCID class descriptor (5.1) matters here."""

    voltages: int  # bit 0: 5 V, bit 1: 3 V, bit 2: 1.8 V
    features: int
    longest_message: int  # bytes

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """The first CCID descriptor among the class-specific ones. Raises `ProtocolError`."""
        while len(raw) >= 2 and raw[0] >= 2:
            # 21 is the type of the standard; FF stands in readers that are older than it.
            if raw[0] == 54 and len(raw) >= 54 and raw[1] in (0x21, 0xFF):
                features, longest = struct.unpack_from("<II", raw, 40)
                return cls(voltages=raw[5], features=features, longest_message=longest)
            raw = raw[raw[0] :]
        raise ProtocolError("the reader has no CCID class descriptor")


@dataclass(frozen=True, slots=True)
class _Message:
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

    def ask(self, kind: int, answer: int, deadline: float, specific: bytes = bytes(3), data: bytes = b"") -> _Message:
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

    def _receive(self, deadline: float) -> _Message:
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
                    return _Message.parse(raw)
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


# How an APDU travels at the reader's exchange level: the command and a deadline in, the response out.
Exchange = Callable[[bytes, float], bytes]


class ShortApduLevel:
    """One message is one APDU (dwFeatures 00020000)."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    def __call__(self, apdu: bytes, deadline: float) -> bytes:
        """The response APDU."""
        return _done(self._messages.ask(TRANSFER, DATA_BLOCK, deadline, data=apdu)).data


class ExtendedApduLevel:
    """An APDU may take several messages each way (00040000; wLevelParameter 6.1.4, bChainParameter 6.2.1)."""

    def __init__(self, messages: Messages, longest_message: int) -> None:
        self._messages = messages
        self._size = longest_message - HEADER.size
        if self._size < 1:
            raise ProtocolError("the reader has no room for data in its messages")

    def __call__(self, apdu: bytes, deadline: float) -> bytes:
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

    def _transfer(self, level: int, data: bytes, deadline: float) -> _Message:
        return _done(
            self._messages.ask(TRANSFER, DATA_BLOCK, deadline, specific=struct.pack("<BH", 0, level), data=data)
        )


class Card:
    """The card in slot 0 of a CCID reader."""

    def __init__(self, pipe: UsbPipe, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `ProtocolError` when the reader is none, `DeviceError` when it works at a level not spoken here."""
        self._reader = ClassDescriptor.parse(pipe.class_descriptor)
        longest = min(max(self._reader.longest_message, SHORTEST_MESSAGE), HEADER.size + LONGEST_DATA)
        self._messages = Messages(pipe, longest, clock)
        self._exchange = self._level()

    @property
    def short_only(self) -> bool:
        """Whether the reader takes no extended APDU."""
        return isinstance(self._exchange, ShortApduLevel)

    def _level(self) -> Exchange:
        match self._reader.features >> 16 & 0x07:
            case 0x02:
                return ShortApduLevel(self._messages)
            case 0x04:
                return ExtendedApduLevel(self._messages, self._reader.longest_message)
            case 0x01:
                raise DeviceError("the reader works at TPDU level, which is not supported")
            case 0x00:
                raise DeviceError("the reader works at character level, which is not supported")
            case _:
                raise ProtocolError("the reader claims several exchange levels")

    def power_on(self) -> bytes:
        """Power the card, at the first voltage that it answers at, and return its answer to reset (ISO 7816-3, 8).

        Raises `DeviceError` when there is no card or it stays mute.
        """
        deadline = self._messages.deadline(POWER_TIMEOUT)
        self._wake()
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

    def power_off(self) -> None:
        """Take the power from the card, and with it every authorisation."""
        _done(self._messages.ask(POWER_OFF, SLOT_STATUS_ANSWER, self._messages.deadline(POWER_TIMEOUT)))

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
        raw = self._exchange(command.encode(), deadline)
        if len(raw) < 2:
            raise ProtocolError("the card's answer has no status word")
        return Response(raw[:-2], int.from_bytes(raw[-2:]))

    def _wake(self) -> None:
        """Find the reader ready; one that still holds the answer to somebody else's command takes none before."""
        try:
            self._messages.ask(SLOT_STATUS, SLOT_STATUS_ANSWER, self._messages.deadline(STALE_TIMEOUT))
        except DeviceTimeout:
            self._messages.drain(self._messages.deadline(STALE_TIMEOUT))


def _done(message: _Message) -> _Message:
    if message.command:
        raise message.failure()
    return message
