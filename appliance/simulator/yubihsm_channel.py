# SPDX-License-Identifier: Apache-2.0
"""The device's side of a session with a YubiHSM 2, and the sealing of its secrets.

The session is GlobalPlatform's secure channel protocol 03 with AES-128 (SCP03, GPC_SPE_014), as the device's maker has
adapted it. Imported when a session is first opened, because a start should be quick.
"""

import os
from collections.abc import Callable
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import cmac, constant_time
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_CARD, _HOST, _ENCRYPTION, _MAC, _RESPONSE_MAC = 0x00, 0x01, 0x04, 0x06, 0x07  # derivation constants
BLOCK = 16  # bytes
MAC = 8  # bytes of the MAC that is sent, and of a challenge and a cryptogram
_NONCE = 12  # bytes (NIST SP 800-38D, 5.2.1.1)


class BadMac(Exception):
    """A message is not from whom it should be."""


class Channel:
    """One session: first only proposed, then authenticated."""

    def __init__(self, keys: bytes, host_challenge: bytes, card_challenge: bytes) -> None:
        """Of an authentication key, which is two keys."""
        context = host_challenge + card_challenge
        encryption, mac = keys[:BLOCK], keys[BLOCK:]
        self._encryption = _derive(encryption, _ENCRYPTION, context, BLOCK)
        self._mac = _derive(mac, _MAC, context, BLOCK)
        self._response_mac = _derive(mac, _RESPONSE_MAC, context, BLOCK)
        self.card_cryptogram = _derive(self._mac, _CARD, context, MAC)
        self._host_cryptogram = _derive(self._mac, _HOST, context, MAC)
        self._chain = bytes(BLOCK)
        self._counter = 0
        self.authenticated = False

    @classmethod
    def proposed(cls, keys: bytes, host_challenge: bytes) -> tuple[bytes, Self]:
        """A challenge of the card's, and the channel that comes of it."""
        challenge = os.urandom(MAC)
        return challenge, cls(keys, host_challenge, challenge)

    def authenticate(self, message: bytes) -> None:
        """The host proves that it has the key, with the whole message. Raises `BadMac`."""
        cryptogram, chain = message[-2 * MAC : -MAC], self._checked(message)
        if self.authenticated or not constant_time.bytes_eq(cryptogram, self._host_cryptogram):
            raise BadMac
        self._chain, self._counter, self.authenticated = chain, 1, True

    def opened(self, message: bytes, start: int) -> bytes:
        """What is in a message, from that byte on, as far as it can be read; nothing changes."""
        content = message[start:-MAC]
        if not self.authenticated or not content or len(content) % BLOCK:
            return b""
        return self._cipher().decryptor().update(content)

    def exchange(self, message: bytes, start: int, answer: Callable[[bytes], bytes], head: bytes) -> bytes:
        """The whole answer to a message, with `head` before what is encrypted. Raises `BadMac`."""
        chain = self._checked(message)
        content = self.opened(message, start)
        if not content:
            raise BadMac
        plain = answer(content)
        padded = plain + b"\x80" + bytes(-(len(plain) + 1) % BLOCK)
        body = self._cipher().encryptor().update(padded)
        length = len(head) - 1 + len(body) + MAC  # of all behind the byte for the command
        whole = head[:1] + length.to_bytes(2, "big") + head[1:] + body
        self._chain, self._counter = chain, self._counter + 1
        return whole + _cmac(self._response_mac, chain + whole)[:MAC]

    def _checked(self, message: bytes) -> bytes:
        """The new chaining value."""
        chain = _cmac(self._mac, self._chain + message[:-MAC])
        if not constant_time.bytes_eq(message[-MAC:], chain[:MAC]):
            raise BadMac
        return chain

    def _cipher(self) -> "Cipher[modes.CBC]":
        block = Cipher(algorithms.AES(self._encryption), modes.ECB()).encryptor()  # noqa: S305  # one block, as SCP03 has it
        return Cipher(algorithms.AES(self._encryption), modes.CBC(block.update(self._counter.to_bytes(BLOCK, "big"))))


def seal(kek: bytes, name: str, secret: bytes) -> bytes:
    """A secret under the KEK, bound to a name."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(kek).encrypt(nonce, secret, name.encode())


def unseal(kek: bytes, name: str, sealed: bytes) -> bytes:
    """The inverse. Raises `ValueError` when the file was tampered with."""
    try:
        return AESGCM(kek).decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode())
    except InvalidTag as error:
        raise ValueError("the secret does not open with this KEK") from error


def _derive(key: bytes, constant: int, context: bytes, length: int) -> bytes:
    """The key derivation of SCP03 (4.1.5), in counter mode with one block."""
    data = bytes(11) + bytes([constant, 0]) + (length * 8).to_bytes(2, "big") + b"\1" + context
    return _cmac(key, data)[:length]


def _cmac(key: bytes, data: bytes) -> bytes:
    mac = cmac.CMAC(algorithms.AES(key))
    mac.update(data)
    return mac.finalize()
