# SPDX-License-Identifier: Apache-2.0
"""Keys wrapped under a DKEK, as genuine SmartCard-HSMs give and take them. It is imported when `ec_keys` is.

A wrapped key is: the DKEK's key check value, the kind of key, four fields that say what the key is for, the key itself
under AES-256 in CBC mode, and an AES-CMAC over all of it. Both AES keys are derived from the DKEK. The clear text
begins with a random number and the size of the key in bits. Every field has two bytes of length before it.
"""

import hashlib
import hmac
import os
from collections.abc import Iterator
from enum import IntEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.cmac import CMAC

from appliance.simulator import cvc, ec_keys, rsa_keys
from appliance.simulator.iso7816 import objects
from appliance.simulator.memory import Key
from appliance.simulator.smartcard_hsm_dkek import check_value

_BLOCK = 16  # bytes, of AES and of the authentication code
_CHECK, _RANDOM, _LENGTH = 8, 8, 2  # bytes: check value, random number, what is before a field or tells a size
_PURPOSES = 4  # fields: default algorithm; allowed ones, access conditions and key OID, which are left empty
_END = b"\x80"  # of the clear text, before zeros (ISO/IEC 9797-1, padding method 2)


class Kind(IntEnum):
    """Which numbers a wrapped key consists of."""

    RSA = 5  # private exponent, modulus, public exponent
    RSA_CRT = 6  # d mod p-1, d mod q-1, p, inverse of q mod p, q, modulus, public exponent
    EC = 12  # coefficients a and b, prime, order, base point, private scalar, public point


def wrap(dkek: bytes, kek: bytes, name: str, key: Key) -> bytes:
    """The key, which is stored under the KEK and that name. Raises `ValueError` when it does not open."""
    kind, algorithm, size, parts = _rsa(kek, name, key) if key.is_rsa else _ec(kek, name, key)
    clear = os.urandom(_RANDOM) + size.to_bytes(_LENGTH, "big") + b"".join(map(_field, parts)) + _END
    clear += bytes(-len(clear) % _BLOCK)
    encryptor = _cipher(dkek).encryptor()
    purposes = (algorithm, *[b""] * (_PURPOSES - 1))
    head = check_value(dkek) + bytes([kind]) + b"".join(map(_field, purposes))
    body = head + encryptor.update(clear) + encryptor.finalize()
    return body + _code(dkek, body).finalize()


def unwrap(dkek: bytes, kek: bytes, name: str, wrapped: bytes) -> Key:
    """The key, to be stored under the KEK and that name.

    Raises `ValueError` for one that was wrapped under another DKEK or has been changed, and for other kinds of keys.
    """
    body, code = wrapped[:-_BLOCK], wrapped[-_BLOCK:]
    if not hmac.compare_digest(body[:_CHECK], check_value(dkek)):
        raise ValueError("wrapped under another DKEK")
    try:
        _code(dkek, body).verify(code)
    except InvalidSignature as error:
        raise ValueError("not as it was wrapped") from error
    kind, rest = Kind(int.from_bytes(body[_CHECK : _CHECK + 1], "big")), body[_CHECK + 1 :]
    for _ in range(_PURPOSES):
        _, rest = _first(rest)
    decryptor = _cipher(dkek).decryptor()
    clear = decryptor.update(rest) + decryptor.finalize()
    content, end, _ = clear.rpartition(_END)
    parts = list(_fields(content[_RANDOM + _LENGTH :])) if end else []
    return _imported(kek, name, kind, parts)


def _ec(kek: bytes, name: str, key: Key) -> tuple[Kind, bytes, int, list[bytes]]:
    curve = dict(cvc.CURVE)
    domain = [curve[tag] for tag in (0x82, 0x83, 0x81, 0x85, 0x84)]
    parts = [*domain, ec_keys.unseal(kek, name, key), key.public]
    return Kind.EC, _oid(cvc.ECDSA_WITH_SHA256), 8 * ec_keys.SIZE, parts


def _rsa(kek: bytes, name: str, key: Key) -> tuple[Kind, bytes, int, list[bytes]]:
    private = int.from_bytes(ec_keys.unseal(kek, name, key), "big")
    p, q = rsa_keys.primes(int.from_bytes(key.public, "big"), private)
    numbers = private % (p - 1), private % (q - 1), p, pow(q, -1, p), q
    halves = [number.to_bytes(rsa_keys.SIZE // 2, "big") for number in numbers]
    parts = [*halves, key.public, rsa_keys.EXPONENT.to_bytes(3, "big")]
    return Kind.RSA_CRT, _oid(cvc.RSA_WITH_SHA256), rsa_keys.BITS, parts


def _imported(kek: bytes, name: str, kind: Kind, parts: list[bytes]) -> Key:
    """The key of these numbers. Raises `ValueError` when they make none that the card knows."""
    match kind, [int.from_bytes(part, "big") for part in parts]:
        case Kind.EC, [_, _, prime, _, _, _, _] if prime == int.from_bytes(cvc.PRIME, "big"):
            key = ec_keys.imported(kek, name, parts[5])
            told = parts[6]
        case Kind.RSA_CRT, [_, _, p, _, q, _, rsa_keys.EXPONENT]:
            key = rsa_keys.imported(kek, name, p, q)
            told = parts[5]
        case Kind.RSA, [private, modulus, rsa_keys.EXPONENT]:
            key = rsa_keys.imported(kek, name, *rsa_keys.primes(modulus, private))
            told = parts[1]
        case _:
            raise ValueError("not a key of this card")
    if key.public != told:
        raise ValueError("the two halves are of different keys")
    return key


def _cipher(dkek: bytes) -> Cipher[CBC]:
    """With no initialisation vector: the random number at the beginning takes its place."""
    return Cipher(AES(hashlib.sha256(dkek + b"\0\0\0\1").digest()), CBC(bytes(_BLOCK)))


def _code(dkek: bytes, body: bytes) -> CMAC:
    code = CMAC(AES(hashlib.sha256(dkek + b"\0\0\0\2").digest()))
    code.update(body)
    return code


def _oid(identifier: bytes) -> bytes:
    """An object identifier without its tag."""
    return dict(objects(identifier))[0x06]


def _field(value: bytes) -> bytes:
    return len(value).to_bytes(_LENGTH, "big") + value


def _fields(data: bytes) -> Iterator[bytes]:
    while data:
        value, data = _first(data)
        yield value


def _first(data: bytes) -> tuple[bytes, bytes]:
    """The first field, and what is behind it. Raises `ValueError` when it is not whole."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "big")
    if len(data) < end:
        raise ValueError("not a whole field")
    return data[_LENGTH:end], data[end:]
