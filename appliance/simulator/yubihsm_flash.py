# SPDX-License-Identifier: Apache-2.0
"""What a simulated YubiHSM 2 keeps without power: objects, of which everything that is secret is under its KEK."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from appliance.simulator.descriptors import Level
from appliance.simulator.faults import Fault
from appliance.simulator.memory import Key, faults_in, serial_in

DEFAULT_ID, DEFAULT_PASSWORD, DEFAULT_LABEL = 1, "password", "DEFAULT AUTHKEY CHANGE THIS ASAP"
PASSWORD_IN_USE = "correct-horse-battery"  # noqa: S105  # of a token with keys: whoever stores keys changes the password first
ALL_DOMAINS, ALL_CAPABILITIES = 0xFFFF, 0xFFFFFFFFFFFFFFFF
SIGN_ECDSA = 1 << 0x07  # a capability
_SALT, _ROUNDS = b"Yubico", 10000  # of the PBKDF2 that makes keys of a password
_DIGITS = 10  # of iSerial


@dataclass(frozen=True, slots=True)
class Attributes:
    """What every object has besides its secret."""

    label: str = ""
    domains: int = ALL_DOMAINS
    capabilities: int = ALL_CAPABILITIES
    delegated: int = 0
    sequence: int = 0  # how often an object was put in the place of another

    def as_json(self) -> dict[str, Any]:
        """For the token file."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Self:
        """The inverse. Raises `ValueError`, `KeyError` or `TypeError`."""
        numbers = {name: int(entry[name]) for name in cls.__slots__ if name != "label"}
        return cls(str(entry["label"]), **numbers)


@dataclass(frozen=True, slots=True)
class AuthenticationKey:
    """Who has it opens sessions."""

    attributes: Attributes
    sealed: bytes  # the key for encryption, and the one for authentication

    def as_json(self) -> dict[str, Any]:
        """For the token file."""
        return {**self.attributes.as_json(), "sealed": self.sealed.hex()}

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Self:
        """The inverse. Raises `ValueError`, `KeyError` or `TypeError`."""
        return cls(Attributes.parse(entry), bytes.fromhex(entry["sealed"]))


@dataclass(frozen=True, slots=True)
class AsymmetricKey:
    """An EC key pair on P-256."""

    attributes: Attributes
    key: Key

    @property
    def sealed(self) -> bytes:
        """The private half."""
        return self.key.sealed

    def as_json(self) -> dict[str, Any]:
        """For the token file."""
        return {**self.attributes.as_json(), **self.key.as_json()}

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Self:
        """The inverse. Raises `ValueError`, `KeyError` or `TypeError`."""
        return cls(Attributes.parse(entry), Key.parse(entry))


@dataclass(frozen=True, slots=True)
class YubiHsmFlash:
    """Everything that outlives a power cut."""

    FAMILY: ClassVar[str] = "yubihsm"

    serial: str  # a number, without zeros in front
    kek: bytes  # another one after each reset
    authentication: Mapping[int, AuthenticationKey] = field(default_factory=dict)  # by object id
    keys: Mapping[int, AsymmetricKey] = field(default_factory=dict)  # by object id
    faults: tuple[Fault, ...] = ()

    @classmethod
    def new(cls, serial: str) -> Self:
        """The factory state: one authentication key, and everybody knows its password."""
        blank = cls(serial, os.urandom(32))
        attributes = Attributes(DEFAULT_LABEL, delegated=ALL_CAPABILITIES)
        return blank.with_authentication(DEFAULT_ID, attributes, keys_of(DEFAULT_PASSWORD))

    def reset(self) -> Self:
        """The factory state again. With another KEK, what is left of the old ciphertext says nothing."""
        return replace(self.new(self.serial), faults=self.faults)

    def with_authentication(self, number: int, attributes: Attributes, keys: bytes) -> Self:
        """The same with such an authentication key."""
        from appliance.simulator import yubihsm_channel

        key = AuthenticationKey(attributes, yubihsm_channel.seal(self.kek, authentication_name(number), keys))
        return replace(self, authentication={**self.authentication, number: key})

    def with_new_key(self, number: int, attributes: Attributes) -> Self:
        """The same with a new asymmetric key."""
        from appliance.simulator import ec_keys

        key = ec_keys.generate(self.kek, key_name(number))
        return replace(self, keys={**self.keys, number: AsymmetricKey(attributes, key)})

    def with_keys(self, count: int) -> Self:
        """The same with so many keys, and with a password that not everybody knows."""
        old = self.authentication[DEFAULT_ID].attributes
        own = replace(old, label="Operator", sequence=old.sequence + 1)
        flash = self.with_authentication(DEFAULT_ID, own, keys_of(PASSWORD_IN_USE))
        for number in range(1, count + 1):
            flash = flash.with_new_key(number, Attributes(f"key {number}", capabilities=SIGN_ECDSA))
        return flash

    def with_faults(self, faults: tuple[Fault, ...]) -> Self:
        """The same, with other faults."""
        return replace(self, faults=faults)

    @property
    def level(self) -> Level:
        """It is no reader."""
        return Level.VENDOR

    def as_json(self) -> dict[str, Any]:
        """For the token file."""
        return {
            "kek": self.kek.hex(),
            "authentication": {str(number): key.as_json() for number, key in self.authentication.items()},
            "keys": {str(number): key.as_json() for number, key in self.keys.items()},
        }

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Self:
        """What `as_json` made."""
        flash = cls(
            serial=serial_in(cls, entry),
            kek=bytes.fromhex(entry["kek"]),
            authentication={
                int(number): AuthenticationKey.parse(key) for number, key in entry["authentication"].items()
            },
            keys={int(number): AsymmetricKey.parse(key) for number, key in entry["keys"].items()},
            faults=faults_in(entry),
        )
        if len(flash.kek) != 32 or not all(0 < number < 0x10000 for number in (*flash.authentication, *flash.keys)):
            raise ValueError("a token without its KEK, or a number out of range")
        return flash

    @classmethod
    def serial_of(cls, text: str) -> str:
        """A decimal number of 32 bits."""
        if not (text.isascii() and text.isdecimal() and 0 < int(text) < 1 << 32):
            raise ValueError("a decimal number below 4294967296, such as 7550054")
        return str(int(text))


def usb_serial(serial: str) -> str:
    """iSerial: the number with zeros in front."""
    return serial.zfill(_DIGITS)


def keys_of(password: str) -> bytes:
    """The two keys that a password stands for, one behind the other."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), _SALT, _ROUNDS, 32)


def authentication_name(number: int) -> str:
    """What an authentication key is bound to under the KEK."""
    return f"authentication key {number}"


def key_name(number: int) -> str:
    """What an asymmetric key is bound to under the KEK."""
    return f"key {number}"
