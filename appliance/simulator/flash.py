# SPDX-License-Identifier: Apache-2.0
"""What a simulated OpenPGP card keeps without power: a frozen value, and its form as JSON."""

import hashlib
import hmac
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any, Self

from appliance.errors import StateError
from appliance.simulator.descriptors import Level
from appliance.simulator.faults import Fault
from appliance.simulator.iso7816 import MEMORY_FAILURE, Refused

FORMAT = 1
TRIES = 3
USER_PIN, ADMIN_PIN = b"123456", b"12345678"  # what every new OpenPGP card has
_ROUNDS = 1000  # of PBKDF2: nothing secret is in the file of a simulated device


class Slot(StrEnum):
    """The three keys of an OpenPGP card."""

    SIGNATURE = "signature"
    DECRYPTION = "decryption"
    AUTHENTICATION = "authentication"


class Password(StrEnum):
    """The three passwords of an OpenPGP card."""

    USER = "user"  # PW1
    RESETTING = "resetting"  # the resetting code
    ADMIN = "admin"  # PW3


class Source(IntEnum):
    """Where a key comes from, as data object DE says it (OpenPGP card 3.4, 4.4.3.8)."""

    GENERATED = 1
    IMPORTED = 2


@dataclass(frozen=True, slots=True)
class Pin:
    """A PIN, verifiable and not readable, with its retry counter."""

    tries: int = 0
    length: int = 0  # bytes; 0 when none is set
    salt: bytes = b""
    digest: bytes = b""

    @classmethod
    def of(cls, pin: bytes) -> Self:
        """A PIN that has all its tries."""
        salt = os.urandom(8)
        return cls(TRIES, len(pin), salt, _digest(pin, salt))

    def matches(self, pin: bytes) -> bool:
        """Whether it is this one."""
        return self.length > 0 and hmac.compare_digest(self.digest, _digest(pin, self.salt))


