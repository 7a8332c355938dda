# SPDX-License-Identifier: Apache-2.0
"""The objects in a simulated YubiHSM 2, and the commands of a session that are about them."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from appliance.simulator.iso7816 import Refused
from appliance.simulator.memory import Memory
from appliance.simulator.yubihsm_flash import (
    SIGN_ECDSA,
    AsymmetricKey,
    Attributes,
    AuthenticationKey,
    YubiHsmFlash,
    key_name,
)

AUTHENTICATION_KEY, ASYMMETRIC_KEY = 0x02, 0x03  # types
P256, AES128_AUTHENTICATION = 12, 38  # algorithms
LABEL = 40  # bytes
_GENERATED, _IMPORTED = 0x01, 0x02  # origins
_BY_ID, _BY_TYPE = 0x01, 0x02  # filters of LIST OBJECTS
_SIZES = {AUTHENTICATION_KEY: 40, ASYMMETRIC_KEY: 68}  # bytes that an object takes

# Capabilities that a session must have, by command; for DELETE OBJECT by type.
_PUT_AUTHENTICATION_KEY, _GENERATE, _CHANGE = 1 << 0x02, 1 << 0x04, 1 << 0x2E
_DELETE = {AUTHENTICATION_KEY: 1 << 0x28, ASYMMETRIC_KEY: 1 << 0x29}


class Failure(IntEnum):
    """The codes of errors."""

    INVALID_COMMAND = 0x01
    INVALID_DATA = 0x02
    INVALID_SESSION = 0x03
    AUTHENTICATION_FAILED = 0x04
    SESSIONS_FULL = 0x05
    SESSION_FAILED = 0x06
    STORAGE_FAILED = 0x07
    WRONG_LENGTH = 0x08
    INSUFFICIENT_PERMISSIONS = 0x09
    LOG_FULL = 0x0A
    OBJECT_NOT_FOUND = 0x0B
    OBJECT_EXISTS = 0x11


class Failed(Exception):
    """A command fails with this code."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.name)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class _Entry:
    """One object, as lists have it."""

    number: int
    kind: int
    found: AuthenticationKey | AsymmetricKey


