# SPDX-License-Identifier: Apache-2.0
"""The accounts and their roles stand in one file, replaced atomically; a damaged file lets nobody in.

``accounts.json`` belongs to the daemon's user with mode 0600. That it is missing means a first start only while there
is no audit trail either: removing it does not bring the initial password back.
"""

import asyncio
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Self

from appliance.accounts.password import INITIAL_VERIFIER, Verifier, make, policy
from appliance.audit import LOG_NAME
from appliance.errors import PasswordRefused, StateError
from appliance.files import write_atomically
from appliance.log import get_logger

VERSION = 1  # of the file's format
LARGEST_FILE = 1 << 20  # bytes
LONGEST_LAST_LOGIN = 128  # characters
COSTLIEST = 256 << 20  # bytes of memory for one scrypt; more does not come from us

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,31}")
_log = get_logger(__name__)


class Role(StrEnum):
    """What an account may do."""

    ADMIN = "admin"
    OPERATOR = "operator"
    MONITOR = "monitor"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Account:
    """One person's way in."""

    name: str
    role: Role
    verifier: Verifier
    must_change: bool
    last_login: str = ""  # e.g. "Mon Jan 30 11:24:00 from 172.20.10.180" or "... on ttyS0"
    enabled: bool = True


class AccountStore:
    """All accounts, in memory and on disk; what `get` returns is what the file holds."""

    def __init__(self, path: Path, accounts: Mapping[str, Account]) -> None:
        self._path = path
        self._accounts = accounts
        # One thread makes all changes, one after the other: each is on disk before it is in memory.
        self._changer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="accounts")

    @classmethod
    def open(cls, path: Path) -> Self:
        """The accounts in the file `path`; at a first start, `admin` with the initial password.

        To be called before the audit trail next to it is begun. Raises `StateError` when the file is missing, damaged,
        or can be read by others.
        """
        try:
            data = _read(path)
        except FileNotFoundError:
            return cls._first_start(path)
        except OSError as error:
            raise StateError(path, f"cannot be read: {error.strerror or error}") from error
        try:
            return cls(path, _decode(json.loads(data)))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StateError(path, "damaged: this is not a file of accounts") from error

    @classmethod
    def _first_start(cls, path: Path) -> Self:
        try:
            used = path.with_name(LOG_NAME).stat().st_size > 0
        except FileNotFoundError:
            used = False
        except OSError as error:
            raise StateError(path, f"cannot be read: {error.strerror or error}") from error
        if used:
            raise StateError(path, f"the account file is missing, but {LOG_NAME} shows that there was one: restore it")
        admin = Account("admin", Role.ADMIN, INITIAL_VERIFIER, must_change=True)
        store = cls(path, {})
        store._save(admin)
        return store

    def get(self, name: str) -> Account | None:
        """The account of this name (the case matters), if it may be used."""
        account = self._accounts.get(name)
        return account if account and account.enabled else None

    async def set_password(self, name: str, new: str) -> None:
        """Make `new` the password of `name`, durable on return.

        Raises `PasswordRefused` when it does not meet the policy, `StateError` when it cannot be saved; either way the
        old one stays in force.
        """
        await self._change(partial(self._set_password, name, new))

    async def note_login(self, name: str, text: str) -> bool:
        """Remember `text` as the last login of `name`; whether it could be saved."""
        try:
            await self._change(partial(self._note_login, name, text[:LONGEST_LAST_LOGIN]))
        except StateError as error:
            _log.warning("last login not saved", reason=str(error))
            return False
        return True

    async def _change(self, change: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._changer, change)

    def _set_password(self, name: str, new: str) -> None:
        account = self._accounts[name]
        if reason := policy(name, new, account.verifier):
            raise PasswordRefused(reason)
        self._save(replace(account, verifier=make(new), must_change=False))

    def _note_login(self, name: str, text: str) -> None:
        self._save(replace(self._accounts[name], last_login=text))

    def _save(self, account: Account) -> None:
        accounts = {**self._accounts, account.name: account}
        write_atomically(self._path, _encode(accounts), 0o600)
        self._accounts = accounts


def _read(path: Path) -> bytes:
    """The file's contents, if it is a file of ours alone. Raises `StateError`, `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StateError(path, "not a regular file")
        if status.st_uid != os.geteuid():
            raise StateError(path, f"belongs to the user with the number {status.st_uid}, not to the daemon's")
        if status.st_mode & 0o077:
            raise StateError(path, f"open to others: its mode is {status.st_mode & 0o7777:04o} and must be 0600")
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise StateError(path, "damaged: too large for a file of accounts")
    return data


def _encode(accounts: Mapping[str, Account]) -> bytes:
    document = {
        "version": VERSION,
        "accounts": {
            account.name: {
                "role": str(account.role),
                "enabled": account.enabled,
                "must_change": account.must_change,
                "last_login": account.last_login,
                "scrypt": {
                    "n": account.verifier.n,
                    "r": account.verifier.r,
                    "p": account.verifier.p,
                    "salt": account.verifier.salt.hex(),
                    "hash": account.verifier.hash.hex(),
                },
            }
            for account in accounts.values()
        },
    }
    return json.dumps(document, indent=1).encode("ascii") + b"\n"


def _decode(document: Any) -> dict[str, Account]:
    """The accounts in `document`. Raises `ValueError`, `TypeError` or `KeyError` unless it is what `_encode` makes."""
    _expect(document, version=int, accounts=dict)
    if document["version"] != VERSION:
        raise ValueError("another version")
    accounts = {name: _decode_account(name, values) for name, values in document["accounts"].items()}
    if "admin" not in accounts:
        raise ValueError("no admin")
    return accounts


def _decode_account(name: str, values: Any) -> Account:
    _expect(values, role=str, enabled=bool, must_change=bool, last_login=str, scrypt=dict)
    if not _NAME.fullmatch(name):
        raise ValueError("not a name")
    if len(values["last_login"]) > LONGEST_LAST_LOGIN:
        raise ValueError("last login too long")
    return Account(
        name=name,
        role=Role(values["role"]),
        verifier=_decode_verifier(values["scrypt"]),
        must_change=values["must_change"],
        last_login=values["last_login"],
        enabled=values["enabled"],
    )


def _decode_verifier(values: Any) -> Verifier:
    _expect(values, n=int, r=int, p=int, salt=str, hash=str)
    n, r, p = values["n"], values["r"], values["p"]
    verifier = Verifier(bytes.fromhex(values["salt"]), bytes.fromhex(values["hash"]), n, r, p)
    if n < 2 or n & (n - 1) or r < 1 or p not in range(1, 17) or 128 * r * n > COSTLIEST:
        raise ValueError("cost out of bounds")
    if len(verifier.salt) < 8 or len(verifier.hash) != 32:
        raise ValueError("salt or hash of another length")
    return verifier


def _expect(values: Any, **types: type) -> None:
    """Raises `ValueError` unless `values` is an object with exactly these members of exactly these types."""
    if not isinstance(values, dict) or values.keys() != types.keys():
        raise ValueError("members are missing or unknown")
    if any(type(values[key]) is not kind for key, kind in types.items()):
        raise ValueError("a member is of another type")
