# SPDX-License-Identifier: Apache-2.0
"""The objects in a simulated PKCS#11 token, and the commands that are about them.

Attributes travel as they are in memory on the machines of our time: numbers have eight bytes, the lowest first.
"""

import struct
from enum import IntEnum

from appliance.simulator.memory import Memory
from appliance.simulator.pkcs11_flash import MOST_OBJECTS, Pkcs11Flash, PrivateKey, PublicKey, key_name

P256 = bytes.fromhex("06082A8648CE3D030107")  # the curve's OID (RFC 5480, 2.1.1.1)
_HASHES = (20, 28, 32, 48, 64)  # bytes
_PUBLIC_KEY, _PRIVATE_KEY, _EC = 0x02, 0x03, 0x03  # CKO_, CKK_
_GENERATE = 0x1040  # CKM_EC_KEY_PAIR_GEN
_YES, _NO = b"\1", b"\0"


class Failure(IntEnum):
    """What a command fails with: the numbers of PKCS#11 2.40 (CKR_), and of the vendor of the Luna HSMs."""

    ARGUMENTS_BAD = 0x07
    ATTRIBUTE_SENSITIVE = 0x11
    ATTRIBUTE_TYPE_INVALID = 0x12
    DATA_LEN_RANGE = 0x21
    DEVICE_ERROR = 0x30
    DEVICE_MEMORY = 0x31
    FUNCTION_NOT_SUPPORTED = 0x54
    OBJECT_HANDLE_INVALID = 0x82
    PIN_INCORRECT = 0xA0
    PIN_LEN_RANGE = 0xA2
    PIN_LOCKED = 0xA4
    TEMPLATE_INCONSISTENT = 0xD1
    USER_NOT_LOGGED_IN = 0x101
    USER_PIN_NOT_INITIALIZED = 0x102
    USER_TYPE_INVALID = 0x103
    CURVE_NOT_SUPPORTED = 0x140
    SO_LOGIN_FAILURE_THRESHOLD = 0x8000001C


class Failed(Exception):
    """A command fails with this code."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.name)
        self.failure = failure


class Attribute(IntEnum):
    """CKA_."""

    CLASS = 0x00
    TOKEN = 0x01
    PRIVATE = 0x02
    LABEL = 0x03
    KEY_TYPE = 0x100
    ID = 0x102
    SENSITIVE = 0x103
    ENCRYPT = 0x104
    DECRYPT = 0x105
    WRAP = 0x106
    UNWRAP = 0x107
    SIGN = 0x108
    VERIFY = 0x10A
    DERIVE = 0x10C
    VALUE = 0x11
    EXTRACTABLE = 0x162
    LOCAL = 0x163
    NEVER_EXTRACTABLE = 0x164
    ALWAYS_SENSITIVE = 0x165
    KEY_GEN_MECHANISM = 0x166
    MODIFIABLE = 0x170
    EC_PARAMS = 0x180
    EC_POINT = 0x181
    ALWAYS_AUTHENTICATE = 0x202


_Template = dict[int, bytes]


class Objects:
    """The objects. `user` says whether who asks has logged in with the user's PIN: only he sees what is private."""

    def __init__(self, memory: Memory[Pkcs11Flash]) -> None:
        self._memory = memory

    def find(self, data: bytes, *, user: bool) -> bytes:
        """The handles of all objects that have the attributes of a template."""
        wanted = _template(data).items()
        flash = self._memory.flash
        visible = sorted([*flash.public_keys, *(flash.keys if user else ())])
        found = [number for number in visible if wanted <= _attributes(flash, number).items()]
        return struct.pack(f"<{len(found)}I", *found)

    def attribute(self, data: bytes, *, user: bool) -> bytes:
        """One attribute of one object."""
        handle, kind = struct.unpack("<II", data)
        self._demand(handle, user)
        value = _attributes(self._memory.flash, handle).get(kind)
        if value is None:
            sensitive = kind == Attribute.VALUE and handle in self._memory.flash.keys
            raise Failed(Failure.ATTRIBUTE_SENSITIVE if sensitive else Failure.ATTRIBUTE_TYPE_INVALID)
        return value

    def generate(self, data: bytes, *, user: bool) -> bytes:
        """A key pair, by the templates of its public and its private half; the handles of both."""
        if not user:
            raise Failed(Failure.USER_NOT_LOGGED_IN)
        (length,) = struct.unpack_from("<I", data)
        public, private = _template(data[4 : 4 + length]), _template(data[4 + length :])
        if public.get(Attribute.EC_PARAMS) != P256:
            raise Failed(Failure.CURVE_NOT_SUPPORTED)
        flash = self._memory.flash
        if len(flash.keys) + len(flash.public_keys) + 2 > MOST_OBJECTS:
            raise Failed(Failure.DEVICE_MEMORY)
        handles = flash.free_handles()
        self._memory.change(flash.with_new_pair(_name(public), _name(private)))
        return struct.pack("<II", *handles)

    def sign(self, data: bytes, *, user: bool) -> bytes:
        """The ECDSA signature of a hash, r and s side by side."""
        from appliance.simulator import ec_keys

        (handle,) = struct.unpack_from("<I", data)
        self._demand(handle, user)
        key = self._memory.flash.keys.get(handle)
        if key is None:
            raise Failed(Failure.OBJECT_HANDLE_INVALID)
        if len(data) - 4 not in _HASHES:
            raise Failed(Failure.DATA_LEN_RANGE)
        try:
            return ec_keys.sign(self._memory.flash.kek, key_name(handle), key.key, data[4:])
        except ValueError as error:  # the file was tampered with
            raise Failed(Failure.DEVICE_ERROR) from error

    def destroy(self, data: bytes, *, user: bool) -> bytes:
        """Destroy one object."""
        (handle,) = struct.unpack("<I", data)
        self._demand(handle, user)
        if not user:
            raise Failed(Failure.USER_NOT_LOGGED_IN)
        self._memory.change(self._memory.flash.without(handle))
        return b""

    def _demand(self, handle: int, user: bool) -> None:
        flash = self._memory.flash
        if handle not in flash.public_keys and not (user and handle in flash.keys):
            raise Failed(Failure.OBJECT_HANDLE_INVALID)


