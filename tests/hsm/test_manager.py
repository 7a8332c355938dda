# SPDX-License-Identifier: Apache-2.0
"""The manager knows what is plugged in, and nothing that a device does stands in the way of anything else."""

import asyncio
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from appliance.errors import (
    AmbiguousSerial,
    AttachmentChanged,
    DeviceBusy,
    DeviceTimeout,
    NotThisFamily,
    ProtocolError,
    UnknownSerial,
    WrongClass,
)
from appliance.hsm import manager
from appliance.hsm.hotplug import Plugged, Rescan, Unplugged
from appliance.hsm.model import Device, HsmClass, HsmState, Outcome
from tests.support.clock import let_time_pass
from tests.support.fake_driver import FakeToken, OtherDriver, attachment, refused
from tests.support.manager_house import BOUND, DONE, HERE, LIMIT, THERE, Build, Gate, House, until
from tests.support.threads import no_thread_for

# The inventory


async def test_what_is_there_is_found_and_asked(house: House) -> None:
    """After the start the devices that were plugged in before are known, in their own words."""
    assert house.shown() == [("A1", HsmState.INITIALIZED), ("B2", HsmState.INITIALIZED)]
    assert house.device().probe is not None


async def test_the_start_does_not_wait_for_answers(build: Build) -> None:
    """The first scan is applied at once; a device that is still being asked is of unknown state."""
    made = build()
    gate = Gate()
    made.source.plug(HERE).hooks["probe"] = gate
    async with asyncio.timeout(BOUND):
        await made.manager.start()
    shown = made.shown()
    gate.open()

    assert shown == [("A1", HsmState.UNKNOWN)]


async def test_a_device_comes_and_goes(house: House) -> None:
    """Plug and unplug show in the list as soon as the event is there."""
    place = attachment("1-3", 7, "C3")
    house.source.plug(place)
    await house.settled()
    with_it = house.shown()
    house.source.unplug(place)

    assert with_it[-1] == ("C3", HsmState.INITIALIZED)
    assert [serial for serial, _ in house.shown()] == ["A1", "B2"]


async def test_a_device_may_move_to_another_port(house: House) -> None:
    """The same token in another port is the same serial number at a new place."""
    house.source.unplug(HERE)
    elsewhere = replace(HERE, sys_path="/sys/devices/usb1/1-7", address=12)
    house.source.plug(elsewhere, FakeToken("A1"))
    await house.settled()

    assert house.device().attachment == elsewhere
    assert await house.reset() == DONE


async def test_a_re_enumerated_device_is_asked_anew(house: House) -> None:
    """Another address at the same port is another attachment, and nothing of the old one is believed."""
    token = house.driver.tokens.pop(HERE)
    token.serial = "C3"
    house.source.plug(replace(HERE, address=9, usb_serial="C3"), token)
    await house.settled()

    assert [serial for serial, _ in house.shown()] == ["B2", "C3"]


async def test_a_hundred_devices_at_once(build: Build) -> None:
    """A burst of devices is asked side by side; none is lost."""
    made = build()
    await made.manager.start()
    places = [attachment(f"1-{number}", number, f"N{number:03}") for number in range(100)]
    for place in places:
        made.source.plug(place)
    await made.settled()

    assert made.shown() == [(place.usb_serial, HsmState.INITIALIZED) for place in places]


