# SPDX-License-Identifier: Apache-2.0
"""The account store: first start, changes, and every way in which its file can be wrong."""

import asyncio
import errno
import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.accounts import store as store_module
from appliance.accounts.password import INITIAL, Verifier, check
from appliance.accounts.store import Account, AccountStore, Role
from appliance.audit import LOG_NAME, AuditLog
from appliance.errors import PasswordRefused, StateError

GOOD = "Correct horse 7 battery"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accounts.json"


@pytest.fixture
def store(path: Path) -> AccountStore:
    return AccountStore.open(path)


def admin(store: AccountStore) -> Account:
    account = store.get("admin")
    assert account
    return account


def contents(path: Path) -> bytes:
    return path.read_bytes()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)


# First start.


def test_the_first_start_makes_admin(path: Path) -> None:
    """On a new appliance there is `admin` with the initial password, which must be changed."""
    account = admin(AccountStore.open(path))

    assert (account.name, account.role, account.must_change, account.last_login) == ("admin", Role.ADMIN, True, "")
    assert check(account.verifier, INITIAL)
    assert mode(path) == 0o600


def test_the_file_holds_no_password(store: AccountStore, path: Path) -> None:
    """Only the verifier is kept."""
    assert INITIAL not in path.read_text()


def test_the_accounts_survive_a_restart(store: AccountStore, path: Path) -> None:
    """What was made at the first start is read at the second."""
    assert AccountStore.open(path).get("admin") == admin(store)


def test_a_missing_file_does_not_bring_the_initial_password_back(store: AccountStore, path: Path) -> None:
    """Once something was audited, a missing file is damage and no first start."""
    log = AuditLog.open(path.with_name(LOG_NAME))
    log.append("start", actor="", origin="")
    log.close()
    path.unlink()

    with pytest.raises(StateError, match="the account file is missing"):
        AccountStore.open(path)

    assert not path.exists()


def test_an_audit_trail_without_records_is_no_earlier_use(path: Path) -> None:
    """A first start that ended before anything was audited can be repeated."""
    AuditLog.open(path.with_name(LOG_NAME)).close()

    assert admin(AccountStore.open(path)).must_change


def test_a_first_start_without_room_is_no_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the file cannot be made there are no accounts, in memory neither."""
    fill_the_disk(monkeypatch)

    with pytest.raises(StateError, match="No space left"):
        AccountStore.open(path)

    assert not path.exists()


def test_a_first_start_needs_the_folder(tmp_path: Path) -> None:
    """Without a state folder there is no store."""
    with pytest.raises(StateError, match="No such file or directory"):
        AccountStore.open(tmp_path / "missing" / "accounts.json")


# Looking up.


@pytest.mark.parametrize("name", ["", "Admin", "ADMIN", "admin ", "root", "operator", "admin\x00", "\udcff"])
def test_an_unknown_name_has_no_account(name: str, store: AccountStore) -> None:
    """Names are compared whole, and their case matters."""
    assert store.get(name) is None


def test_a_disabled_account_is_none(store: AccountStore, path: Path) -> None:
    """An account that is not enabled cannot be used."""
    path.write_text(path.read_text().replace('"enabled": true', '"enabled": false'))

    assert AccountStore.open(path).get("admin") is None


# Changes.


async def test_a_password_is_changed(store: AccountStore, path: Path) -> None:
    """A new password is in force at once and after a restart; the account need not change it again."""
    async with asyncio.timeout(20):
        await store.set_password("admin", GOOD)

    for account in (admin(store), admin(AccountStore.open(path))):
        assert check(account.verifier, GOOD)
        assert not account.must_change
    assert mode(path) == 0o600


@pytest.mark.parametrize("new", ["short", "PASSWORD", "admin is 7 Horses", "onlyletters"])
async def test_a_bad_password_is_refused(new: str, store: AccountStore, path: Path) -> None:
    """A password that does not meet the policy changes nothing, and the reason does not quote it."""
    before = contents(path)

    with pytest.raises(PasswordRefused) as raised:
        await store.set_password("admin", new)

    assert new not in raised.value.reason
    assert contents(path) == before
    assert admin(store).must_change


async def test_the_same_password_is_refused(store: AccountStore) -> None:
    """The new password is not the current one."""
    await store.set_password("admin", GOOD)

    with pytest.raises(PasswordRefused, match="must differ"):
        await store.set_password("admin", GOOD)


async def test_on_a_full_disk_the_old_password_stays(
    store: AccountStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password that cannot be saved is not in force, in memory or on disk."""
    fill_the_disk(monkeypatch)

    with pytest.raises(StateError, match="No space left"):
        await store.set_password("admin", GOOD)

    for account in (admin(store), admin(AccountStore.open(path))):
        assert check(account.verifier, INITIAL)
        assert account.must_change


