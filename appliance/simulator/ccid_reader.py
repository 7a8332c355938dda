# SPDX-License-Identifier: Apache-2.0
"""The device's side of CCID: one slot, one card that is always in it; APDUs or blocks are passed on as they come.

At extended APDU level an APDU comes and goes in as many messages as it takes.

Numbers in parentheses are sections of the CCID specification, revision 1.1.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

from appliance.simulator.descriptors import LONGEST_MESSAGE

HEADER = 10  # bytes
_ROOM = LONGEST_MESSAGE - HEADER  # bytes of an APDU in one message
_LONGEST_APDU = 65544  # bytes: header, data and lengths of an extended command

_ACTIVE, _INACTIVE, _ABSENT = 0, 1, 2  # bmICCStatus (6.2.6)
_FAILED, _TIME_EXTENSION = 0x40, 0x80  # bmCommandStatus
_LENGTH, _SLOT, _POWER, _PROTOCOL, _LEVEL = 1, 5, 7, 7, 8  # offsets of a field that is wrong, as bError tells them
_DATA_BLOCK, _SLOT_STATUS, _PARAMETERS, _ESCAPE, _DATA_RATE = 0x80, 0x81, 0x82, 0x83, 0x84

_WHOLE, _FIRST, _LAST, _MIDDLE, _NEXT_PART = 0, 1, 2, 3, 0x10  # of an APDU, in a message

# TA, TCCK, guard time, waiting integers, clock stop, IFSC and NAD of T=1 (6.2.3)
DEFAULT_PARAMETERS = bytes.fromhex("11 10 00 45 00 FE 00")
_T1 = 1


class SlotError(IntEnum):
    """bError of a command that failed (table 6.2-2)."""

    NOT_SUPPORTED = 0x00
    HARDWARE = 0xFB
    MUTE = 0xFE
    ABORTED = 0xFF


# What each command that can come is answered with, also when it fails.
_ANSWERS = {
    0x61: _PARAMETERS,  # SetParameters
    0x62: _DATA_BLOCK,  # IccPowerOn
    0x63: _SLOT_STATUS,  # IccPowerOff
    0x65: _SLOT_STATUS,  # GetSlotStatus
    0x69: _DATA_BLOCK,  # Secure
    0x6A: _SLOT_STATUS,  # T0APDU
    0x6B: _ESCAPE,
    0x6C: _PARAMETERS,  # GetParameters
    0x6D: _PARAMETERS,  # ResetParameters
    0x6E: _SLOT_STATUS,  # IccClock
    0x6F: _DATA_BLOCK,  # XfrBlock
    0x71: _SLOT_STATUS,  # Mechanical
    0x72: _SLOT_STATUS,  # Abort
    0x73: _DATA_RATE,  # SetDataRateAndClockFrequency
}


class CardMute(Exception):
    """The card does not answer, or cannot be asked."""


class CardSilent(Exception):
    """The card has let the time pass in which a block was to come; it has its power still."""


class Card(Protocol):
    """What is in the slot: a card, or one that is spoken to in blocks. Every method may raise `CardMute`."""

    def power_on(self) -> bytes:
        """The answer to reset."""

    def power_off(self) -> None:
        """Take the power away."""

    def transmit(self, apdu: bytes) -> bytes:
        """The response APDU, or the next block; for a block that does not come, raises `CardSilent`."""


class Failed(Exception):
    """A command fails with this bError."""

    def __init__(self, error: int) -> None:
        super().__init__(f"{error:02X}")
        self.error = error


class _Whole:
    """Each message carries all of a command or of an answer."""

    def __init__(self, transmit: Callable[[bytes], bytes]) -> None:
        self._transmit = transmit

    def reset(self) -> None:
        """There is nothing to forget."""

    def transfer(self, level: int, content: bytes) -> tuple[bytes, int]:
        """The answer. Raises `Failed` for a part."""
        if not content:
            raise Failed(_LENGTH)
        if level:
            raise Failed(_LEVEL)
        return self._transmit(content), 0


class _Parts:
    """A message carries a part of a command or of an answer (wLevelParameter 6.1.4, bChainParameter 6.2.1)."""

    def __init__(self, transmit: Callable[[bytes], bytes]) -> None:
        self._transmit = transmit
        self.reset()

    def reset(self) -> None:
        """Forget what has come of a command, and what is left of an answer."""
        self._command: bytes | None = None
        self._answer: bytes | None = None

    def transfer(self, level: int, content: bytes) -> tuple[bytes, int]:
        """The next part of the answer, or nothing while the command is not whole; and which of the two.

        Raises `Failed` for a part that does not follow.
        """
        if level == _NEXT_PART:
            return self._next_part(content)
        begun = b"" if level in (_WHOLE, _FIRST) else self._command
        self.reset()
        if level not in (_WHOLE, _FIRST, _LAST, _MIDDLE) or begun is None:
            raise Failed(_LEVEL)
        command = begun + content
        if not content or len(command) > _LONGEST_APDU:
            raise Failed(_LENGTH)
        if level in (_FIRST, _MIDDLE):
            self._command = command
            return b"", _NEXT_PART
        return self._part(self._transmit(command), _WHOLE, _FIRST)

    def _next_part(self, content: bytes) -> tuple[bytes, int]:
        answer = self._answer
        if content:
            raise Failed(_LENGTH)
        if answer is None:
            raise Failed(_LEVEL)
        return self._part(answer, _LAST, _MIDDLE)

    def _part(self, answer: bytes, last: int, more: int) -> tuple[bytes, int]:
        self._answer = answer[_ROOM:] or None
        return answer[:_ROOM], more if self._answer else last


class CcidReader:
    """The reader: one message from the host in, the messages that answer it out."""

    def __init__(self, card: Card, *, extended: bool = False) -> None:
        self._card = card
        self._exchange: _Whole | _Parts = (_Parts if extended else _Whole)(card.transmit)
        self._status = _INACTIVE
        self._parameters = DEFAULT_PARAMETERS
        self._aborting: int | None = None  # bSeq of an ABORT request that has come through the control pipe

    def power_off(self) -> None:
        """Be without power, as after unplugging."""
        self._card.power_off()
        self._exchange.reset()
        self._status, self._parameters, self._aborting = _INACTIVE, DEFAULT_PARAMETERS, None

    def abort(self, sequence: int) -> None:
        """The control pipe's ABORT request (5.3.1): everything fails until the message of the same name has come."""
        self._aborting = sequence

    def is_whole(self, message: bytes) -> bool:
        """Whether a message has come to the end that its header tells."""
        return len(message) >= HEADER + int.from_bytes(message[1:5], "little")

    def handle(self, message: bytes) -> list[bytes]:
        """The answers to one message, which may be of any length."""
        kind, slot, sequence = message[0], message[5:6] or b"\0", (message[6:7] or b"\0")[0]
        answer = _ANSWERS.get(kind, _SLOT_STATUS)
        if slot != b"\0":
            return [_message(answer, sequence, status=_ABSENT | _FAILED, error=_SLOT, slot=slot[0])]
        try:
            content = self._content(message, sequence)
            data, extra = self._command(kind, message, content)
        except Failed as failed:
            return [_message(answer, sequence, status=self._status | _FAILED, error=failed.error)]
        except CardMute:
            self._status = _INACTIVE
            return [_message(answer, sequence, status=self._status | _FAILED, error=SlotError.MUTE)]
        whole = _message(answer, sequence, data, status=self._status, extra=extra)
        if kind != 0x6F:
            return [whole]
        return [_message(answer, sequence, status=self._status | _TIME_EXTENSION, error=1), whole]

    def _content(self, message: bytes, sequence: int) -> bytes:
        content = message[HEADER:]
        if len(message) < HEADER or len(message) > LONGEST_MESSAGE:
            raise Failed(_LENGTH)
        if int.from_bytes(message[1:5], "little") != len(content):
            raise Failed(_LENGTH)
        if self._aborting is not None and (message[0], sequence) != (0x72, self._aborting):
            raise Failed(SlotError.ABORTED)
        return content

    def _command(self, kind: int, message: bytes, content: bytes) -> tuple[bytes, int]:
        """The data of the answer, and the byte before it that has a meaning of its own in each kind of answer."""
        match kind:
            case 0x62:
                return self._power_on(message[7], content), 0
            case 0x63:
                _nothing(content)
                self.power_off()
                return b"", 0
            case 0x65:
                _nothing(content)
                return b"", 0
            case 0x6F:
                return self._transfer(int.from_bytes(message[8:10], "little"), content)
            case 0x61:
                return self._set_parameters(message[7], content), _T1
            case 0x6C:
                _nothing(content)
                return self._parameters, _T1
            case 0x6D:
                _nothing(content)
                self._parameters = DEFAULT_PARAMETERS
                return self._parameters, _T1
            case 0x72:
                _nothing(content)
                self._aborting = None
                self._exchange.reset()
                return b"", 0
            case _:
                raise Failed(SlotError.NOT_SUPPORTED)

    def _power_on(self, power: int, content: bytes) -> bytes:
        _nothing(content)
        if power > 3:  # automatic, 5, 3 and 1.8 V
            raise Failed(_POWER)
        self._status = _INACTIVE
        self._exchange.reset()
        answer_to_reset = self._card.power_on()
        self._status = _ACTIVE
        return answer_to_reset

    def _transfer(self, level: int, content: bytes) -> tuple[bytes, int]:
        if self._status != _ACTIVE:
            raise Failed(SlotError.MUTE)
        try:
            return self._exchange.transfer(level, content)
        except CardSilent as silent:
            raise Failed(SlotError.MUTE) from silent

    def _set_parameters(self, protocol: int, content: bytes) -> bytes:
        if protocol != _T1:
            raise Failed(_PROTOCOL)
        if len(content) != len(DEFAULT_PARAMETERS):
            raise Failed(_LENGTH)
        self._parameters = content
        return content


def _nothing(content: bytes) -> None:
    if content:
        raise Failed(_LENGTH)


def _message(
    kind: int, sequence: int, data: bytes = b"", *, status: int, error: int = 0, extra: int = 0, slot: int = 0
) -> bytes:
    return bytes([kind]) + len(data).to_bytes(4, "little") + bytes([slot, sequence, status, error, extra]) + data