async def test_a_crowd_is_asked_a_few_at_a_time(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more threads than that compete with the loop, and so with the console."""
    monkeypatch.setattr(manager, "PATIENCE", BOUND)
    made = build()
    crowded: list[str] = []
    crowd = threading.Barrier(manager.ASKED_AT_ONCE + 1, lambda: crowded.append("too many"))

    def wait_for_one_more() -> None:
        with suppress(threading.BrokenBarrierError):
            crowd.wait(0.2)

    places = [attachment(f"1-{number}", number, f"N{number:03}") for number in range(3 * manager.ASKED_AT_ONCE)]
    for place in places:
        made.source.plug(place).hooks["probe"] = wait_for_one_more
    await made.manager.start()
    await made.settled()

    assert made.shown() == [(place.usb_serial, HsmState.INITIALIZED) for place in places]
    assert crowded == []


async def test_a_silent_crowd_keeps_nobody_waiting(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many devices hang, the next one is asked."""
    monkeypatch.setattr(manager, "PATIENCE", 0.01)
    made = build()
    await made.manager.start()
    gate = Gate()
    for number in range(3 * manager.ASKED_AT_ONCE):
        made.source.plug(attachment(f"1-{number}", number, f"N{number:03}")).hooks["probe"] = gate
    made.source.plug(THERE)

    await until(lambda: made.device("B2").probe is not None)
    gate.open()


async def test_a_burst_of_events_ends_in_the_truth(house: House) -> None:
    """Doubled, stale and contradicting events leave what is plugged in at the end."""
    for _ in range(50):
        house.source.send(Plugged(HERE))
        house.source.send(Unplugged(THERE.sys_path))
        house.source.send(Plugged(THERE))
        house.source.send(Rescan((THERE, HERE)))
    await house.settled()

    assert house.shown() == [("A1", HsmState.INITIALIZED), ("B2", HsmState.INITIALIZED)]


async def test_two_devices_with_one_serial_are_both_listed(house: House) -> None:
    """And neither is reset."""
    device = house.device()
    house.source.plug(attachment("1-3", 7, "X"), FakeToken("A1"))
    await house.settled()

    assert [serial for serial, _ in house.shown()] == ["A1", "A1", "B2"]
    with pytest.raises(AmbiguousSerial):
        house.device()
    with pytest.raises(AmbiguousSerial):
        await house.reset(device)
    assert not any(token.touched for token in house.driver.tokens.values())


async def test_a_device_without_a_serial_is_listed_and_not_found(house: House) -> None:
    """It cannot be named, so it cannot be reset."""
    house.source.plug(attachment("1-3", 7, ""), FakeToken(""))
    await house.settled()

    assert house.shown()[0] == ("", HsmState.INITIALIZED)
    for name in ("", " "):
        with pytest.raises(UnknownSerial):
            house.device(name)


async def test_what_is_no_hsm_is_forgotten(house: House) -> None:
    """A USB id misled: the device is not listed, and not asked again at each scan."""
    token = house.source.plug(attachment("1-3", 7, "C3"), FakeToken(stranger=True))
    await house.settled()
    house.source.rescan()
    await house.settled()

    assert [serial for serial, _ in house.shown()] == ["A1", "B2"]
    assert token.steps.count("probe") == 1


async def test_pki_tokens_are_apart(build: Build) -> None:
    """A serial number of the configuration makes a device a PKI token, whatever USB said before."""
    made = build(pki_serials=["a1"])
    made.source.plug(HERE)
    made.source.plug(THERE)
    await made.manager.start()
    await made.settled()

    assert [device.serial for device in made.manager.devices(HsmClass.PKI)] == ["A1"]
    assert [serial for serial, _ in made.shown()] == ["B2"]
    with pytest.raises(WrongClass):
        made.device("A1")


# Devices that misbehave


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (DeviceBusy("another program holds it"), "another program holds it"),
        (ProtocolError("rubbish"), "rubbish"),
        (refused(), "conditions of use not satisfied (status 6985)"),
        (IndexError("list index out of range"), "internal error: IndexError"),
    ],
)
async def test_a_device_that_cannot_be_asked_is_unreachable(house: House, error: Exception, problem: str) -> None:
    """It is listed with the reason under the serial that USB suggests; the others do not notice."""
    token = FakeToken()
    token.fail("probe", error)
    house.source.plug(attachment("1-3", 7, "C3"), token)
    await house.settled()

    assert house.shown()[-1] == ("C3", HsmState.UNREACHABLE)
    assert house.device("C3").problem == problem
    assert await house.reset() == DONE


async def test_a_scan_asks_the_unreachable_again(house: House) -> None:
    """Once the other program has let it go, the next scan finds out what it is; the others are left in peace."""
    token = FakeToken()
    token.fail("open", DeviceBusy("another program holds it"))
    house.source.plug(attachment("1-3", 7, "C3"), token)
    await house.settled()
    del token.hooks["open"]
    token.serial = "C3"
    house.source.rescan()
    await house.settled()

    assert house.shown()[-1] == ("C3", HsmState.INITIALIZED)
    assert house.driver.tokens[HERE].steps.count("probe") == 1