async def test_a_login_is_noted(store: AccountStore, path: Path) -> None:
    """The last login is kept over a restart, in any script and of bounded length."""
    assert await store.note_login("admin", "Mon Jan 30 11:24:00 on ttyS0")
    assert admin(AccountStore.open(path)).last_login == "Mon Jan 30 11:24:00 on ttyS0"

    assert await store.note_login("admin", "\udcff\u00e9" * 1000)
    assert admin(AccountStore.open(path)).last_login == "\udcff\u00e9" * 64


async def test_a_login_that_cannot_be_noted_is_a_login(store: AccountStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk does not keep anybody from logging in."""
    fill_the_disk(monkeypatch)

    assert not await store.note_login("admin", "today")


async def test_changes_do_not_lose_each_other(store: AccountStore, path: Path) -> None:
    """Changes that were asked for at the same time are all made."""
    async with asyncio.timeout(20):
        await asyncio.gather(store.set_password("admin", GOOD), *(store.note_login("admin", str(n)) for n in range(9)))

    account = admin(AccountStore.open(path))
    assert check(account.verifier, GOOD)
    assert account.last_login == "8"
    assert account == admin(store)


async def test_a_cancelled_change_is_whole(store: AccountStore, path: Path) -> None:
    """A hang-up during a change leaves memory and disk the same."""
    change = asyncio.create_task(store.set_password("admin", GOOD))
    await asyncio.sleep(0)
    change.cancel()
    with suppress(asyncio.CancelledError):
        await change
    await store.note_login("admin", "afterwards")  # runs when the change has ended

    assert admin(AccountStore.open(path)) == admin(store)


# Damage.


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644, 0o602])
def test_a_file_that_is_open_to_others_is_not_believed(bits: int, store: AccountStore, path: Path) -> None:
    """A file that others can read or write lets nobody in."""
    path.chmod(bits)

    with pytest.raises(StateError, match=f"{bits:04o}"):
        AccountStore.open(path)


def test_a_file_of_somebody_else_is_not_believed(
    store: AccountStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that belongs to another user lets nobody in."""
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    with pytest.raises(StateError, match=f"belongs to the user with the number {owner}"):
        AccountStore.open(path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("link", "symbolic links"), ("folder", "Is a directory"), ("pipe", "not a regular file")],
)
def test_something_else_is_not_believed(kind: str, reason: str, store: AccountStore, path: Path) -> None:
    """Only a regular file is read, and no link is followed."""
    original = path.rename(path.with_name("original"))
    match kind:
        case "link":
            path.symlink_to(original)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path, 0o600)

    with pytest.raises(StateError, match=reason):
        AccountStore.open(path)


