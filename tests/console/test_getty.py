# SPDX-License-Identifier: Apache-2.0
"""The local console over a real pty: from the banner to the logout, whatever happens to the line."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from appliance.accounts.authenticator import Authenticator
from appliance.audit import NoAudit
from appliance.shell.invocation import Origin
from tests.support.getty_house import ISSUE, NOON, PROMPT, SHELL, FakeLog, House

SOON = 0.1  # seconds


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A console that is not open yet; its cable is plugged in."""
    house = House(tmp_path)
    house.far.plug()
    return house


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> FakeLog:
    """The operational log of the getty."""
    log = FakeLog()
    monkeypatch.setattr("appliance.console.getty._log", log)
    return log


# Login


async def test_the_banner(house: House) -> None:
    """The line greets as a getty does, and then waits."""
    async with house.open() as far:
        assert await far.read_until(PROMPT) == ISSUE
        assert house.getty.opened.is_set()


async def test_notices_stand_above_the_prompt(house: House) -> None:
    """What the operator must know before logging in is said there, in one block."""
    house.notices = ["The account file is damaged.", "udev cannot be heard."]
    async with house.open() as far:
        assert (await far.read_until(PROMPT)).endswith(
            f"Only\r\n\r\nThe account file is damaged.\r\nudev cannot be heard.\r\n\r\n{PROMPT}"
        )


async def test_login_and_logout(house: House) -> None:
    """Name and password lead to a session of the local console; `exit` leads back to the banner."""
    async with house.open() as far:
        await far.read_until(PROMPT)
        await far.type("admin\r")
        assert await far.read_until(": ") == "admin\r\nPassword: "
        await far.type("PASSWORD\r")
        assert await far.read_until(SHELL) == f"\r\n\r\n{SHELL}"
        await far.type("exit\r")
        assert await far.read_until(PROMPT) == f"exit\r\n{ISSUE}"

    assert [session.given for session in house.sessions] == [("admin", Origin.LOCAL_CONSOLE, "Console")]
    assert house.authenticator.asked == [("ttyS0", "admin", "PASSWORD")]
    assert house.events() == [("login", "admin"), ("logout", "admin")]
    assert {record["origin"] for record in house.records()} == {"Console"}
    assert house.records()[-1]["end"] == "exit"


async def test_the_last_login_is_noted(house: House) -> None:
    """The time and the tty, in the words of login(1), for the next one to see."""
    async with house.open():
        await house.log_in()

    assert house.store
    account = house.store.get("admin")
    assert account
    assert account.last_login == time.strftime("%a %b %d %H:%M:%S on ttyS0", time.localtime(NOON))


@pytest.mark.parametrize(
    ("name", "password", "asked", "actor"),
    [
        ("admin", "wrong", "admin", "admin"),
        ("nobody", "PASSWORD", "nobody", "(unknown)"),
        ("Admin", "PASSWORD", "Admin", "(unknown)"),
        ("my secret", "PASSWORD", "(unknown)", "(unknown)"),
        ("-froot", "PASSWORD", "(unknown)", "(unknown)"),
        ("a" * 65, "PASSWORD", "(unknown)", "(unknown)"),
        (b"\xe9\xff", "PASSWORD", "(unknown)", "(unknown)"),
        ("Größe", "PASSWORD", "(unknown)", "(unknown)"),
    ],
)
async def test_a_wrong_login(house: House, name: str | bytes, password: str, asked: str, actor: str) -> None:
    """Whatever is wrong looks the same, and a name that is none is not recorded."""
    async with house.open() as far:
        await far.read_until(PROMPT)
        await far.type(name)
        await far.type("\r")
        await far.read_until("Password: ")
        await far.type(f"{password}\r")
        assert await far.read_until(PROMPT) == f"\r\n\r\nLogin incorrect\r\n{PROMPT}"
        await far.type("admin\r")
        await far.read_until("Password: ")
        await far.type("PASSWORD\r")
        await far.read_until(SHELL)

    assert house.authenticator.asked[0] == ("ttyS0", asked, password)
    assert house.events()[:2] == [("login-failed", actor), ("login", "admin")]


