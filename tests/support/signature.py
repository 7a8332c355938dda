# SPDX-License-Identifier: Apache-2.0
"""A signature of a simulated card, checked by somebody else."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256


def verifies(public: bytes, signature: bytes, digest: bytes) -> bool:
    """Whether r and s, side by side, sign the hash under the point."""
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    try:
        key.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(SHA256())))
    except InvalidSignature:
        return False
    return True


def verifies_rsa(modulus: bytes, signature: bytes, data: bytes) -> bool:
    """Whether it signs the data's SHA-256 hash, padded as PKCS #1 v1.5 has it, under the modulus and 65537."""
    key = rsa.RSAPublicNumbers(65537, int.from_bytes(modulus, "big")).public_key()
    try:
        key.verify(signature, data, padding.PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True