def set_member(*place: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for name in place[:-1]:
            document = document[name]
        document[place[-1]] = to

    return change


def drop_member(*place: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for name in place[:-1]:
            document = document[name]
        del document[place[-1]]

    return change


ADMIN = ("accounts", "admin")
SCRYPT = (*ADMIN, "scrypt")


@pytest.mark.parametrize(
    "change",
    [
        set_member("version", to=2),
        set_member("version", to=True),
        set_member("comment", to=""),
        set_member("accounts", to={}),
        set_member("accounts", to=[]),
        drop_member("accounts"),
        drop_member(*ADMIN),
        set_member(*ADMIN, to=None),
        set_member(*ADMIN, "role", to="root"),
        set_member(*ADMIN, "role", to=1),
        set_member(*ADMIN, "must_change", to=0),
        set_member(*ADMIN, "must_change", to=None),
        set_member(*ADMIN, "enabled", to="yes"),
        set_member(*ADMIN, "last_login", to=0),
        set_member(*ADMIN, "last_login", to="x" * 129),
        set_member(*ADMIN, "password", to=""),
        drop_member(*ADMIN, "must_change"),
        drop_member(*SCRYPT),
        drop_member(*SCRYPT, "salt"),
        set_member(*SCRYPT, "hash", to=""),
        set_member(*SCRYPT, "hash", to="00" * 31),
        set_member(*SCRYPT, "hash", to="xy" * 32),
        set_member(*SCRYPT, "salt", to="00" * 7),
        set_member(*SCRYPT, "n", to=0),
        set_member(*SCRYPT, "n", to=1),
        set_member(*SCRYPT, "n", to=32767),
        set_member(*SCRYPT, "n", to=-32768),
        set_member(*SCRYPT, "n", to=1 << 19),
        set_member(*SCRYPT, "r", to=0),
        set_member(*SCRYPT, "r", to=1 << 20),
        set_member(*SCRYPT, "p", to=0),
        set_member(*SCRYPT, "p", to=17),
        set_member(*SCRYPT, "n", to=32768.0),
        set_member("accounts", "", to={}),
        set_member("accounts", "a b", to={}),
    ],
)
def test_a_file_of_another_shape_is_not_believed(
    change: Callable[[dict[str, Any]], None], store: AccountStore, path: Path
) -> None:
    """A member that is missing, unknown or of another kind lets nobody in, and the file is left as it is."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))
    before = path.read_bytes()

    with pytest.raises(StateError, match="damaged"):
        AccountStore.open(path)

    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 512,
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b" " * (store_module.LARGEST_FILE + 1),
        b"9" * 9999,
    ],
)
def test_a_file_that_is_none_of_ours_is_not_believed(data: bytes, store: AccountStore, path: Path) -> None:
    """Rubbish, also what a power cut may leave, lets nobody in."""
    path.write_bytes(data)

    with pytest.raises(StateError, match="damaged"):
        AccountStore.open(path)


def test_an_older_cost_still_counts(store: AccountStore, path: Path) -> None:
    """A verifier with another cost, written by an earlier version, still lets its owner in."""
    document = json.loads(path.read_bytes())
    document["accounts"]["admin"]["scrypt"] = {
        "n": 16384,
        "r": 8,
        "p": 1,
        "salt": b"SodiumChloride".hex(),
        "hash": "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2",  # RFC 7914, section 12
    }
    path.write_text(json.dumps(document))

    assert check(admin(AccountStore.open(path)).verifier, "pleaseletmein")


@given(position=st.integers(0, 10_000), bits=st.integers(1, 255), cut=st.booleans())
@settings(max_examples=200)
def test_a_damaged_byte_never_opens_the_door(
    position: int, bits: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A file with one wrong byte, or cut short, is refused or read; it never makes the initial password anew."""
    path = tmp_path_factory.mktemp("damage") / "accounts.json"
    verifier = Verifier(b"SodiumChloride", bytes(32), n=16, r=1)
    data = bytearray(store_module._encode({"admin": Account("admin", Role.ADMIN, verifier, must_change=False)}))
    position %= len(data)
    if cut:
        del data[position:]
    else:
        data[position] ^= bits
    path.write_bytes(data)
    path.chmod(0o600)

    with suppress(StateError):
        AccountStore.open(path)

    assert path.read_bytes() == data