async def test_a_refresh_asks_at_once(house: House) -> None:
    """Whoever needs an unreachable device now need not wait for the next scan, and learns what is wrong if it fails."""
    place = attachment("1-3", 7, "C3")
    token = FakeToken("C3")
    token.fail("open", DeviceBusy("another program holds it"))
    house.source.plug(place, token)
    await house.settled()
    device = house.device("C3")
    with pytest.raises(DeviceBusy):
        await house.manager.refresh(device)
    del token.hooks["open"]
    await house.manager.refresh(device)

    assert house.device("C3").state is HsmState.INITIALIZED
    house.source.unplug(place)
    with pytest.raises(AttachmentChanged):
        await house.manager.refresh(device)


async def test_a_refresh_asks_each_family(build: Build) -> None:
    """A device that was held when it came is of the first family until it can be asked; it may be of the next."""
    place, busy, other = attachment("1-3", 7, "C3"), DeviceBusy("another program holds it"), OtherDriver()
    seen_by_first, seen_by_other = FakeToken("C3", stranger=True), FakeToken("C3")
    other.tokens[place] = seen_by_other
    house = build(others=[other])
    await house.manager.start()
    seen_by_first.fail("open", busy)
    house.source.plug(place, seen_by_first)
    await house.settled()
    device = house.device("C3")
    del seen_by_first.hooks["open"]
    await house.manager.refresh(device)

    assert (device.family, device.state) == ("fake", HsmState.UNREACHABLE)
    assert (house.device("C3").family, house.device("C3").state) == ("other", HsmState.INITIALIZED)

    seen_by_other.stranger = True
    with pytest.raises(NotThisFamily):
        await house.manager.refresh(house.device("C3"))


async def test_a_refresh_during_a_reset_is_refused(house: House) -> None:
    """One thing at a time is done with a device."""
    gate = Gate()
    token = house.driver.tokens[HERE]
    token.hooks["block"] = gate
    running = asyncio.create_task(house.reset())
    await gate.reached()
    with pytest.raises(DeviceBusy):
        await house.manager.refresh(house.device())
    asked = token.steps.count("probe")
    gate.open()

    assert asked == 2  # when it was plugged in, and by the reset
    assert await running == DONE


async def test_a_device_that_is_pulled_during_a_refresh_is_gone(house: House) -> None:
    """What it answered all the same is nobody's."""
    gate = Gate()
    token = house.driver.tokens[HERE]
    token.hooks["close"] = gate
    refresh = asyncio.create_task(house.manager.refresh(house.device()))
    await gate.reached()
    house.source.unplug(HERE)
    gate.open()

    with pytest.raises(AttachmentChanged):
        await refresh


async def test_a_hung_device_is_unreachable_after_a_bounded_time(build: Build) -> None:
    """It stands in nobody's way; while its thread hangs, it is not asked again and nothing is done to it."""
    made = build(probe_timeout=LIMIT)
    gate = Gate()
    hung = made.source.plug(HERE)
    hung.hooks["probe"] = gate
    await made.manager.start()
    await gate.reached()
    let_time_pass(LIMIT)
    await made.settled()
    made.source.plug(THERE)
    made.source.rescan()
    await made.settled()

    assert made.shown() == [("A1", HsmState.UNREACHABLE), ("B2", HsmState.INITIALIZED)]
    assert made.device().problem == "no answer in time"
    with pytest.raises(DeviceTimeout):
        await made.reset()
    with pytest.raises(DeviceTimeout):
        await made.manager.refresh(made.device())
    assert (await made.reset(made.device("B2"))).outcome is Outcome.DONE
    assert hung.steps == ["open", "probe"]
    gate.open()


async def test_a_device_that_wakes_up_is_asked_again(build: Build) -> None:
    """When the hung thread has ended, the next scan finds the device well."""
    made = build(probe_timeout=LIMIT)
    gate = Gate()
    token = made.source.plug(HERE)
    token.hooks["probe 1"] = gate
    await made.manager.start()
    await gate.reached()
    let_time_pass(LIMIT)
    await made.settled()
    gate.open()

    def well_after_a_scan() -> bool:
        made.source.rescan()
        return made.shown() == [("A1", HsmState.INITIALIZED)]

    await until(well_after_a_scan)


