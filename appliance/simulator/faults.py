# SPDX-License-Identifier: Apache-2.0
"""What a simulated device can be told to do wrong, in the list ``faults`` of its token file.

Each entry is an object with these keys; only ``do`` must be there:

``do``
    ``hang``    no answer any more, until the device is unplugged or its port is reset
    ``stall``   the endpoint for answers halts (STALL) until the host clears it; the answer is lost
    ``short``   only the first ``length`` bytes of the message arrive (default 12)
    ``vanish``  the device leaves the bus; it is back after ``back`` seconds, without that key once its file is touched
    ``slow``    the answer takes ``seconds`` (default 3), with time extensions meanwhile, at TPDU level also the card's
    ``garble``  at TPDU level, one block arrives with a wrong redundancy code: the last one of the command, or the first
                of the answer
    ``lose``    at TPDU level, that block does not arrive
    ``deafen``  at TPDU level, all blocks of the card arrive with a wrong code until the host has resynchronised
    ``shrink``  at TPDU level, before it answers the card asks for blocks of at most ``length`` bytes from then on
    ``serial``  the card says the serial number ``serial`` from then on, until its power is cut
    ``busy``    another program seems to hold the interface; `at` and `when` mean nothing
``at``
    which command: its number since the device was plugged in, counted from 1, or its name or the beginning of it, as
    ISO/IEC 7816-4 and the card's specification write it (``SELECT``, ``VERIFY``, ``TERMINATE DF``), in a YubiHSM as
    its maker does (``CREATE SESSION``), also inside a session, in a Luna HSM and a PKCS#11 token as
    pkcs11_card.py does (``TOKEN INFO``, ``LOGIN``, ``INIT TOKEN``, ``FACTORY RESET``); every one when absent
``when``
    ``before`` or ``after`` the command took effect on the card (default ``after``)
``times``
    how often; the number counts down in the file. For ever when absent

A device that stays away after a reset is ``{"do": "vanish", "at": "ACTIVATE FILE"}``. To change what a plugged device
does wrong, edit its file: that unplugs the device and plugs it in again.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

NAMES = {
    0x20: "VERIFY",
    0x24: "CHANGE REFERENCE DATA",
    0x2A: "PERFORM SECURITY OPERATION",
    0x2C: "RESET RETRY COUNTER",
    0x44: "ACTIVATE FILE",
    0x46: "GENERATE ASYMMETRIC KEY PAIR",
    0x47: "GENERATE ASYMMETRIC KEY PAIR",
    0x50: "INITIALIZE DEVICE",
    0x52: "MANAGE KEY DOMAIN",
    0x58: "ENUMERATE OBJECTS",
    0x68: "SIGN",
    0x72: "WRAP KEY",
    0x74: "UNWRAP KEY",
    0x84: "GET CHALLENGE",
    0x88: "INTERNAL AUTHENTICATE",
    0xA4: "SELECT",
    0xB1: "READ BINARY",
    0xC0: "GET RESPONSE",
    0xCA: "GET DATA",
    0xD7: "UPDATE BINARY",
    0xDA: "PUT DATA",
    0xDB: "PUT DATA",
    0xE4: "DELETE FILE",
    0xE6: "TERMINATE DF",
}


class Misdeed(StrEnum):
    """What a device does wrong."""

    HANG = "hang"
    STALL = "stall"
    SHORT = "short"
    VANISH = "vanish"
    SLOW = "slow"
    SERIAL = "serial"
    BUSY = "busy"
    GARBLE = "garble"
    LOSE = "lose"
    DEAFEN = "deafen"
    SHRINK = "shrink"


class When(StrEnum):
    """On which side of a command's effect on the card."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of the list."""

    do: Misdeed
    at: int | str | None = None
    when: When = When.AFTER
    times: int | None = None
    length: int = 12  # bytes
    back: float | None = None  # seconds
    seconds: float = 3.0
    serial: str = ""

    @classmethod
    def parse(cls, entry: Any) -> Self:
        """An entry as JSON has it. Raises `ValueError` or `TypeError` for what means nothing."""
        fault = cls(**{**entry, "do": Misdeed(entry.get("do")), "when": When(entry.get("when", When.AFTER))})
        if fault.do is Misdeed.SERIAL and not _is_serial(fault.serial):
            raise ValueError(f"a fault with the serial {fault.serial!r}")
        if fault.do is Misdeed.SHRINK and fault.length not in range(1, 255):
            raise ValueError(f"blocks of {fault.length} bytes")
        for key, kinds in _KINDS.items():
            if not isinstance(getattr(fault, key), kinds):
                raise TypeError(f"a fault with a wrong {key}")
        return fault

    def as_json(self) -> dict[str, Any]:
        """The entry for the file, without what is default."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value != getattr(_PLAIN, name) or name == "do"}

    def strikes(self, number: int, command: str) -> bool:
        """Whether the command with this number since the plug-in, and with this name, is the one."""
        if self.do is Misdeed.BUSY or self.times == 0:
            return False
        match self.at:
            case None:
                return True
            case int():
                return self.at == number
            case name:
                return command.startswith(name.upper())


_PLAIN = Fault(Misdeed.HANG)
_KINDS: dict[str, Any] = {
    "at": int | str | None,
    "times": int | None,
    "length": int,
    "back": int | float | None,
    "seconds": int | float,
}


def name_of(command: bytes) -> str:
    """What the standard calls the command; "" for one that it does not know."""
    return NAMES.get(command[1], "") if len(command) > 1 else ""


def _is_serial(text: object) -> bool:
    return isinstance(text, str) and len(text) == 8 and all(digit in "0123456789ABCDEFabcdef" for digit in text)