async def test_the_real_accounts(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The initial password opens the console, another does not."""
    authenticator = Authenticator(house.store, house.folder / "lockout.json", sleep=lambda _: asyncio.sleep(0))
    async with house.open() as far:
        monkeypatch.setattr(house.authenticator, "login", authenticator.login)
        await far.type("admin\rpassword\r")
        await far.read_until("Login incorrect")
        await house.log_in()


async def test_without_accounts_nobody_logs_in(house: House) -> None:
    """A damaged account file never opens the console without a password."""
    house.store = None
    async with house.open() as far:
        await far.read_until(PROMPT)
        for typed in (b"admin\rPASSWORD\r", b"admin\r\r", b"(unknown)\r\r"):
            await far.type(typed)
            await far.read_until("Login incorrect")

    assert house.sessions == []


@pytest.mark.parametrize(
    "typed", ["\r", "  \r", "\x04", "\x03", "adm\x03", "admin\r\x03", "admin\r\x04", "admin\rPA\x03"]
)
async def test_a_fresh_prompt(house: House, typed: str) -> None:
    """An empty name, ^C and ^D lead back to the prompt, without the banner and without a failure."""
    async with house.open() as far:
        await far.read_until(PROMPT)
        await far.type(typed)
        assert "Authorized" not in await far.read_until(PROMPT)
        await far.type("admin\rPASSWORD\r")
        await far.read_until(SHELL)

    assert house.events()[0] == ("login", "admin")


@pytest.mark.parametrize("typed", ["", "adm", "admin\r", "admin\rPASS"])
async def test_a_break_restarts_the_banner(house: House, typed: str) -> None:
    """Before login a BREAK abandons whatever was begun."""
    async with house.open() as far:
        await far.read_until(PROMPT)
        if typed:
            await far.deliver(typed.encode())
        await far.send_break()
        assert (await far.read_until(PROMPT)).endswith(ISSUE)

    assert house.events() == []


@pytest.mark.parametrize("typed", ["a", "adm", "admin\r", "admin\rPASS"])
async def test_a_login_takes_bounded_time(house: House, typed: str) -> None:
    """From the first byte on the clock runs; then everything starts over."""
    house.login_timeout = SOON
    async with house.open() as far:
        await far.read_until(PROMPT)
        await far.type(typed)
        shown = await far.read_until(PROMPT)

    assert shown.endswith(f"\r\nLogin timed out after 0.1 seconds.\r\n\r\n{ISSUE}")


async def test_nothing_happens_at_an_idle_prompt(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """No timer runs while nobody types: the process is not woken."""
    house.login_timeout = house.idle_timeout = SOON
    loop = asyncio.get_running_loop()
    call_at, timers = loop.call_at, []

    def remember(*args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        timers.append(call_at(*args, **kwargs))
        return timers[-1]

    monkeypatch.setattr(loop, "call_at", remember)
    async with house.open() as far:
        await far.read_until(PROMPT)
        await asyncio.sleep(0)
        assert [timer for timer in timers if not timer.cancelled() and timer.when() > loop.time()] == []
    assert timers


# Session


async def test_an_idle_session_ends(house: House) -> None:
    """Who does not type for the idle time is logged out, and is told."""
    house.idle_timeout = SOON
    async with house.open() as far:
        await house.log_in()
        assert await far.read_until(PROMPT) == f"\r\n\r\nSession timed out.\r\n{ISSUE}"

    assert house.records()[-1]["end"] == "timed out"


async def test_the_session_is_8_bit_clean(house: House) -> None:
    """What is typed reaches the session character by character, and the echo is what was typed."""
    async with house.open() as far:
        await house.log_in()
        await far.type("Grüße".encode() + b"\xff\r")
        assert await far.read_until(SHELL) == f"Grüße\udcff\r\n{SHELL}"

    assert house.sessions[0].lines == ["Grüße\udcff"]


@pytest.mark.parametrize("word", ["crash", "state"])
async def test_a_fault_ends_the_session_only(house: House, log: FakeLog, word: str) -> None:
    """The operator sees one sentence and never a traceback, the log sees the fault, and the console starts over."""
    async with house.open() as far:
        await house.log_in()
        await far.type(f"{word}\r")
        shown = await far.read_until(PROMPT)
        await far.type("\r")
        await house.log_in()

    assert shown == (f"{word}\r\n\r\nError:  Internal error. The session is ended; the log says more.\r\n\r\n{ISSUE}")
    assert ("console session failed", {"exc_info": True}) in log.events
    assert [record.get("end") for record in house.records()][:2] == [None, "fault"]


async def test_the_audit_does_not_block_the_login(house: House, log: FakeLog) -> None:
    """When the audit cannot be written the console says so in one line and goes on."""
    house.audit = NoAudit("the disk is \x1b[1mfull")
    async with house.open() as far:
        await far.type("admin\rwrong\r")
        await far.read_until("Login incorrect")
        await far.read_until(PROMPT)
        await far.type("admin\rPASSWORD\r")
        shown = await far.read_until(SHELL)
        await far.type("exit\r")
        await far.read_until(PROMPT)

    assert "\r\nWARNING:  The audit trail is not available: the disk is \\x1b[1mfull.\r\n\r\n" in shown
    lost = [fields["audited"] for event, fields in log.events if event == "audit record lost"]
    assert lost == ["login-failed", "login", "logout"]


async def test_stopping_logs_out(house: House) -> None:
    """When the daemon ends, the session ends in the audit too."""
    async with house.open():
        await house.log_in()

    assert house.events() == [("login", "admin"), ("logout", "admin")]


async def test_a_long_notice_is_broken_between_words(house: House) -> None:
    """A terminal of 80 columns does not have to break it."""
    house.notices = ["word " * 40]
    async with house.open() as far:
        shown = await far.read_until(PROMPT)

    assert shown.count("word") == 40
    assert max(map(len, shown.split("\r\n"))) < 80
