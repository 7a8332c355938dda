# SPDX-License-Identifier: Apache-2.0
"""The local console outlives whatever happens to its line."""

import asyncio
import contextlib
import termios
from pathlib import Path

import pytest

from tests.support.getty_house import ISSUE, PROMPT, FakeLog, House, until
from tests.support.pty_line import PATIENCE, PtyLine, rubbish

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


@pytest.mark.parametrize("typed", ["", "adm", "admin\r", "admin\rPASS"])
async def test_hang_up_before_login(house: House, typed: str) -> None:
    """Whoever comes next gets the banner, and nothing of what was begun."""
    async with house.open() as far:
        await far.read_until(PROMPT)
        if typed:
            await far.deliver(typed.encode())
        await replug(far)
        assert await far.read_until(PROMPT) == ISSUE
        await far.type("\r")
        await house.log_in()

    assert house.events() == [("login", "admin"), ("logout", "admin")]


async def test_a_cable_pulled_again_and_again_costs_no_growing_pause(house: House) -> None:
    """Whoever looks at the prompt and leaves, many times in a row, finds it as soon each time."""
    house.pauses = (0.2, 1000.0)
    async with house.open() as far:
        for _ in range(9):
            await far.read_until(PROMPT)
            await replug(far)
        assert await far.read_until(PROMPT) == ISSUE


@pytest.mark.parametrize("typed", ["", "hang\r"])
async def test_a_stop_in_the_moment_of_a_hang_up_is_a_stop(house: House, typed: str) -> None:
    """The daemon ends although the line is lost in the same moment, and the logout is recorded."""
    async with house.open() as far:
        await house.log_in()
        await far.type(typed)
        far.hang_up()
        await house.line.hung_up()
        house.task.cancel()
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait({house.task})

    assert house.task.cancelled()
    assert house.audit is not None
    house.audit.close()  # writes what was handed over
    assert house.events()[-1] == ("logout", "admin")


@pytest.mark.parametrize("typed", ["", "lis", "hang\r", "flood\r"])
async def test_hang_up_in_a_session(house: House, typed: str) -> None:
    """The session ends at once, also in the middle of a command, and the next person is nobody."""
    async with house.open() as far:
        await house.log_in()
        if typed:
            await far.type(typed)
            await far.read_until(typed.replace("\r", "\r\n"))
        await replug(far)
        assert await far.read_until(PROMPT) == ISSUE
        await until(lambda: len(house.records()) > 1)  # nobody waits for a record of what has happened anyway
        assert house.events() == [("login", "admin"), ("logout", "admin")]
        assert house.records()[-1]["end"] == "hung up"
        assert house.sessions[0].cancelled is (typed == "hang\r")


async def replug(far: PtyLine) -> None:
    """Pull the cable, and plug it in again."""
    far.hang_up()
    far.plug()


async def test_a_missing_port_is_waited_for(house: House, log: FakeLog) -> None:
    """The log says once that the port is missing, and that it is there again."""
    house.far.hang_up()
    async with house.open() as far:
        await until(lambda: bool(log.events))
        assert not house.getty.opened.is_set()
        await asyncio.sleep(SOON)  # several tries
        far.plug()
        await far.read_until(PROMPT)

    assert [event for event, _ in log.events][:2] == ["line unavailable", "line open"]
    assert log.events[0][1]["reason"] == "the port does not exist"


async def test_a_stuck_terminal_costs_its_session(house: House) -> None:
    """A terminal left in XOFF is hung up after the write limit; the next login works."""
    house.flow, house.write_limit = "xonxoff", SOON
    async with house.open() as far:
        await house.log_in()
        await far.type(b"\x13flood\r")
        await until(lambda: ("logout", "admin") in house.events())
        await far.read_until(PROMPT)
        await far.type("\r")
        await house.log_in()

    assert house.records()[1]["end"] == "hung up"


async def test_a_watched_line_is_hung_up_at_logout(house: House, log: FakeLog) -> None:
    """Where the kernel watches the carrier, logging out closes the port, so that a modem hangs up."""
    house.carrier = "auto"
    house.far.set_control_modes(termios.CLOCAL, 0)
    async with house.open() as far:
        await house.log_in()
        await far.type("exit\r")
        await far.read_until(PROMPT)

    assert [event for event, _ in log.events].count("line open") == 2


async def test_the_line_stays_open_otherwise(house: House, log: FakeLog) -> None:
    """On a cable without modem lines nobody else gets the port between two sessions."""
    async with house.open() as far:
        await house.log_in()
        await far.type("exit\r")
        await far.read_until(PROMPT)

    assert [event for event, _ in log.events].count("line open") == 1


async def test_what_was_typed_ahead_dies_with_the_session(house: House) -> None:
    """Nothing typed into the old session answers the next login prompt, wherever it waits."""
    async with house.open() as far:
        await house.log_in()
        await far.type("hang\radmin\rPASSWORD\r")
        await far.read_until("hang\r\n")
        await far.deliver(b"admin\rPASSWORD\r")
        house.sessions[0].go.set()
        assert await far.read_until(PROMPT) == ISSUE
        await far.type("\r")
        assert await far.read_until(PROMPT) == f"\r\n{PROMPT}"

    assert len(house.sessions) == 1


async def test_what_was_typed_ahead_dies_with_a_failed_login(house: House) -> None:
    """Noise that looked like a login does not go on as the next one."""
    async with house.open() as far:
        await far.read_until(PROMPT)
        await far.deliver(b"noise\rnoise\rnoise\rnoise\rnoise\rnoise\r")
        await far.read_until(f"Login incorrect\r\n{PROMPT}")
        await far.type("\r")
        assert await far.read_until(PROMPT) == f"\r\n{PROMPT}"

    assert len(house.authenticator.asked) == 1


async def test_rubbish_does_no_harm(house: House) -> None:
    """After a megabyte of noise somebody can log in."""
    async with house.open() as far, asyncio.timeout(120):
        async with far.discarding():
            await far.type(rubbish(1 << 20), patience=120)
        while ISSUE.encode() not in far.seen:  # a failed login, of which there were many, may flush the BREAK
            await far.send_break()
            with contextlib.suppress(TimeoutError):
                far.seen += await far.read(patience=0.5)
        far.seen = b""
        await far.type("\x03")
        await house.log_in()
