# SPDX-License-Identifier: Apache-2.0
"""What a SmartCard-HSM holds, and which serial number is its own; nothing here talks to a card.

Where the family's manuals are silent, it is as OpenSC's card-sc-hsm.c and sc-hsm-tool.c have it.
"""

import re
from contextlib import suppress
from dataclasses import dataclass

from appliance.errors import ProtocolError
from appliance.hsm.drivers.data_objects import find

DEVICE_FILES = (0xCC00, 0xC400, 0x2F02, 0x2F03)  # the device's own key with its description, certificate, label
KEYS = 0xCC  # the first byte of a key's file id
FULL_SO_TRIES, FULL_USER_TRIES = 15, 3
LEAST_SO_TRIES = 4  # the last tries are for who knows the SO PIN for certain: without any, the device is lost for good

OK = 0x9000
EMPTY_KEY_DOMAIN = 0x6A88
NO_DKEK = (0x6A86, EMPTY_KEY_DOMAIN, 0x6B00, 0x6D00)  # no such key domain; none set up; initialised without any
DKEK_STATUS = 10  # bytes of what is told of a DKEK

NO_FILE = 0x0000  # a pico-hsm fills some of its lists with it

# The holder in the certificate of every pico-hsm that nobody gave a number: of today's, and of the first versions'.
UNPROVISIONED = ("ESPICOHSMTR", "ESTERMHSM")
PICO_HOLDERS = "ESP"  # how the holders of pico-hsm boards begin that were given numbers
SEQUENCE = 5  # characters at the end of a certificate holder reference that count its certificates
LONGEST_HOLDER = 11  # characters, without the sequence number
FILLING = "0000"  # of that number, in the iSerial of a Nitrokey HSM

TAG_HOLDER = 0x5F20
TAG_PROPERTIES = 0x85
TAG_LABEL = 0x80


@dataclass(frozen=True, slots=True)
class Tries:
    """How often a PIN may still be wrong, as VERIFY without a PIN tells it."""

    left: int | None  # None when the device has no such PIN, or does not say
    remark: str = ""  # what is unusual about the PIN, as in "the user PIN is a transport PIN"

    @classmethod
    def parse(cls, status: int) -> "Tries":
        """What the status word says."""
        if status & 0xFFF0 == 0x63C0:
            return cls(status & 0x0F)
        match status:
            case 0x6983:
                return cls(0)
            case 0x6984:
                return cls(None, "a transport PIN")
            case 0x6A88:
                return cls(None)
            case _:
                return cls(None, f"in a state of its own (status {status:04X})")

    def __str__(self) -> str:
        return self.remark or ("none" if self.left is None else str(self.left))


@dataclass(frozen=True, slots=True)
class Dkek:
    """The key under which a device backs its keys up, as it tells anybody; the reset of a device must destroy it.

    Only a device that says so has one. A refusal says nothing against factory state: those that have none and those
    that do not know the command refuse it alike, and old ones with whatever status.
    """

    present: bool  # or set up, and not yet complete
    text: str  # for people

    @classmethod
    def parse(cls, status: int, data: bytes) -> "Dkek":
        """What the answer to MANAGE KEY DOMAIN says: shares, missing shares, key check value, and what may follow.

        Pico HSMs have zeros for what there is not, and for a check value that they keep until somebody has logged in.
        """
        if status != OK:
            return cls(False, "none" if status in NO_DKEK else f"not told (status {status:04X})")
        if not any(data):
            return cls(False, "none")
        shares, missing, *check = data[:DKEK_STATUS].ljust(DKEK_STATUS, b"\0")
        parts = [f"{shares or 'no'} share{'' if shares == 1 else 's'}"]
        parts += [f"{missing} missing"] if missing else []
        parts += [f"key check value {bytes(check).hex().upper()}"] if any(check) else []
        return cls(True, ", ".join(parts))

    def shortcomings(self) -> tuple[str, ...]:
        """What speaks against factory state, a sentence each."""
        return (f"a DKEK is set up ({self.text})",) if self.present else ()


