# SPDX-License-Identifier: Apache-2.0
"""The keys of simulated cards: NIST P-256, stored only under a KEK (AES-256-GCM).

It imports cryptography, and so is imported when a key is first used, because a start should be quick.
"""

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.simulator.memory import Key, Source

CURVE = ec.SECP256R1()
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # n of P-256 (FIPS 186-4, D.1.2.3)
SIZE = 32  # bytes of a scalar and of a coordinate
_NONCE = 12  # bytes (NIST SP 800-38D, 5.2.1.1)
_HASHES: dict[int, hashes.HashAlgorithm] = {
    kind.digest_size: kind
    for kind in (hashes.SHA1(), hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512())  # noqa: S303 (the host hashes; the card learns only the length)
}


def seal(kek: bytes, name: str, private: bytes) -> bytes:
    """The private half of a key, or another secret, as it is stored."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(kek).encrypt(nonce, private, name.encode())


def unseal(kek: bytes, name: str, key: Key) -> bytes:
    """The private half. Raises `ValueError` when the file was tampered with."""
    return opened(kek, name, key.sealed)


def opened(kek: bytes, name: str, sealed: bytes) -> bytes:
    """What was sealed, a key or something else. Raises `ValueError` when the file was tampered with."""
    try:
        return AESGCM(kek).decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode())
    except InvalidTag as error:
        raise ValueError("the key does not open with this KEK") from error


def generate(kek: bytes, name: str) -> Key:
    """A new key pair."""
    return _key(kek, name, ec.generate_private_key(CURVE), Source.GENERATED)


def imported(kek: bytes, name: str, private: bytes) -> Key:
    """The key pair of a scalar that came from outside. Raises `ValueError` for one that the curve does not have."""
    scalar = int.from_bytes(private, "big")
    if not 0 < scalar < ORDER:  # older versions of the library take it nevertheless
        raise ValueError("not a private key of this curve")
    return _key(kek, name, ec.derive_private_key(scalar, CURVE), Source.IMPORTED)


def sign(kek: bytes, name: str, key: Key, digest: bytes) -> bytes:
    """The ECDSA signature of a hash, r and s side by side. Raises `ValueError` for a length that no hash has."""
    return b"".join(number.to_bytes(SIZE, "big") for number in decode_dss_signature(sign_der(kek, name, key, digest)))


def sign_der(kek: bytes, name: str, key: Key, digest: bytes) -> bytes:
    """The same as ASN.1 has it (RFC 3279, 2.2.3)."""
    if len(digest) not in _HASHES:
        raise ValueError("no hash has this length")
    return _private(kek, name, key).sign(digest, ec.ECDSA(Prehashed(_HASHES[len(digest)])))


def agree(kek: bytes, name: str, key: Key, point: bytes) -> bytes:
    """The ECDH shared secret. Raises `ValueError` for what is no point of the curve."""
    peer = ec.EllipticCurvePublicKey.from_encoded_point(CURVE, point)
    return _private(kek, name, key).exchange(ec.ECDH(), peer)


def fingerprint(public: bytes, created: int, *, ecdh: bool) -> bytes:
    """The OpenPGP fingerprint (RFC 4880, 12.2; RFC 6637, 9); `created` in seconds since 1970."""
    algorithm, parameters = (18, b"\x03\x01\x08\x07") if ecdh else (19, b"")
    oid = bytes.fromhex("082A8648CE3D030107")
    point = (8 * len(public) - 5).to_bytes(2, "big") + public  # an MPI: the first byte of a point is 04
    packet = b"\x04" + created.to_bytes(4, "big") + bytes([algorithm]) + oid + point + parameters
    return hashlib.sha1(b"\x99" + len(packet).to_bytes(2, "big") + packet, usedforsecurity=False).digest()


def _key(kek: bytes, name: str, private: ec.EllipticCurvePrivateKey, source: Source) -> Key:
    sealed = seal(kek, name, private.private_numbers().private_value.to_bytes(SIZE, "big"))
    public = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return Key(sealed, public, source)


def _private(kek: bytes, name: str, key: Key) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(unseal(kek, name, key), "big"), CURVE)
