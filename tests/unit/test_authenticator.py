# SPDX-License-Identifier: Apache-2.0
"""Logging in: who gets an account, what a failure costs, and what a restart does not forget."""

import asyncio
import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.accounts import authenticator as module
from appliance.accounts.authenticator import Authenticator
from appliance.accounts.password import Verifier
from appliance.accounts.store import Account, AccountStore, Role
from appliance.errors import StateError

RIGHT, WRONG = "right", "wrong"


class Clock:
    """A clock that goes on only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[Verifier]:
    """The verifiers that were checked; checking costs nothing here."""
    verifiers: list[Verifier] = []

    def check(verifier: Verifier, password: str) -> bool:
        verifiers.append(verifier)
        return verifier.hash == password.encode()

    monkeypatch.setattr(module, "check", check)
    return verifiers


@pytest.fixture
def store(tmp_path: Path) -> AccountStore:
    accounts = [
        Account("admin", Role.ADMIN, Verifier(b"1", RIGHT.encode()), must_change=False),
        Account("monitor", Role.MONITOR, Verifier(b"2", RIGHT.encode()), must_change=False, enabled=False),
    ]
    return AccountStore(tmp_path / "accounts.json", {account.name: account for account in accounts})


@pytest.fixture
def login(tmp_path: Path, store: AccountStore, clock: Clock, checked: list[Verifier]) -> Callable[[], Authenticator]:
    """Makes an authenticator, anew after each restart."""
    return lambda: Authenticator(store, tmp_path / "lockout.json", clock=clock, sleep=clock.sleep)


Login = Callable[[], Authenticator]


async def test_the_right_password_leads_to_the_account(login: Login, store: AccountStore, clock: Clock) -> None:
    """Name and password of an account lead to it, without a pause."""
    assert await login().login("ttyS0", "admin", RIGHT) is store.get("admin")
    assert clock.slept == [0.0]


@pytest.mark.parametrize(
    ("name", "password", "salt"),
    [
        ("admin", WRONG, b"1"),
        ("admin", "", b"1"),
        ("nobody", RIGHT, bytes(16)),
        ("ADMIN", RIGHT, bytes(16)),
        ("monitor", RIGHT, bytes(16)),
    ],
)
async def test_all_that_is_wrong_looks_the_same(
    name: str, password: str, salt: bytes, login: Login, clock: Clock, checked: list[Verifier]
) -> None:
    """A wrong password, an unknown and a disabled user each cost one check and one failure, and say nothing."""
    authenticator = login()

    assert await authenticator.login("ttyS0", name, password) is None
    assert await authenticator.login("ttyS0", name, password) is None

    assert [verifier.salt for verifier in checked] == [salt, salt]
    assert clock.slept == [0.0, 1.0]


async def test_without_a_store_nobody_gets_in(tmp_path: Path, clock: Clock, checked: list[Verifier]) -> None:
    """When the accounts could not be read, every login fails like a wrong password."""
    authenticator = Authenticator(None, tmp_path / "lockout.json", clock=clock, sleep=clock.sleep)

    assert await authenticator.login("ttyS0", "admin", "PASSWORD") is None
    assert [verifier.salt for verifier in checked] == [bytes(16)]


async def test_nobodys_verifier_is_never_matched(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a password that matched the stand-in of an unknown user would be a failure."""
    monkeypatch.setattr(module, "check", lambda _verifier, _password: True)

    authenticator = Authenticator(None, tmp_path / "lockout.json", clock=clock, sleep=clock.sleep)

    assert await authenticator.login("ttyS0", "admin", "x") is None
    assert await authenticator.login("ttyS0", "admin", "x") is None
    assert clock.slept == [0, 1]


async def test_failures_cost_more_and_more(login: Login, clock: Clock) -> None:
    """Each try waits out the pause of the failures before it."""
    authenticator = login()

    for _ in range(11):
        await authenticator.login("ttyS0", "admin", WRONG)

    assert clock.slept == [0, 1, 1, 1, 2, 4, 8, 16, 32, 60, 60]


async def test_another_name_does_not_shorten_the_pause(login: Login, clock: Clock) -> None:
    """Failures count for the line, not for the name."""
    authenticator = login()

    for name in ("admin", "operator", "monitor", "audit", "root"):
        await authenticator.login("ttyS0", name, WRONG)

    assert clock.slept == [0, 1, 1, 1, 2]


async def test_a_success_clears_the_count(login: Login, clock: Clock, tmp_path: Path) -> None:
    """After a success the next failure is the first again, also after a restart."""
    authenticator = login()
    for password in (WRONG, WRONG, WRONG, WRONG, RIGHT):
        await authenticator.login("ttyS0", "admin", password)
    clock.slept.clear()

    for _ in range(2):
        await authenticator.login("ttyS0", "admin", WRONG)
    await login().login("ttyS0", "admin", WRONG)

    assert clock.slept == [0, 1, 1]


async def test_a_restart_forgets_nothing(login: Login, clock: Clock) -> None:
    """The pause is the same after a restart."""
    for _ in range(6):
        await login().login("ttyS0", "admin", WRONG)

    assert clock.slept == [0, 1, 1, 1, 2, 4]


