# SPDX-License-Identifier: Apache-2.0
"""The RSA keys of simulated cards: 2048 bits, stored only under a KEK. It is imported when `ec_keys` is."""

import hashlib

from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.simulator.ec_keys import seal, unseal
from appliance.simulator.memory import Key, Source

BITS, EXPONENT = 2048, 65537
SIZE = BITS // 8  # bytes of a modulus and of a signature
_SHA256 = bytes.fromhex("3031300D060960864801650304020105000420")  # what stands before the hash (RFC 8017, 9.2)


def generate(kek: bytes, name: str) -> Key:
    """A new key pair."""
    numbers = rsa.generate_private_key(EXPONENT, BITS).private_numbers()
    modulus = numbers.public_numbers.n.to_bytes(SIZE, "big")
    return Key(seal(kek, name, numbers.d.to_bytes(SIZE, "big")), modulus, Source.GENERATED)


def imported(kek: bytes, name: str, p: int, q: int) -> Key:
    """The key pair of two primes that came from outside. Raises `ValueError` for what makes no key of this length."""
    modulus, phi = p * q, (p - 1) * (q - 1)
    if modulus.bit_length() != BITS:
        raise ValueError("not the primes of a key of this length")
    private = pow(EXPONENT, -1, phi)
    if pow(pow(2, EXPONENT, modulus), private, modulus) != 2:
        raise ValueError("not two primes")
    return Key(seal(kek, name, private.to_bytes(SIZE, "big")), modulus.to_bytes(SIZE, "big"), Source.IMPORTED)


def primes(modulus: int, private: int) -> tuple[int, int]:
    """The two that make the modulus. Raises `ValueError` when the private exponent is that of another key."""
    if pow(pow(2, EXPONENT, modulus), private, modulus) != 2:  # older versions of the library search for a minute
        raise ValueError("not the two halves of a key")
    return rsa.rsa_recover_prime_factors(modulus, EXPONENT, private)


def power(kek: bytes, name: str, key: Key, block: bytes) -> bytes:
    """The signature primitive RSASP1 (RFC 8017, 5.2.1). Raises `ValueError` for what is no number below the modulus."""
    message, modulus = int.from_bytes(block, "big"), int.from_bytes(key.public, "big")
    if len(block) != SIZE or message >= modulus:
        raise ValueError("not a block for this key")
    return pow(message, int.from_bytes(unseal(kek, name, key), "big"), modulus).to_bytes(SIZE, "big")


def sign(kek: bytes, name: str, key: Key, data: bytes) -> bytes:
    """The signature of the data's SHA-256 hash (RSASSA-PKCS1-v1_5; RFC 8017, 8.2)."""
    hashed = _SHA256 + hashlib.sha256(data).digest()
    return power(kek, name, key, b"\0\1" + b"\xff" * (SIZE - 3 - len(hashed)) + b"\0" + hashed)
