# SPDX-License-Identifier: Apache-2.0
"""The device key encryption key of a simulated SmartCard-HSM, under which keys leave it and come into it."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

SIZE = 32  # bytes of the key, and of each share
MOST_SHARES = 255
_CHECK = 8  # bytes of the key check value
_SEALED = SIZE + 28  # bytes under the KEK: nonce and authentication tag are stored with it
_NAME = "DKEK"  # what it is bound to under the KEK


@dataclass(frozen=True, slots=True)
class Dkek:
    """A DKEK, or as much of it as the shares make that have been imported: it is their exclusive or."""

    shares: int  # of which it is made; 0 for one that the device has drawn itself
    missing: int  # how many of them have not been imported yet
    sealed: bytes  # readable only with the KEK
    check: bytes = b""  # the key check value, which everybody is told; empty while shares are missing

    @classmethod
    def awaited(cls, kek: bytes, shares: int) -> Self:
        """One of so many shares, of which none is there yet; without any, a random one."""
        if not shares:
            return cls._of(kek, os.urandom(SIZE), 0, 0)
        return cls._of(kek, bytes(SIZE), shares, shares)

    def with_share(self, kek: bytes, share: bytes) -> Self:
        """The same with one share more. Raises `ValueError` when it does not open with this KEK."""
        joined = bytes(one ^ other for one, other in zip(self.key(kek), share, strict=True))
        return self._of(kek, joined, self.shares, self.missing - 1)

    def key(self, kek: bytes) -> bytes:
        """The key itself. Raises `ValueError` when it does not open with this KEK."""
        from appliance.simulator import ec_keys

        return ec_keys.opened(kek, _NAME, self.sealed)

    def status(self) -> bytes:
        """What the device tells anybody: shares, missing shares, key check value."""
        return bytes([self.shares, self.missing]) + (self.check or bytes(_CHECK))

    def as_json(self) -> dict[str, Any]:
        """For the token file."""
        return {
            "shares": self.shares,
            "missing": self.missing,
            "sealed": self.sealed.hex(),
            "check": self.check.hex(),
        }

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Self:
        """The inverse. Raises `ValueError`, `KeyError` or `TypeError`."""
        shares, missing = int(entry["shares"]), int(entry["missing"])
        dkek = cls(shares, missing, bytes.fromhex(entry["sealed"]), bytes.fromhex(entry["check"]))
        if not 0 <= missing <= shares <= MOST_SHARES:
            raise ValueError("a DKEK of shares that cannot be")
        if len(dkek.sealed) != _SEALED or len(dkek.check) != (0 if missing else _CHECK):
            raise ValueError("a DKEK of another length")
        return dkek

    @classmethod
    def _of(cls, kek: bytes, key: bytes, shares: int, missing: int) -> Self:
        from appliance.simulator import ec_keys

        return cls(shares, missing, ec_keys.seal(kek, _NAME, key), b"" if missing else check_value(key))


def check_value(key: bytes) -> bytes:
    """The key check value of a DKEK, with which everything begins that is wrapped under it."""
    return hashlib.sha256(key).digest()[:_CHECK]