async def test_lines_do_not_wait_for_each_other(login: Login, clock: Clock) -> None:
    """Failures from the network do not slow the console down, and one address counts as one line."""
    authenticator = login()
    for port in range(5):
        await authenticator.login(f"10.0.0.7/{50_000 + port}", "admin", WRONG)

    assert clock.slept == [0, 1, 1, 1, 2]
    assert await authenticator.login("ttyS0", "admin", RIGHT)
    assert clock.slept[5:] == [0]


async def test_a_waiting_line_does_not_stop_another(
    tmp_path: Path, store: AccountStore, clock: Clock, checked: list[Verifier]
) -> None:
    """While one line waits out its pause, another logs in."""
    paused, released = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        if seconds:
            paused.set()
            await released.wait()

    authenticator = Authenticator(store, tmp_path / "lockout.json", clock=clock, sleep=sleep)
    await authenticator.login("10.0.0.7/1", "admin", WRONG)
    waiting = asyncio.create_task(authenticator.login("10.0.0.7/1", "admin", RIGHT))

    async with asyncio.timeout(20):
        await paused.wait()
        assert await authenticator.login("ttyS0", "admin", RIGHT)
        assert not waiting.done()
        released.set()
        assert await waiting


async def test_tries_on_one_line_are_made_one_by_one(login: Login, clock: Clock) -> None:
    """Trying at the same time does not save the pause."""
    authenticator = login()

    async with asyncio.timeout(20):
        await asyncio.gather(*(authenticator.login(f"10.0.0.7/{port}", "admin", WRONG) for port in range(5)))

    assert clock.slept == [0, 1, 1, 1, 2]


async def test_a_hang_up_does_not_save_the_failure(
    tmp_path: Path, store: AccountStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that has begun counts, although the line hangs up before it ends."""
    begun, gate = threading.Event(), threading.Event()

    def check(_verifier: Verifier, _password: str) -> bool:
        begun.set()
        return gate.wait(10) and False

    monkeypatch.setattr(module, "check", check)
    authenticator = Authenticator(store, tmp_path / "lockout.json", clock=clock, sleep=clock.sleep)
    attempt = asyncio.create_task(authenticator.login("ttyS0", "admin", WRONG))
    async with asyncio.timeout(20):
        await asyncio.to_thread(begun.wait, 10)
        attempt.cancel()
        await asyncio.wait([attempt])
        gate.set()
        await authenticator.login("ttyS0", "admin", WRONG)

    assert attempt.cancelled()
    assert clock.slept == [0, 1]


async def test_a_clock_that_was_set_back_does_not_lock_the_console(login: Login, clock: Clock) -> None:
    """After the clock was set back by a year, the pause is what it was."""
    for _ in range(5):
        await login().login("ttyS0", "admin", WRONG)
    clock.now -= 365 * 86400

    assert await login().login("ttyS0", "admin", RIGHT)
    assert clock.slept[-1] == 4


async def test_on_a_full_disk_failures_still_count(
    login: Login, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Failures that cannot be saved count as long as the daemon runs, and nobody is locked out."""

    def full(path: Path, _data: bytes, _mode: int) -> None:
        raise StateError(path, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_atomically", full)
    authenticator = login()
    for _ in range(5):
        await authenticator.login("ttyS0", "admin", WRONG)

    assert await authenticator.login("ttyS0", "admin", RIGHT)
    assert clock.slept == [0, 1, 1, 1, 2, 4]
    assert not (tmp_path / "lockout.json").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"ttyS0": 3}',
        b'{"ttyS0": {"failures": -1, "last": 0.0}}',
        b'{"ttyS0": {"failures": "9", "last": 0.0}}',
        b'{"ttyS0": {"failures": 9, "last": "now"}}',
        b'{"ttyS0": {"failures": 9, "last": 0.0, "for ever": true}}',
        b"[" * 60_000,
    ],
)
async def test_a_damaged_file_does_not_lock_the_console(
    data: bytes, login: Login, clock: Clock, tmp_path: Path
) -> None:
    """A file of failures that cannot be read counts for nothing, and is replaced at the next failure."""
    (tmp_path / "lockout.json").write_bytes(data)
    authenticator = login()

    await authenticator.login("ttyS0", "admin", WRONG)
    assert await authenticator.login("ttyS0", "admin", RIGHT)

    assert clock.slept == [0, 1]
    assert json.loads((tmp_path / "lockout.json").read_bytes()) == {}


async def test_times_beyond_reason_do_not_lock_the_console(login: Login, clock: Clock, tmp_path: Path) -> None:
    """Whatever time a file of failures states, the pause has its limit."""
    for last in ("1e308", "Infinity", "NaN", "-Infinity"):
        (tmp_path / "lockout.json").write_text(f'{{"ttyS0": {{"failures": {10**30}, "last": {last}}}}}')

        assert await login().login("ttyS0", "admin", RIGHT)

    assert max(clock.slept) == 60


async def test_the_file_stays_small(login: Login, clock: Clock, tmp_path: Path) -> None:
    """Failures from ever new addresses do not fill the disk; the oldest are forgotten."""
    authenticator = login()
    for number in range(module.MOST_LINES + 2):
        clock.now += 1
        await authenticator.login(f"10.0.0.{number}/1", "admin", WRONG)

    kept = json.loads((tmp_path / "lockout.json").read_bytes())
    assert list(kept) == [f"10.0.0.{number}" for number in range(2, module.MOST_LINES + 2)]