@dataclass(frozen=True, slots=True)
class Contents:
    """What a device tells anybody."""

    objects: tuple[int, ...]  # file ids
    so: Tries
    user: Tries

    @property
    def never_initialised(self) -> bool:
        """Whether nobody has set an SO PIN yet."""
        return self.so == Tries(None)

    def shortcomings(self) -> tuple[str, ...]:
        """What speaks against factory state, a sentence each."""
        keys, others = self._count()
        pins = (
            ()
            if self.never_initialised
            else (("SO PIN", self.so, FULL_SO_TRIES), ("user PIN", self.user, FULL_USER_TRIES))
        )
        found = [
            f"the {name} is {tries.remark}" if tries.remark else f"the {name} has {tries} tries left, not {full}"
            for name, tries, full in pins
            if tries != Tries(full)
        ]
        found += [f"{_counted(number, word)}" for number, word in ((keys, "key"), (others, "other object")) if number]
        return tuple(found)

    def details(self) -> tuple[tuple[str, str], ...]:
        """Further lines for people."""
        keys, others = self._count()
        tries = "never initialised" if self.never_initialised else f"user {self.user}, SO {self.so}"
        return (("PIN tries left", tries), ("Keys", str(keys or "none")), ("Other objects", str(others or "none")))

    def obstacle(self) -> str:
        """Why INITIALIZE DEVICE must not be tried; "" when it may."""
        if self.never_initialised:
            return ""
        match self.so.left:
            case None:
                return f"its SO PIN is {self.so.remark}"
            case 0:
                return "its SO PIN is blocked: it can never be reset again"
            case left if left < LEAST_SO_TRIES:
                return (
                    f"its SO PIN has {left} of {FULL_SO_TRIES} tries left, and with none it could never be reset "
                    f"again: less than {LEAST_SO_TRIES} are not spent here"
                )
        return ""

    def _count(self) -> tuple[int, int]:
        """How many keys there are, and how many other objects, without those of the device itself."""
        foreign = [number for number in self.objects if number not in (*DEVICE_FILES, NO_FILE)]
        keys = sum(number >> 8 == KEYS for number in foreign)
        return keys, len(foreign) - keys


def _counted(number: int, word: str) -> str:
    return f"one {word} is present" if number == 1 else f"{number} {word}s are present"


def normalise(serial: str) -> str:
    """Without blanks around it, in upper case, and without what follows the number in a Nitrokey HSM's iSerial.

    That has fifteen characters of the certificate holder reference: the longest holder, and four digits of the five
    that count its certificates. Sixteen hexadecimal digits are the board's number of a pico-hsm, and stay.
    """
    text = serial.strip().upper()
    if re.fullmatch(rf"[A-Z]{{2}}.{{{LONGEST_HOLDER - 2}}}\d{{{SEQUENCE - 1}}}", text, re.ASCII):
        return text[:LONGEST_HOLDER]
    return text


def names_a_holder(serial: str) -> bool:
    """Whether a normalised number has the form of a holder, as in DENK0403514.

    Some Nitrokey HSMs have something else as their iSerial, made of what their controller could not read.
    """
    return re.fullmatch(r"[A-Z]{4}\d{1,7}", serial, re.ASCII) is not None


def is_pico(told: str) -> bool:
    """Whether this holder is that of a pico-hsm."""
    return told in UNPROVISIONED or told.startswith(PICO_HOLDERS)


def holder(certificate: bytes) -> str:
    """Who the certificate is for, without the certificate's sequence number; "" when that cannot be read."""
    reference = (find(certificate, TAG_HOLDER) or b"").decode("latin-1")
    printable = "".join(c if c.isprintable() else "?" for c in reference)
    return normalise(printable[:-SEQUENCE])


def version(fcp: bytes) -> str:
    """The firmware version in the answer to SELECT; "" when it does not tell one, or nothing that can be read."""
    properties = b""
    with suppress(ProtocolError):
        properties = find(fcp, TAG_PROPERTIES) or b""
    return f"{properties[-2]}.{properties[-1]}" if len(properties) >= 2 else ""


def file_ids(raw: bytes) -> tuple[int, ...]:
    """The answer to ENUMERATE OBJECTS."""
    return tuple(int.from_bytes(raw[start : start + 2]) for start in range(0, len(raw) - 1, 2))
