# SPDX-License-Identifier: Apache-2.0
"""What every simulated card keeps without power, and how it changes it: durably, before it answers."""

import hashlib
import hmac
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from appliance.errors import StateError
from appliance.simulator.descriptors import READERS, Level
from appliance.simulator.faults import Fault
from appliance.simulator.iso7816 import MEMORY_FAILURE, Refused

FORMAT = 1
_POINT = 65  # bytes of a point of NIST P-256
_ROUNDS = 1000  # of PBKDF2: nothing secret is in the file of a simulated device


class Source(IntEnum):
    """Where a key comes from, in the numbers of the OpenPGP card's data object DE (OpenPGP card 3.4, 4.4.3.8)."""

    GENERATED = 1
    IMPORTED = 2


@dataclass(frozen=True, slots=True)
class Key:
    """An EC or RSA key pair; the private half is readable only with the KEK."""

    sealed: bytes
    public: bytes  # the uncompressed point, or the modulus
    source: Source

    @property
    def is_rsa(self) -> bool:
        """Which of the two it is."""
        return len(self.public) > _POINT

    def as_json(self) -> dict[str, Any]:
        """For the token file."""
        return {"sealed": self.sealed.hex(), "public": self.public.hex(), "source": self.source.value}

    @classmethod
    def parse(cls, entry: Any) -> Self:
        """The inverse. Raises `ValueError`, `KeyError` or `TypeError`."""
        return cls(bytes.fromhex(entry["sealed"]), bytes.fromhex(entry["public"]), Source(entry["source"]))


@dataclass(frozen=True, slots=True)
class Pin:
    """A PIN, verifiable and not readable, with its retry counter."""

    tries: int = 0
    length: int = 0  # bytes; 0 when none is set
    salt: bytes = b""
    digest: bytes = b""

    @classmethod
    def of(cls, pin: bytes, tries: int) -> Self:
        """A PIN that has all its tries."""
        salt = os.urandom(8)
        return cls(tries, len(pin), salt, _digest(pin, salt))

    def matches(self, pin: bytes) -> bool:
        """Whether it is this one."""
        return self.length > 0 and hmac.compare_digest(self.digest, _digest(pin, self.salt))

    def as_json(self) -> dict[str, Any]:
        """For the token file."""
        return {"tries": self.tries, "length": self.length, "salt": self.salt.hex(), "digest": self.digest.hex()}

    @classmethod
    def parse(cls, entry: Any, most: int) -> Self:
        """The inverse. Raises `ValueError`, `KeyError` or `TypeError`."""
        salt, digest = bytes.fromhex(entry["salt"]), bytes.fromhex(entry["digest"])
        pin = cls(int(entry["tries"]), int(entry["length"]), salt, digest)
        if not 0 <= pin.tries <= most:
            raise ValueError("a retry counter out of range")
        return pin


def _digest(pin: bytes, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", pin, salt, _ROUNDS)


class Flash(Protocol):
    """Everything that outlives a power cut: a frozen value."""

    FAMILY: ClassVar[str]

    @property
    def serial(self) -> str: ...
    @property
    def faults(self) -> tuple[Fault, ...]: ...
    @property
    def level(self) -> Level:
        """Of the reader that the card is in."""

    def with_faults(self, faults: tuple[Fault, ...]) -> Self:
        """The same, with other faults."""

    def with_keys(self, count: int) -> Self:
        """The same, with that many keys more. Raises `ModuleNotFoundError` without the package for them."""

    def as_json(self) -> dict[str, Any]:
        """What is particular to the family, for the token file."""

    @classmethod
    def new(cls, serial: str) -> Self:
        """The factory state. Raises `ModuleNotFoundError` when it takes a package that is missing."""

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Self:
        """What `as_json` made. Raises `ValueError`, `KeyError`, `TypeError` or `AttributeError`."""

    @classmethod
    def serial_of(cls, text: str) -> str:
        """The serial number as it is kept. Raises `ValueError` with the rule that it breaks."""


F = TypeVar("F", bound=Flash)


class Memory(Generic[F]):
    """The flash of a card that has power: a change is in force once it is durable.

    `save` makes it so, and raises `StateError` when it cannot.
    """

    def __init__(self, flash: F, save: Callable[[F], None]) -> None:
        self.flash = flash
        self._save = save

    def change(self, flash: F) -> None:
        """Remember something else. Raises `Refused` when it cannot be kept."""
        try:
            self._save(flash)
        except StateError as error:
            raise Refused(MEMORY_FAILURE) from error
        self.flash = flash

    def set_faults(self, faults: tuple[Fault, ...]) -> None:
        """Remember other faults. Raises `Refused`."""
        self.change(self.flash.with_faults(faults))


def dump(flash: Flash) -> bytes:
    """The contents of a token file."""
    entry = {
        "format": FORMAT,
        "family": flash.FAMILY,
        "serial": flash.serial,
        **flash.as_json(),
        "faults": [fault.as_json() for fault in flash.faults],
        "reader": flash.level.value,
    }
    return json.dumps(entry, indent=2).encode() + b"\n"


def faults_in(entry: Mapping[str, Any]) -> tuple[Fault, ...]:
    """The faults in a token file. Raises `ValueError` or `TypeError`."""
    return tuple(Fault.parse(fault) for fault in entry.get("faults", []))


def level_in(entry: Mapping[str, Any]) -> Level:
    """The level of the reader in a token file. Raises `ValueError`."""
    level = Level(entry.get("reader", Level.APDU))
    if level not in READERS:
        raise ValueError("a card in no reader")
    return level


def serial_in(kind: type[Flash], entry: Mapping[str, Any]) -> str:
    """The serial number in a token file, with nothing left out. Raises `ValueError` and the like."""
    text = entry["serial"].upper()
    if kind.serial_of(text) != text:
        raise ValueError("not a whole serial number")
    return str(text)