async def test_a_device_for_which_there_is_no_thread_is_unreachable(house: House) -> None:
    """It is listed with the reason, and the next scan asks it."""
    with no_thread_for(lambda thread: thread.name == "hsm 1-7"):
        house.source.plug(attachment("1-3", 7, "C3"), FakeToken("C3"))
        await house.settled()
        problem = house.device("C3").problem
    house.source.rescan()
    await house.settled()

    assert problem == "the system has no thread left"
    assert house.device("C3").state is HsmState.INITIALIZED


async def test_a_device_that_is_pulled_while_it_is_asked_is_gone(build: Build) -> None:
    """Its answer, when it comes, is nobody's."""
    made = build()
    gate = Gate()
    made.source.plug(HERE).hooks["probe"] = gate
    await made.manager.start()
    made.source.unplug(HERE)
    gone = made.shown()
    gate.open()
    await made.settled()

    assert (gone, made.shown()) == ([], [])


async def test_a_device_that_is_back_when_its_answer_is_nobodys_is_asked_again(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out while it answers, and in again before that question is over, it does not stay unknown until the next scan."""
    made = build()
    gate = Gate()
    token = made.source.plug(HERE)
    token.hooks["probe 1"] = gate
    learn = made.manager._registry.learn

    def learn_and_plug_in_again(*about: Any, **what: Any) -> Device | None:
        device = learn(*about, **what)
        if device is None:
            made.source.plug(HERE, token)
        return device

    monkeypatch.setattr(made.manager._registry, "learn", learn_and_plug_in_again)
    await made.manager.start()
    await gate.reached()
    made.source.unplug(HERE)
    gate.open()

    await until(lambda: made.shown() == [("A1", HsmState.INITIALIZED)])
    assert token.steps.count("probe") == 2


# The audit


def told(house: House) -> list[tuple[object, ...]]:
    """The plug events in the audit."""
    records = house.records("present", "plug", "unplug")
    return [tuple(record[key] for key in ("event", "serial", "usb_id", "port")) for record in records]


async def test_arrivals_and_departures_are_audited(house: House) -> None:
    """What was there at the start, what came and what went, with serial number, USB id and port."""
    place = attachment("2-1.3", 7, "usb")
    house.source.plug(place, FakeToken("C3"))
    await house.settled()
    house.source.unplug(place)
    house.source.unplug(HERE)
    await house.manager.stop()

    assert sorted(told(house)[:2], key=str) == [
        ("present", "A1", "f055:0001", "1-1"),
        ("present", "B2", "f055:0001", "1-2"),
    ]
    assert told(house)[2:] == [
        ("plug", "C3", "f055:0001", "2-1.3"),
        ("unplug", "C3", "f055:0001", "2-1.3"),
        ("unplug", "A1", "f055:0001", "1-1"),
    ]


async def test_a_short_visit_is_audited(house: House) -> None:
    """A device that is pulled before it has answered has come and gone all the same."""
    gate = Gate()
    token = FakeToken("C3")
    token.hooks["probe"] = gate
    place = attachment("1-3", 7, "usb")
    house.source.plug(place, token)
    await gate.reached()
    house.source.unplug(place)
    gate.open()
    await house.settled()
    await house.manager.stop()

    assert [(event, serial) for event, serial, _, _ in told(house)[2:]] == [("plug", "USB"), ("unplug", "USB")]


async def test_nothing_is_audited_twice(house: House) -> None:
    """Scans, repeated events and further questions are no news."""
    house.source.rescan()
    house.source.send(Plugged(HERE))
    await house.settled()
    await house.reset()
    await house.settled()
    await house.manager.stop()

    assert len(told(house)) == 2


async def test_what_is_no_hsm_is_not_audited(house: House) -> None:
    """Only HSMs are of interest."""
    place = attachment("1-3", 7, "C3")
    house.source.plug(place, FakeToken(stranger=True))
    await house.settled()
    house.source.unplug(place)
    await house.manager.stop()

    assert len(told(house)) == 2


HOSTILE = "\x1b[2J\u202e\r\n\0" + "A" * 200


async def test_hostile_strings_are_only_strings(house: House) -> None:
    """What a device calls itself is one escaped line in the audit, whatever it holds."""
    house.source.plug(attachment("1-3", 7, HOSTILE), FakeToken(HOSTILE))
    await house.settled()
    await house.manager.stop()

    assert told(house)[-1][1] == HOSTILE
    assert b"\x1b" not in (house.folder / "audit.jsonl").read_bytes()
