# SPDX-License-Identifier: Apache-2.0
"""What a simulated SmartCard-HSM keeps without power."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from appliance.simulator import cvc
from appliance.simulator.descriptors import Level
from appliance.simulator.faults import Fault
from appliance.simulator.iso7816 import tlv
from appliance.simulator.memory import Key, Pin, faults_in, level_in, serial_in
from appliance.simulator.smartcard_hsm_dkek import Dkek

SO_TRIES = 15
MOST_TRIES = 15  # that a user PIN can be given
SO_PIN, USER_PIN, USER_TRIES = bytes.fromhex("3537363231383830"), b"648219", 3  # as the makers deliver them

# File ids: a first byte for the kind of file, and a second one for the key to which it belongs.
KEY, DESCRIPTION, REQUEST = 0xCC, 0xC4, 0xCE
DEVICE_KEY, DEVICE_CERTIFICATE = 0xCC00, 0x2F02
_SEQUENCE = "00001"  # of the first certificate of a holder
_LONGEST_SERIAL = 11  # characters of a holder, without the sequence number


@dataclass(frozen=True, slots=True)
class SmartcardHsmFlash:
    """Everything that outlives a power cut."""

    FAMILY: ClassVar[str] = "smartcard-hsm"

    serial: str  # the holder in the device's certificate, without the sequence number
    device_kek: bytes  # seals the device's own key, which outlives every reset
    device_key: Key
    kek: bytes  # seals all others; another one after each reset
    so: Pin | None  # None before the first initialisation
    user: Pin | None
    user_tries: int = USER_TRIES  # what the user PIN's counter begins with
    options: bytes = b"\0\1"
    keys: Mapping[int, Key] = field(default_factory=dict)  # by number, from 1
    files: Mapping[int, bytes] = field(default_factory=dict)  # by file id
    dkek: Dkek | None = None  # under which keys are backed up; None when it was initialised without one
    faults: tuple[Fault, ...] = ()
    level: Level = Level.TPDU  # of the reader that the card is in; that of a Nitrokey HSM

    @classmethod
    def new(cls, serial: str) -> Self:
        """As it is delivered."""
        from appliance.simulator import ec_keys

        device_kek = os.urandom(32)
        own = ec_keys.generate(device_kek, sealed_as(0))
        return cls(serial, device_kek, own, os.urandom(32), Pin.of(SO_PIN, SO_TRIES), Pin.of(USER_PIN, USER_TRIES))

    def initialised(self, so: Pin, user: Pin, options: bytes, shares: int | None = None) -> Self:
        """Nothing is left but the device's own key: the KEK of all others is another one.

        `shares` is how many make the DKEK from now on, 0 for a random one, None for a device without.
        """
        blank = type(self)(self.serial, self.device_kek, self.device_key, os.urandom(32), so, user)
        dkek = None if shares is None else Dkek.awaited(blank.kek, shares)
        return replace(blank, user_tries=user.tries, options=options, dkek=dkek, faults=self.faults, level=self.level)

    def with_faults(self, faults: tuple[Fault, ...]) -> Self:
        """The same, with other faults."""
        return replace(self, faults=faults)

    def with_keys(self, count: int) -> Self:
        """The same, with so many keys, and what a host writes about them."""
        flash = self
        for number in range(1, count + 1):
            flash = flash.with_new_key(number, f"{self.serial}{number:05}")
            text = tlv(0x30, tlv(0x0C, f"key {number}".encode()))
            usage = tlv(0x30, tlv(0x04, bytes([number])) + tlv(0x03, b"\x07\x20\x80"))  # to sign, and to derive
            kind = tlv(0xA1, tlv(0x30, tlv(0x30, tlv(0x04, b"")) + tlv(0x02, b"\1\0")))  # 256 bits
            flash = flash.with_file(DESCRIPTION << 8 | number, tlv(0xA0, text + usage + kind))
        return flash

    def with_new_key(self, number: int, holder: str, *, rsa: bool = False) -> Self:
        """The same with a new key in that place, and the request for its certificate, of that holder, in a file."""
        from appliance.simulator import ec_keys, rsa_keys

        key = (rsa_keys if rsa else ec_keys).generate(self.kek, sealed_as(number))
        exponent = rsa_keys.EXPONENT.to_bytes(3, "big")
        public = cvc.rsa_key(key.public, exponent) if rsa else cvc.ec_key(key.public)
        flash = self.with_key(number, key)
        request = cvc.authenticated_request(
            holder, public, flash.signer(number), self.serial + _SEQUENCE, flash.signer(0)
        )
        return flash.with_file(REQUEST << 8 | number, request)

    def with_key(self, number: int, key: Key) -> Self:
        """The same with that key in that place."""
        return replace(self, keys={**self.keys, number: key})

    def with_file(self, number: int, contents: bytes) -> Self:
        """The same with such a file."""
        return replace(self, files={**self.files, number: contents})

    def without(self, number: int) -> Self:
        """The same without that file, or without that key."""
        files = {other: contents for other, contents in self.files.items() if other != number}
        keys = {place: key for place, key in self.keys.items() if KEY << 8 | place != number}
        return replace(self, files=files, keys=keys)

    def signer(self, number: int) -> cvc.Sign:
        """What signs with a key, 0 for the device's own: of ECDSA, r and s. Raises `KeyError` for one it has not."""
        kek, key = (self.kek, self.keys[number]) if number else (self.device_kek, self.device_key)

        def sign(data: bytes) -> bytes:
            from appliance.simulator import ec_keys, rsa_keys

            if key.is_rsa:
                return rsa_keys.sign(kek, sealed_as(number), key, data)
            return ec_keys.sign(kek, sealed_as(number), key, hashlib.sha256(data).digest())

        return sign

    def certificate(self, serial: str) -> bytes:
        """The device's certificate, to a holder of that serial number."""
        return cvc.device_certificate(serial + _SEQUENCE, self.device_key.public, self.signer(0))

    def as_json(self) -> dict[str, Any]:
        """For the token file."""
        return {
            "device_kek": self.device_kek.hex(),
            "device_key": self.device_key.as_json(),
            "kek": self.kek.hex(),
            "so": self.so and self.so.as_json(),
            "user": self.user and self.user.as_json(),
            "user_tries": self.user_tries,
            "options": self.options.hex(),
            "keys": {str(number): key.as_json() for number, key in self.keys.items()},
            "files": {f"{number:04X}": contents.hex() for number, contents in self.files.items()},
            "dkek": self.dkek and self.dkek.as_json(),
        }

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Self:
        """What `as_json` made."""
        flash = cls(
            serial=serial_in(cls, entry),
            device_kek=bytes.fromhex(entry["device_kek"]),
            device_key=Key.parse(entry["device_key"]),
            kek=bytes.fromhex(entry["kek"]),
            so=None if entry["so"] is None else Pin.parse(entry["so"], SO_TRIES),
            user=None if entry["user"] is None else Pin.parse(entry["user"], MOST_TRIES),
            user_tries=int(entry["user_tries"]),
            options=bytes.fromhex(entry["options"]),
            keys={int(number): Key.parse(key) for number, key in entry["keys"].items()},
            files={int(number, 16): bytes.fromhex(contents) for number, contents in entry["files"].items()},
            dkek=None if entry.get("dkek") is None else Dkek.parse(entry["dkek"]),
            faults=faults_in(entry),
            level=level_in(entry),
        )
        if {len(flash.kek), len(flash.device_kek)} != {32} or len(flash.options) != 2:
            raise ValueError("a token without its KEKs, or with other options")
        if not all(0 < number < 256 for number in flash.keys) or not 1 <= flash.user_tries <= MOST_TRIES:
            raise ValueError("a number out of range")
        return flash

    @classmethod
    def serial_of(cls, text: str) -> str:
        """What fits into a certificate holder reference."""
        serial = text.upper()
        if not 1 <= len(serial) <= _LONGEST_SERIAL or not (serial.isascii() and serial.isalnum()):
            raise ValueError(f"one to {_LONGEST_SERIAL} letters and digits, such as DENK0403514")
        return serial


def usb_serial(serial: str) -> str:
    """iSerial as a Nitrokey HSM has it: filled up with zeros, and with blanks."""
    return f"{serial}0000".ljust(24)


def sealed_as(number: int) -> str:
    """What a key is bound to under its KEK."""
    return f"key {number}"