def _template(data: bytes) -> _Template:
    """The attributes in a message: number, length, value."""
    found = {}
    while data:
        kind, length = struct.unpack_from("<II", data)
        if length > len(data) - 8:
            raise Failed(Failure.ARGUMENTS_BAD)
        found[kind] = data[8 : 8 + length]
        data = data[8 + length :]
    return found


def _name(template: _Template) -> tuple[str, bytes]:
    label = template.get(Attribute.LABEL, b"").decode("utf-8", "replace")
    return label, template.get(Attribute.ID, b"")


def _attributes(flash: Pkcs11Flash, handle: int) -> _Template:
    """All that is told of an object."""
    if handle in flash.keys:
        return _of_private(flash.keys[handle])
    return _of_public(flash.public_keys[handle])


def _of_private(key: PrivateKey) -> _Template:
    kinds = Attribute
    refused = (kinds.DECRYPT, kinds.UNWRAP, kinds.DERIVE, kinds.EXTRACTABLE, kinds.ALWAYS_AUTHENTICATE)
    no: _Template = dict.fromkeys(refused, _NO)
    yes: _Template = dict.fromkeys(
        (kinds.PRIVATE, kinds.SENSITIVE, kinds.ALWAYS_SENSITIVE, kinds.NEVER_EXTRACTABLE), _YES
    )
    return {**_of_both(key), **no, **yes, kinds.CLASS: _number(_PRIVATE_KEY), kinds.SIGN: _YES}


def _of_public(key: PublicKey) -> _Template:
    kinds = Attribute
    no: _Template = dict.fromkeys((kinds.PRIVATE, kinds.ENCRYPT, kinds.WRAP, kinds.DERIVE), _NO)
    point = bytes([0x04, len(key.point)]) + key.point  # an OCTET STRING
    return {**_of_both(key), **no, kinds.CLASS: _number(_PUBLIC_KEY), kinds.VERIFY: _YES, kinds.EC_POINT: point}


def _of_both(key: PrivateKey | PublicKey) -> _Template:
    kinds = Attribute
    return {
        kinds.TOKEN: _YES,
        kinds.LOCAL: _YES,
        kinds.MODIFIABLE: _NO,
        kinds.LABEL: key.label.encode(),
        kinds.ID: key.identifier,
        kinds.KEY_TYPE: _number(_EC),
        kinds.KEY_GEN_MECHANISM: _number(_GENERATE),
        kinds.EC_PARAMS: P256,
    }


def _number(value: int) -> bytes:
    return struct.pack("<Q", value)
