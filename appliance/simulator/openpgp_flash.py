# SPDX-License-Identifier: Apache-2.0
"""What a simulated OpenPGP card keeps without power."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, Self

from appliance.simulator.descriptors import Level
from appliance.simulator.faults import Fault
from appliance.simulator.memory import Key, Memory, Pin, faults_in, level_in, serial_in

TRIES = 3
USER_PIN, ADMIN_PIN = b"123456", b"12345678"  # what every new OpenPGP card has


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


# The data objects with the fingerprint of each key, and with the time at which it was made.
FINGERPRINT = {Slot.SIGNATURE: 0xC7, Slot.DECRYPTION: 0xC8, Slot.AUTHENTICATION: 0xC9}
CREATED = {Slot.SIGNATURE: 0xCE, Slot.DECRYPTION: 0xCF, Slot.AUTHENTICATION: 0xD0}


@dataclass(frozen=True, slots=True)
class OpenPgpFlash:
    """Everything that outlives a power cut."""

    FAMILY: ClassVar[str] = "openpgp"

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
        pins = {
            Password.USER: Pin.of(USER_PIN, TRIES),
            Password.RESETTING: Pin(),
            Password.ADMIN: Pin.of(ADMIN_PIN, TRIES),
        }
        return cls(serial, os.urandom(32), pins)

    def with_pin(self, name: Password, pin: Pin) -> Self:
        """The same with another PIN, or with another retry counter of one."""
        return replace(self, pins={**self.pins, name: pin})

    def with_faults(self, faults: tuple[Fault, ...]) -> Self:
        """The same, with other faults."""
        return replace(self, faults=faults)

    def with_keys(self, count: int) -> Self:
        """The same, with so many keys, and what a host writes about them."""
        from appliance.simulator import ec_keys

        created = int(time.time())
        slots = list(Slot)[:count]
        keys = {slot: ec_keys.generate(self.kek, slot) for slot in slots}
        prints = {
            FINGERPRINT[slot]: ec_keys.fingerprint(keys[slot].public, created, ecdh=slot is Slot.DECRYPTION)
            for slot in slots
        }
        times = {CREATED[slot]: created.to_bytes(4, "big") for slot in slots}
        return replace(self, keys=keys, objects={**prints, **times})

    def wiped(self) -> Self:
        """The terminated state: without the KEK the keys are noise, which stays until the next power-up."""
        remains = (*self.remains, *(key.sealed for key in self.keys.values()))
        no_pins = dict.fromkeys(Password, Pin())
        blank = type(self)(self.serial, b"", no_pins, terminated=True, remains=remains)
        return replace(blank, faults=self.faults, level=self.level)

    def activated(self) -> Self:
        """The factory state, after a termination."""
        return replace(type(self).new(self.serial), remains=self.remains, faults=self.faults, level=self.level)

    def as_json(self) -> dict[str, Any]:
        """For the token file."""
        return {
            "terminated": self.terminated,
            "kek": self.kek.hex(),
            "pins": {name.value: pin.as_json() for name, pin in self.pins.items()},
            "many_signatures": self.many_signatures,
            "signatures": self.signatures,
            "objects": {f"{tag:04X}": value.hex() for tag, value in self.objects.items()},
            "keys": {slot.value: key.as_json() for slot, key in self.keys.items()},
            "remains": [ciphertext.hex() for ciphertext in self.remains],
        }

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Self:
        """What `as_json` made."""
        flash = cls(
            serial=serial_in(cls, entry),
            kek=bytes.fromhex(entry["kek"]),
            pins={name: Pin.parse(entry["pins"][name], TRIES) for name in Password},
            terminated=entry["terminated"] is True,
            many_signatures=entry["many_signatures"] is True,
            signatures=int(entry["signatures"]),
            objects={int(tag, 16): bytes.fromhex(value) for tag, value in entry["objects"].items()},
            keys={Slot(slot): Key.parse(key) for slot, key in entry["keys"].items()},
            remains=tuple(bytes.fromhex(ciphertext) for ciphertext in entry["remains"]),
            faults=faults_in(entry),
            level=level_in(entry),
        )
        if len(flash.kek) != (0 if flash.terminated else 32):
            raise ValueError("a token without its KEK")
        if not 0 <= flash.signatures < 1 << 24:
            raise ValueError("a signature counter out of range")
        return flash

    @classmethod
    def serial_of(cls, text: str) -> str:
        """Eight digits, of which those in front may be left out when they are zeros."""
        digits = text.upper()
        if not 1 <= len(digits) <= 8 or not set(digits) <= set("0123456789ABCDEF"):
            raise ValueError("one to eight hexadecimal digits, such as 667788")
        return digits.rjust(8, "0")


def change_pin(memory: Memory[OpenPgpFlash], name: Password, pin: Pin) -> None:
    """Remember another PIN, or another retry counter of the same. Raises `Refused`."""
    if pin != memory.flash.pins[name]:
        memory.change(memory.flash.with_pin(name, pin))
