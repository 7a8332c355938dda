# SPDX-License-Identifier: Apache-2.0
"""What a simulated PKCS#11 token keeps without power, and a simulated Luna HSM: private keys only under a KEK."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from appliance.simulator.descriptors import Level
from appliance.simulator.faults import Fault
from appliance.simulator.memory import Key, Pin, faults_in, serial_in

# Of a token with keys, which somebody has initialised.
SO_PIN_IN_USE, USER_PIN_IN_USE, LABEL_IN_USE = "correct-horse", "battery-staple", "in use"
MOST_OBJECTS = 64
_SERIAL = 16  # characters, as PKCS#11 has room for
_DIGITS = 10  # of a Luna's serial number


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A private key object; with the public half, from which the card can tell what curve it is on."""

    label: str
    identifier: bytes  # CKA_ID
    key: Key

    @property
    def sealed(self) -> bytes:
        """The private half."""
        return self.key.sealed

    def as_json(self) -> dict[str, Any]:
        """For the token file."""
        return {"label": self.label, "id": self.identifier.hex(), **self.key.as_json()}

    @classmethod
    def parse(cls, entry: Any) -> Self:
        """The inverse. Raises `ValueError`, `KeyError` or `TypeError`."""
        return cls(_text(entry["label"]), bytes.fromhex(entry["id"]), Key.parse(entry))


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key object, which anybody may see."""

    label: str
    identifier: bytes
    point: bytes  # not compressed

    def as_json(self) -> dict[str, Any]:
        """For the token file."""
        return {"label": self.label, "id": self.identifier.hex(), "point": self.point.hex()}

    @classmethod
    def parse(cls, entry: Any) -> Self:
        """The inverse. Raises `ValueError`, `KeyError` or `TypeError`."""
        return cls(_text(entry["label"]), bytes.fromhex(entry["id"]), bytes.fromhex(entry["point"]))


@dataclass(frozen=True, slots=True)
class Pkcs11Flash:
    """Everything that outlives a power cut. A token without an SO PIN is not initialised."""

    FAMILY: ClassVar[str] = "pkcs11"
    MODEL: ClassVar[str] = "Simulated"  # 16 characters at most
    SO_TRIES: ClassVar[int] = 10
    USER_TRIES: ClassVar[int] = 3
    PIN_LENGTHS: ClassVar[range] = range(4, 33)  # bytes

    serial: str
    kek: bytes  # another one after each reset
    label: str = ""
    so_pin: Pin = field(default_factory=Pin)
    user_pin: Pin = field(default_factory=Pin)
    keys: Mapping[int, PrivateKey] = field(default_factory=dict)  # by handle
    public_keys: Mapping[int, PublicKey] = field(default_factory=dict)  # by handle
    faults: tuple[Fault, ...] = ()

    @classmethod
    def new(cls, serial: str) -> Self:
        """The factory state: not initialised."""
        return cls(serial, os.urandom(32))

    def reset(self) -> Self:
        """The factory state again. With another KEK, what is left of the old ciphertext says nothing."""
        return replace(self.new(self.serial), faults=self.faults)

    def initialised(self, label: str, so_pin: bytes) -> Self:
        """Empty, with this SO PIN and no user PIN."""
        return replace(self.reset(), label=label, so_pin=Pin.of(so_pin, self.SO_TRIES))

    def with_user_pin(self, pin: bytes) -> Self:
        """The same with a user PIN that has all its tries."""
        return replace(self, user_pin=Pin.of(pin, self.USER_TRIES))

    def free_handles(self) -> tuple[int, int]:
        """Two handles that no object has."""
        last = max((0, *self.keys, *self.public_keys))
        return last + 1, last + 2

    def with_new_pair(self, public: tuple[str, bytes], private: tuple[str, bytes]) -> Self:
        """The same with a new key pair at the free handles, the public half first; a label and an id for each."""
        from appliance.simulator import ec_keys

        public_handle, handle = self.free_handles()
        key = ec_keys.generate(self.kek, key_name(handle))
        return replace(
            self,
            keys={**self.keys, handle: PrivateKey(*private, key)},
            public_keys={**self.public_keys, public_handle: PublicKey(*public, key.public)},
        )

    def without(self, handle: int) -> Self:
        """The same without this object."""
        return replace(
            self,
            keys={number: key for number, key in self.keys.items() if number != handle},
            public_keys={number: key for number, key in self.public_keys.items() if number != handle},
        )

    def with_keys(self, count: int) -> Self:
        """The same, in use: initialised, with PINs that are documented, and with so many key pairs."""
        flash = self.initialised(LABEL_IN_USE, SO_PIN_IN_USE.encode()).with_user_pin(USER_PIN_IN_USE.encode())
        for number in range(1, count + 1):
            name = (f"key {number}", bytes([number]))
            flash = flash.with_new_pair(name, name)
        return flash

    def with_faults(self, faults: tuple[Fault, ...]) -> Self:
        """The same, with other faults."""
        return replace(self, faults=faults)

    @property
    def level(self) -> Level:
        """It is no reader."""
        return Level.VENDOR

    @property
    def told_serial(self) -> str:
        """The serial number as the token says it."""
        return self.serial

    def as_json(self) -> dict[str, Any]:
        """For the token file."""
        return {
            "kek": self.kek.hex(),
            "label": self.label,
            "so_pin": self.so_pin.as_json(),
            "user_pin": self.user_pin.as_json(),
            "keys": {str(handle): key.as_json() for handle, key in self.keys.items()},
            "public_keys": {str(handle): key.as_json() for handle, key in self.public_keys.items()},
        }

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Self:
        """What `as_json` made."""
        flash = cls(
            serial=serial_in(cls, entry),
            kek=bytes.fromhex(entry["kek"]),
            label=_text(entry["label"]),
            so_pin=Pin.parse(entry["so_pin"], cls.SO_TRIES),
            user_pin=Pin.parse(entry["user_pin"], cls.USER_TRIES),
            keys={int(handle): PrivateKey.parse(key) for handle, key in entry["keys"].items()},
            public_keys={int(handle): PublicKey.parse(key) for handle, key in entry["public_keys"].items()},
            faults=faults_in(entry),
        )
        handles = [*flash.keys, *flash.public_keys]
        if len(flash.kek) != 32 or len(set(handles)) != len(handles):
            raise ValueError("a token without its KEK, or two objects with one handle")
        if not all(0 < handle < 1 << 31 for handle in handles):
            raise ValueError("a handle out of range")
        return flash

    @classmethod
    def serial_of(cls, text: str) -> str:
        """Letters and digits."""
        if not (text.isascii() and text.isalnum() and len(text) <= _SERIAL):
            raise ValueError("1 to 16 ASCII letters and digits, such as A4711")
        return text.upper()


@dataclass(frozen=True, slots=True)
class LunaFlash(Pkcs11Flash):
    """The same of a Luna Backup HSM."""

    FAMILY: ClassVar[str] = "luna"
    MODEL: ClassVar[str] = "Simulated Luna"
    SO_TRIES: ClassVar[int] = 3
    USER_TRIES: ClassVar[int] = 10
    PIN_LENGTHS: ClassVar[range] = range(7, 256)

    @property
    def told_serial(self) -> str:
        """With zeros in front."""
        return padded(self.serial)

    @classmethod
    def serial_of(cls, text: str) -> str:
        """A decimal number."""
        if not (text.isascii() and text.isdecimal() and 0 < int(text) < 10**_DIGITS):
            raise ValueError(f"a decimal number of {_DIGITS} digits at most, such as 496771")
        return str(int(text))


def padded(serial: str) -> str:
    """A Luna's serial number as USB and the HSM tell it."""
    return serial.zfill(_DIGITS)


def key_name(handle: int) -> str:
    """What a private key is bound to under the KEK."""
    return f"key {handle}"


def _text(value: str) -> str:
    """A label in a token file. Raises `ValueError` for what cannot be sent."""
    return value.encode().decode()