class Objects:
    """The objects."""

    def __init__(self, memory: Memory[YubiHsmFlash]) -> None:
        self._memory = memory
        self._commands = {
            0x44: self._put_authentication_key,
            0x46: self._generate,
            0x48: self._list,
            0x4E: self._info,
            0x54: self._public_key,
            0x56: self._sign,
            0x58: self._delete,
            0x6C: self._change,
        }

    def command(self, code: int, data: bytes, session: Attributes) -> bytes:
        """What a command of a session with these attributes is answered. Raises `Failed`."""
        if code not in self._commands:
            raise Failed(Failure.INVALID_COMMAND)
        try:
            return self._commands[code](data, session)
        except struct.error as error:
            raise Failed(Failure.WRONG_LENGTH) from error
        except Refused as refused:
            raise Failed(Failure.STORAGE_FAILED) from refused

    def _list(self, data: bytes, _: Attributes) -> bytes:
        """LIST OBJECTS: id, type and sequence number of each that the filters let pass."""
        entries = list(self._entries())
        while data:
            if data[0] == _BY_ID:
                (number,) = struct.unpack_from("!H", data, 1)
                entries, data = [entry for entry in entries if entry.number == number], data[3:]
            elif data[0] == _BY_TYPE:
                (kind,) = struct.unpack_from("!B", data, 1)
                entries, data = [entry for entry in entries if entry.kind == kind], data[2:]
            else:
                raise Failed(Failure.INVALID_DATA)
        return b"".join(
            struct.pack("!HBB", entry.number, entry.kind, entry.found.attributes.sequence) for entry in entries
        )

    def _info(self, data: bytes, _: Attributes) -> bytes:
        """GET OBJECT INFO."""
        number, kind = struct.unpack("!HB", data)
        entry = self._find(number, kind)
        has = entry.found.attributes
        asymmetric = kind == ASYMMETRIC_KEY
        algorithm, origin = (P256, _GENERATED) if asymmetric else (AES128_AUTHENTICATION, _IMPORTED)
        return struct.pack(
            f"!QHHHBBBB{LABEL}sQ",
            *(has.capabilities, number, _SIZES[kind], has.domains, kind, algorithm, has.sequence, origin),
            *(has.label.encode(), has.delegated),
        )

    def _generate(self, data: bytes, session: Attributes) -> bytes:
        """GENERATE ASYMMETRIC KEY."""
        _demand(session, _GENERATE)
        number, label, domains, capabilities, algorithm = struct.unpack(f"!H{LABEL}sHQB", data)
        if algorithm != P256:
            raise Failed(Failure.INVALID_DATA)
        number = self._free(number, ASYMMETRIC_KEY)
        attributes = Attributes(_text(label), domains, capabilities)
        self._memory.change(self._memory.flash.with_new_key(number, attributes))
        return struct.pack("!H", number)

    def _put_authentication_key(self, data: bytes, session: Attributes) -> bytes:
        """PUT AUTHENTICATION KEY, which is two keys."""
        _demand(session, _PUT_AUTHENTICATION_KEY)
        layout = f"!H{LABEL}sHQBQ32s"
        number, label, domains, capabilities, algorithm, delegated, keys = struct.unpack(layout, data)
        if algorithm != AES128_AUTHENTICATION:
            raise Failed(Failure.INVALID_DATA)
        if capabilities & ~session.delegated:
            raise Failed(Failure.INSUFFICIENT_PERMISSIONS)
        number = self._free(number, AUTHENTICATION_KEY)
        attributes = Attributes(_text(label), domains, capabilities, delegated)
        self._memory.change(self._memory.flash.with_authentication(number, attributes, keys))
        return struct.pack("!H", number)

    def _change(self, data: bytes, session: Attributes) -> bytes:
        """CHANGE AUTHENTICATION KEY."""
        _demand(session, _CHANGE)
        number, algorithm, keys = struct.unpack("!HB32s", data)
        if algorithm != AES128_AUTHENTICATION:
            raise Failed(Failure.INVALID_DATA)
        old = self._find(number, AUTHENTICATION_KEY).found.attributes
        attributes = replace(old, sequence=(old.sequence + 1) % 256)
        self._memory.change(self._memory.flash.with_authentication(number, attributes, keys))
        return struct.pack("!H", number)

    def _delete(self, data: bytes, session: Attributes) -> bytes:
        """DELETE OBJECT."""
        number, kind = struct.unpack("!HB", data)
        self._find(number, kind)
        _demand(session, _DELETE[kind])
        flash = self._memory.flash
        if kind == ASYMMETRIC_KEY:
            left = {other: key for other, key in flash.keys.items() if other != number}
            self._memory.change(replace(flash, keys=left))
        else:
            others = {other: key for other, key in flash.authentication.items() if other != number}
            self._memory.change(replace(flash, authentication=others))
        return b""

    def _public_key(self, data: bytes, _: Attributes) -> bytes:
        """GET PUBLIC KEY: the algorithm, and the point without the byte that says it is not compressed."""
        (number,) = struct.unpack("!H", data)
        return bytes([P256]) + self._key(number).key.public[1:]

    def _sign(self, data: bytes, session: Attributes) -> bytes:
        """SIGN ECDSA: of a hash."""
        from appliance.simulator import ec_keys

        (number,) = struct.unpack_from("!H", data)
        found = self._key(number)
        _demand(session, SIGN_ECDSA)
        _demand(found.attributes, SIGN_ECDSA)
        try:
            return ec_keys.sign_der(self._memory.flash.kek, key_name(number), found.key, data[2:])
        except ValueError as error:
            raise Failed(Failure.INVALID_DATA) from error

    def _key(self, number: int) -> AsymmetricKey:
        key = self._memory.flash.keys.get(number)
        if key is None:
            raise Failed(Failure.OBJECT_NOT_FOUND)
        return key

    def _entries(self) -> Iterator[_Entry]:
        flash = self._memory.flash
        for number, authentication in flash.authentication.items():
            yield _Entry(number, AUTHENTICATION_KEY, authentication)
        for number, key in flash.keys.items():
            yield _Entry(number, ASYMMETRIC_KEY, key)

    def _find(self, number: int, kind: int) -> _Entry:
        for entry in self._entries():
            if (entry.number, entry.kind) == (number, kind):
                return entry
        raise Failed(Failure.OBJECT_NOT_FOUND)

    def _free(self, number: int, kind: int) -> int:
        """The id that was asked for, which must be free; of 0, any that is."""
        taken = {entry.number for entry in self._entries() if entry.kind == kind}
        if number in taken:
            raise Failed(Failure.OBJECT_EXISTS)
        return number or next(candidate for candidate in range(1, 0x10000) if candidate not in taken)


def _demand(attributes: Attributes, capability: int) -> None:
    if not attributes.capabilities & capability:
        raise Failed(Failure.INSUFFICIENT_PERMISSIONS)


def _text(label: bytes) -> str:
    return label.rstrip(b"\0").decode("utf-8", "replace")