def _digest(pin: bytes, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", pin, salt, _ROUNDS)


@dataclass(frozen=True, slots=True)
class Key:
    """An EC key pair; the private half is readable only with the KEK."""

    sealed: bytes
    public: bytes  # the uncompressed point
    source: Source


@dataclass(frozen=True, slots=True)
class Flash:
    """Everything that outlives a power cut."""

    serial: str  # eight upper-case hexadecimal digits, bytes 10 to 13 of the AID
    kek: bytes  # destroyed first by a reset; empty from then until the card is activated
    pins: Mapping[Password, Pin]
    terminated: bool = False
    many_signatures: bool = False  # whether PW1 is good for more than one signature (first byte of C4)
    signatures: int = 0
    objects: Mapping[int, bytes] = field(default_factory=dict)  # data objects as they were put, by tag
    keys: Mapping[Slot, Key] = field(default_factory=dict)
    remains: tuple[bytes, ...] = ()  # ciphertext whose KEK is destroyed; erased at the next power-up
    faults: tuple[Fault, ...] = ()
    level: Level = Level.APDU  # of the reader that the card is in

    @classmethod
    def new(cls, serial: str) -> Self:
        """The factory state."""
        pins = {Password.USER: Pin.of(USER_PIN), Password.RESETTING: Pin(), Password.ADMIN: Pin.of(ADMIN_PIN)}
        return cls(serial, os.urandom(32), pins)

    def with_pin(self, name: Password, pin: Pin) -> Self:
        """The same with another PIN, or with another retry counter of one."""
        return replace(self, pins={**self.pins, name: pin})

    def wiped(self) -> Self:
        """The terminated state: without the KEK the keys are noise, which stays until the next power-up."""
        remains = (*self.remains, *(key.sealed for key in self.keys.values()))
        no_pins = dict.fromkeys(Password, Pin())
        blank = type(self)(self.serial, b"", no_pins, terminated=True, remains=remains)
        return replace(blank, faults=self.faults, level=self.level)

    def activated(self) -> Self:
        """The factory state, after a termination."""
        return replace(type(self).new(self.serial), remains=self.remains, faults=self.faults, level=self.level)


class Memory:
    """The flash of a card that has power: a change is in force once it is durable.

    `save` makes it so, and raises `StateError` when it cannot.
    """

    def __init__(self, flash: Flash, save: Callable[[Flash], None]) -> None:
        self.flash = flash
        self._save = save

    def change(self, flash: Flash) -> None:
        """Remember something else. Raises `Refused` when it cannot be kept."""
        try:
            self._save(flash)
        except StateError as error:
            raise Refused(MEMORY_FAILURE) from error
        self.flash = flash

    def change_pin(self, name: Password, pin: Pin) -> None:
        """Remember another PIN, or another retry counter of the same. Raises `Refused`."""
        if pin != self.flash.pins[name]:
            self.change(self.flash.with_pin(name, pin))


def dump(flash: Flash) -> bytes:
    """The contents of a token file."""
    entry = {
        "format": FORMAT,
        "serial": flash.serial,
        "terminated": flash.terminated,
        "kek": flash.kek.hex(),
        "pins": {name.value: _pin_as_json(pin) for name, pin in flash.pins.items()},
        "many_signatures": flash.many_signatures,
        "signatures": flash.signatures,
        "objects": {f"{tag:04X}": value.hex() for tag, value in flash.objects.items()},
        "keys": {
            slot.value: {"sealed": key.sealed.hex(), "public": key.public.hex(), "source": key.source.value}
            for slot, key in flash.keys.items()
        },
        "remains": [ciphertext.hex() for ciphertext in flash.remains],
        "faults": [fault.as_json() for fault in flash.faults],
        "reader": flash.level.value,
    }
    return json.dumps(entry, indent=2).encode() + b"\n"


def load(data: bytes) -> Flash:
    """The value that was dumped. Raises `ValueError` for anything that `dump` cannot have written, but other faults."""
    try:
        return _flash(json.loads(data))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a token: {error!r}") from error


def serial_in(data: bytes) -> str:
    """The serial number in a token that is damaged elsewhere; "" when that is lost too."""
    try:
        return _serial(json.loads(data)["serial"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _flash(entry: Any) -> Flash:
    if entry["format"] != FORMAT:
        raise ValueError("a token of another format")
    flash = Flash(
        serial=_serial(entry["serial"]),
        kek=bytes.fromhex(entry["kek"]),
        pins={name: _pin(entry["pins"][name]) for name in Password},
        terminated=entry["terminated"] is True,
        many_signatures=entry["many_signatures"] is True,
        signatures=int(entry["signatures"]),
        objects={int(tag, 16): bytes.fromhex(value) for tag, value in entry["objects"].items()},
        keys={
            Slot(slot): Key(bytes.fromhex(key["sealed"]), bytes.fromhex(key["public"]), Source(key["source"]))
            for slot, key in entry["keys"].items()
        },
        remains=tuple(bytes.fromhex(ciphertext) for ciphertext in entry["remains"]),
        faults=tuple(Fault.parse(fault) for fault in entry.get("faults", [])),
        level=Level(entry.get("reader", Level.APDU)),
    )
    if len(flash.kek) != (0 if flash.terminated else 32):
        raise ValueError("a token without its KEK")
    if not 0 <= flash.signatures < 1 << 24:
        raise ValueError("a signature counter out of range")
    return flash


def _serial(text: Any) -> str:
    if not isinstance(text, str) or len(bytes.fromhex(text)) != 4 or len(text) != 8:
        raise ValueError("not a serial number of eight hexadecimal digits")
    return text.upper()


def _pin(entry: Any) -> Pin:
    pin = Pin(int(entry["tries"]), int(entry["length"]), bytes.fromhex(entry["salt"]), bytes.fromhex(entry["digest"]))
    if not 0 <= pin.tries <= TRIES:
        raise ValueError("a retry counter out of range")
    return pin


def _pin_as_json(pin: Pin) -> dict[str, Any]:
    return {"tries": pin.tries, "length": pin.length, "salt": pin.salt.hex(), "digest": pin.digest.hex()}
