# SPDX-License-Identifier: Apache-2.0
"""A device that leaves the bus in its reset and comes back is one device to the person who reset it."""

import asyncio
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio

from appliance.errors import AttachmentChanged, DeviceBusy, DeviceError, DeviceGone
from appliance.hsm.model import Attachment, HsmState, Outcome
from appliance.hsm.reset import Report
from tests.support.fake_driver import FakeToken, RestartingDriver
from tests.support.manager_house import BOUND, DONE, HERE, THERE, Build, Gate, House

BACK = replace(HERE, address=9, initialized=9999)  # in the same port
ELSEWHERE = replace(HERE, sys_path="/sys/devices/usb1/1-7", address=10, initialized=10000)


@dataclass
class Restart:
    """A manager with a token that restarts, at the gate between its leaving and its coming back."""

    house: House
    driver: RestartingDriver
    token: FakeToken
    left: Gate  # the token is gone; what it is asked now is asked where it was
    running: "asyncio.Task[Report]"

    def returns(self, place: Attachment = BACK) -> None:
        """The token is back, and the driver sees it."""
        self.house.source.plug(place, self.token)
        self.driver.back.put(place)

    async def outcome(self) -> Report:
        """What the reset came to, once everything was asked that had to be."""
        self.left.open()
        async with asyncio.timeout(BOUND):
            report = await self.running
        await self.house.settled()
        return report


@pytest_asyncio.fixture
async def restart(build: Build) -> Restart:
    """The reset of A1 runs, and A1 has left the bus."""
    driver = RestartingDriver()
    house = build(driver=driver)
    token, left = house.source.plug(HERE), Gate()
    house.source.plug(THERE)
    await house.manager.start()
    await house.settled()

    def asked_where_it_was() -> None:
        left()
        raise DeviceGone("the device restarts")

    token.hooks["probe 3"] = asked_where_it_was
    running = asyncio.create_task(house.reset())
    await left.reached()
    house.source.unplug(HERE)
    return Restart(house, driver, token, left, running)


async def test_the_person_sees_a_success(restart: Restart) -> None:
    """The reset is done, nothing is left unfinished, and the list has the device once, as it is now."""
    restart.returns()
    report = await restart.outcome()

    assert report == DONE
    assert restart.house.shown() == [("A1", HsmState.ZEROIZED), ("B2", HsmState.INITIALIZED)]
    assert restart.house.device().attachment == BACK
    assert restart.house.on_disk() == []
    assert [record["outcome"] for record in restart.house.records("reset-outcome")] == ["done"]


async def test_it_may_come_back_in_another_place(restart: Restart) -> None:
    """The place is an address, no more."""
    restart.returns(ELSEWHERE)

    assert await restart.outcome() == DONE
    assert restart.house.device().attachment == ELSEWHERE


async def test_the_audit_has_its_leaving_and_its_coming(restart: Restart) -> None:
    """They are what happened on the bus, between the intent and the outcome or behind it."""
    restart.returns()
    await restart.outcome()
    await restart.house.manager.stop()
    events = [
        str(record["event"]) for record in restart.house.records("unplug", "plug", "reset-intent", "reset-outcome")
    ]

    assert sorted(events) == ["plug", "reset-intent", "reset-outcome", "unplug"]
    assert events.index("reset-intent") < events.index("unplug") < events.index("plug")


async def test_only_the_reset_asks_it_meanwhile(restart: Restart) -> None:
    """The manager hears of it first; if it asked too, one of the two would find the device busy."""
    opened = restart.token.steps.count("open")
    restart.house.source.plug(BACK, restart.token)
    restart.house.source.rescan()
    await restart.house.settled()
    asked = restart.token.steps.count("open") - opened
    restart.driver.back.put(BACK)

    assert await restart.outcome() == DONE
    assert asked == 0
    assert restart.token.steps.count("open") - opened == 2  # the read-back, and the manager behind it


async def test_nothing_else_is_done_with_it_meanwhile(restart: Restart) -> None:
    """What came back is as occupied as what left; other devices are free."""
    restart.house.source.plug(BACK, restart.token)
    device = restart.house.device()
    with pytest.raises(DeviceBusy):
        await restart.house.reset(device)
    with pytest.raises(DeviceBusy):
        await restart.house.manager.refresh(device)
    await restart.house.manager.refresh(restart.house.device("B2"))

    restart.driver.back.put(BACK)
    assert await restart.outcome() == DONE


async def test_one_that_stays_away_is_unknown(restart: Restart) -> None:
    """Nothing is called done that nobody has read; plugged in again it is shown with its reset, which can be done."""
    restart.driver.back.put(BACK)  # where nothing is
    report = await restart.outcome()
    restart.returns()
    await restart.house.settled()
    shown = restart.house.device()

    assert report == Report(Outcome.UNKNOWN, "it was unplugged", "A1")
    assert (shown.state, shown.interrupted is not None) == (HsmState.ZEROIZED, True)
    assert restart.house.on_disk() == ["A1"]


async def test_another_device_in_its_place_is_not_taken_for_it(restart: Restart) -> None:
    """One that says another number is no proof of anything."""
    restart.house.source.plug(BACK, FakeToken("C3", HsmState.ZEROIZED))
    restart.driver.back.put(BACK)
    report = await restart.outcome()

    assert report == Report(Outcome.UNKNOWN, "the device says serial 'C3' after the reset", "A1")
    assert restart.house.on_disk() == ["A1"]


async def test_what_is_not_certain_is_unknown(restart: Restart, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two devices could be it, the driver says so."""

    def reopen(_: Attachment) -> None:
        raise DeviceError("more than one device has its serial number")

    monkeypatch.setattr(restart.driver, "reopen", reopen)
    report = await restart.outcome()

    assert report == Report(Outcome.UNKNOWN, "more than one device has its serial number", "A1")


async def test_an_attachment_that_was_shown_before_is_not_reset(restart: Restart) -> None:
    """The way back is open behind the command only: who names the old attachment names nothing."""
    old = replace(restart.house.device("B2"), attachment=HERE, serial="A1")
    restart.returns()
    await restart.outcome()
    restart.token.become(HsmState.INITIALIZED)

    with pytest.raises(AttachmentChanged):
        await restart.house.reset(old)
    assert restart.token.state is HsmState.INITIALIZED


async def test_one_that_left_before_the_command_is_not_waited_for(build: Build) -> None:
    """Pulled out and back in before anything was destroyed, it is not reset at its new address."""
    driver = RestartingDriver()
    house = build(driver=driver)
    token = house.source.plug(HERE)
    await house.manager.start()
    await house.settled()
    driver.back.put(BACK)
    token.fail("probe 2", DeviceGone("it was unplugged"))

    with pytest.raises(DeviceGone):
        await house.reset()
    assert not token.touched
    assert house.on_disk() == []
