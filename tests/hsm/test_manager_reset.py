# SPDX-License-Identifier: Apache-2.0
"""A reset goes to exactly the device that was shown, and always ends in an answer."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.audit import NoAudit
from appliance.errors import (
    AttachmentChanged,
    DeviceBusy,
    DeviceError,
    DeviceGone,
    DeviceTimeout,
    ResetUnsupported,
    SerialMismatch,
    StateError,
)
from appliance.hsm.journal import Journal, NoJournal
from appliance.hsm.model import HsmClass, HsmState, Intent, Outcome
from appliance.hsm.reset import Report
from tests.support.clock import let_time_pass
from tests.support.fake_driver import FakeToken, attachment
from tests.support.manager_house import (
    BOUND,
    DONE,
    HERE,
    LIMIT,
    THERE,
    Build,
    Gate,
    House,
    until,
)


async def test_a_reset_is_done_and_shown(house: House) -> None:
    """The report, the state in the list, the journal and the audit agree."""
    report = await house.reset()
    await house.settled()

    assert report == DONE
    assert house.shown() == [("A1", HsmState.ZEROIZED), ("B2", HsmState.INITIALIZED)]
    assert house.on_disk() == []
    assert [record["outcome"] for record in house.records("reset-outcome")] == ["done"]
    assert not house.driver.tokens[THERE].touched


async def test_a_reset_device_is_not_shown_as_it_was(house: House) -> None:
    """From the end of the reset until it has answered again, its state is unknown, and not that of before."""
    gate = Gate()
    house.driver.tokens[HERE].hooks["probe 4"] = gate
    report = await house.reset()
    try:
        shown = house.shown()
    finally:
        gate.open()
    await house.settled()

    assert report == DONE
    assert shown == [("A1", HsmState.UNKNOWN), ("B2", HsmState.INITIALIZED)]
    assert house.shown()[0] == ("A1", HsmState.ZEROIZED)


@pytest.mark.parametrize("name", ["A1", "B2"])
async def test_one_reset_follows_another(house: House, name: str) -> None:
    """A second reset waits for our own questions to the device; they do not count as another program."""
    await house.reset()

    assert (await house.reset(house.device(name))).outcome is Outcome.DONE


async def test_a_reset_waits_for_our_own_question(build: Build) -> None:
    """Ordered while the device is still being asked, it begins when the answer is there."""
    made = build()
    gate = Gate()
    token = made.source.plug(HERE)
    token.hooks["probe 1"] = gate
    await made.manager.start()
    await gate.reached()
    ordered = asyncio.create_task(made.reset())
    refreshed = asyncio.create_task(made.manager.refresh(made.device()))
    done, _ = await asyncio.wait([ordered, refreshed], timeout=0.01)
    gate.open()
    async with asyncio.timeout(BOUND):
        answers = await asyncio.gather(ordered, refreshed, return_exceptions=True)

    assert not done
    assert answers[0] == DONE
    assert answers[1] is None or isinstance(answers[1], DeviceBusy)
    assert token.steps[:4] == ["open", "probe", "close", "open"]


async def test_a_reset_waits_for_the_question_that_comes_in_between(build: Build) -> None:
    """A rescan in the moment in which one question ends asks again: the reset has the device to itself all the same."""
    made = build()
    token = made.source.plug(HERE)
    gates = {name: Gate() for name in ("probe 1", "terminate")}

    def fail() -> None:
        gates["probe 1"]()
        raise DeviceBusy("another program holds it")

    token.hooks |= {"probe 1": fail, "terminate": gates["terminate"]}
    await made.manager.start()
    await gates["probe 1"].reached()
    ordered = asyncio.create_task(made.reset())
    await asyncio.wait([ordered], timeout=0.01)
    made.manager._asking[HERE].add_done_callback(lambda _: made.source.rescan())
    gates["probe 1"].open()
    await gates["terminate"].reached()
    steps = token.steps.copy()
    gates["terminate"].open()

    assert steps == [*("open", "probe", "close") * 2, *("open", "probe", "block", "terminate")]
    assert await ordered == DONE


Change = Callable[[House], object]


def pull(house: House) -> None:
    """The device is unplugged."""
    house.source.unplug(HERE)


def pull_and_plug_in_again(house: House) -> None:
    """The same device is unplugged and plugged in again."""
    pull(house)
    house.source.plug(replace(HERE, address=9, initialized=9999))


def plug_in_again_at_the_same_address(house: House) -> None:
    """The same device again, with an address that has come round."""
    pull(house)
    house.source.plug(replace(HERE, initialized=9999))


def swap(house: House) -> None:
    """Another device takes its place."""
    pull(house)
    house.source.plug(replace(HERE, usb_serial="C3"), FakeToken("C3"))


def miss_the_swap(house: House) -> None:
    """A scan finds another device in its place: the events were lost."""
    house.driver.tokens[replace(HERE, address=9)] = house.driver.tokens.pop(HERE)
    house.source.rescan()


@pytest.mark.parametrize(
    "change", [pull, pull_and_plug_in_again, plug_in_again_at_the_same_address, swap, miss_the_swap]
)
async def test_what_changed_at_the_prompt_is_not_reset(house: House, change: Change) -> None:
    """Whatever happened to the attachment that was shown, nothing is reset."""
    device = house.device()
    change(house)

    with pytest.raises(AttachmentChanged) as caught:
        await house.reset(device)
    assert caught.value.serial == "A1"
    assert not any(token.touched for token in house.driver.tokens.values())
    assert house.on_disk() == []


async def test_a_device_that_told_another_name_meanwhile_is_not_reset(house: House) -> None:
    """Shown under the serial that USB suggests, it has said its own since: it is not what the person has seen."""
    token = FakeToken("D4")
    token.fail("open", DeviceBusy("another program holds it"))
    house.source.plug(attachment("1-3", 7, "C3"), token)
    await house.settled()
    device = house.device("C3")
    del token.hooks["open"]
    house.source.rescan()
    await house.settled()

    with pytest.raises(AttachmentChanged):
        await house.reset(device)
    assert not token.touched


async def test_a_swap_that_no_event_told_is_noticed_in_protocol(house: House) -> None:
    """A device that says another serial number than the one shown is not reset, and listed as what it is."""
    device = house.device()
    house.driver.tokens[HERE].serial = "C3"

    with pytest.raises(SerialMismatch):
        await house.reset(device)
    await house.settled()
    assert not house.driver.tokens[HERE].touched
    assert [serial for serial, _ in house.shown()] == ["B2", "C3"]


@pytest.mark.parametrize(
    ("step", "error"),
    [("open", DeviceGone("gone")), ("open", DeviceBusy("held")), ("probe", DeviceTimeout("no answer"))],
)
async def test_trouble_before_the_intent_is_raised(house: House, step: str, error: DeviceError) -> None:
    """The sentence is the driver's; nothing was destroyed and nothing is unfinished."""
    house.driver.tokens[HERE].fail(step, error)

    with pytest.raises(type(error)):
        await house.reset()
    assert not house.driver.tokens[HERE].touched
    assert house.on_disk() == []


async def test_a_device_with_an_obstacle_is_not_reset(house: House) -> None:
    """It has no factory reset, or one that would break it."""
    house.driver.tokens[HERE].obstacle = "it has no life-cycle management"

    with pytest.raises(ResetUnsupported):
        await house.reset()
    assert not house.driver.tokens[HERE].touched


async def test_an_unplug_in_the_middle_is_unknown(house: House) -> None:
    """The reset ends with what is known, and its intent stays."""
    token = house.driver.tokens[HERE]
    token.fail("activate", DeviceGone("it was unplugged"))
    loop = asyncio.get_running_loop()
    token.hooks["terminate"] = lambda: (loop.call_soon_threadsafe(house.source.unplug, HERE), None)[1]
    token.hooks["probe 3"] = token.hooks["open 3"] = token.hooks["activate"]
    report = await house.reset()
    await house.settled()

    assert report == Report(Outcome.UNKNOWN, "it was unplugged", "A1")
    assert [serial for serial, _ in house.shown()] == ["B2"]
    assert [intent.serial for intent in house.manager.interrupted()] == ["A1"] == house.on_disk()


async def test_an_interrupted_reset_is_shown_and_completed(house: House) -> None:
    """Plugged in again, at another port, the terminated device is listed with its intent, and the reset completes."""
    token = house.driver.tokens[HERE]
    token.fail("activate", DeviceGone("it was unplugged"))
    await house.reset()
    del token.hooks["activate"]
    house.source.unplug(HERE)
    house.source.plug(replace(HERE, sys_path="/sys/devices/usb1/1-9", address=20), token)
    await house.settled()
    shown = house.device()
    report = await house.reset()
    await house.settled()

    assert (shown.state, shown.interrupted and shown.interrupted.actor) == (HsmState.TERMINATED, "admin")
    assert report == DONE
    assert (house.device().state, house.device().interrupted, house.manager.interrupted()) == (
        HsmState.ZEROIZED,
        None,
        (),
    )


async def test_a_device_that_tells_an_empty_number_is_not_the_interrupted_one(house: House) -> None:
    """It can tell its number, and has none: that a reset was left unfinished in its place gives it no name."""
    token = house.driver.tokens[HERE]
    token.fail("activate", DeviceGone("it was unplugged"))
    await house.reset()
    house.source.unplug(HERE)
    house.source.plug(replace(HERE, address=9, initialized=9999), FakeToken(""))
    await house.settled()

    assert house.shown() == [("", HsmState.INITIALIZED), ("B2", HsmState.INITIALIZED)]
    assert [intent.serial for intent in house.manager.interrupted()] == ["A1"]


async def test_an_interrupted_reset_survives_the_manager(build: Build) -> None:
    """A new manager finds the intent on disk and ties the terminated device to it, also where USB tells nothing."""
    place = replace(HERE, usb_serial="")
    first = build()
    token = first.source.plug(place, FakeToken("A1"))
    token.fail("activate", DeviceGone("it was unplugged"))
    await first.manager.start()
    await first.settled()
    await first.reset()
    await first.manager.stop()
    del token.hooks["activate"]

    second = build(audit=NoAudit("in use"), journal=Journal.open(first.folder / "pending.json"))
    second.source.plug(place, token)
    await second.manager.start()
    await second.settled()

    assert second.shown() == [("A1", HsmState.TERMINATED)]
    assert second.device().interrupted is not None


async def test_a_reset_under_the_name_on_usb_is_completed_under_the_serial(build: Build, tmp_path: Path) -> None:
    """Killed after ACTIVATE FILE, it is shown with its token, and not with one in use that looks alike."""
    journal = Journal.open(tmp_path / "pending.json")
    journal.begin(
        Intent(
            "EMULATED",
            "fake",
            HsmClass.BACKUP,
            "f055:0001",
            "EMULATED",
            "2026-01-30T11:24:00+00:00",
            "admin",
            "Console",
        )
    )
    made = build(journal=journal)
    made.source.plug(replace(HERE, usb_serial="EMULATED"), FakeToken("A1", HsmState.ZEROIZED, alias="EMULATED"))
    made.source.plug(replace(THERE, usb_serial="EMULATED"), FakeToken("B2", alias="EMULATED"))
    await made.manager.start()
    await made.settled()
    interrupted = [made.device(serial).interrupted is not None for serial in ("A1", "B2")]

    assert interrupted == [made.manager.begun(made.device(serial)) for serial in ("A1", "B2")] == [True, False]
    assert (await made.reset(made.device("B2"))).outcome is Outcome.DONE
    assert made.on_disk() == ["EMULATED"]
    assert await made.reset() == DONE
    assert made.on_disk() == []


async def test_a_reset_that_does_not_end_in_time_is_unknown(build: Build) -> None:
    """The console gets its answer; the device is left alone; the late end is recorded all the same."""
    made = build(operation_timeout=LIMIT)
    gate = Gate()
    made.source.plug(HERE).hooks["terminate"] = gate
    await made.manager.start()
    await made.settled()
    running = asyncio.create_task(made.reset())
    await gate.reached()
    let_time_pass(LIMIT)

    assert await running == Report(Outcome.UNKNOWN, "no answer in time", "A1")
    assert made.on_disk() == ["A1"]
    assert [intent.serial for intent in made.manager.interrupted()] == ["A1"]
    with pytest.raises(DeviceTimeout):
        await made.reset()

    gate.open()
    await until(lambda: made.shown() == [("A1", HsmState.ZEROIZED)])
    assert made.on_disk() == []
    assert [record["outcome"] for record in made.records("reset-outcome")] == ["unknown", "done"]


async def test_a_device_that_hangs_before_the_intent_is_left_alone(build: Build) -> None:
    """The time-out says so, and when the device wakes up at last, it is not reset behind everybody's back."""
    made = build(operation_timeout=LIMIT)
    gate = Gate()
    token = made.source.plug(HERE)
    token.hooks["probe 2"] = gate
    await made.manager.start()
    await made.settled()
    running = asyncio.create_task(made.reset())
    await gate.reached()
    let_time_pass(LIMIT)

    with pytest.raises(DeviceTimeout):
        await running
    gate.open()
    await until(lambda: token.steps.count("probe") == 3)  # asked again, after the thread has ended
    await made.settled()
    assert not token.touched
    assert made.on_disk() == []
    assert made.shown() == [("A1", HsmState.INITIALIZED)]


@pytest.mark.parametrize("step", ["block", "activate", "probe 3"])
async def test_a_defect_in_the_middle_is_unknown(house: House, step: str) -> None:
    """Whatever a driver stumbles over, there is a report, a record and an intent."""
    house.driver.tokens[HERE].fail(step, IndexError("list index out of range"))
    report = await house.reset()

    assert report == Report(Outcome.UNKNOWN, "internal error: IndexError", "A1")
    assert [record["outcome"] for record in house.records("reset-outcome")] == ["unknown"]
    assert house.on_disk() == ["A1"]


async def test_a_defect_before_the_intent_is_an_error(house: House) -> None:
    """Nothing was destroyed, and the caller hears of it as of any trouble with a device."""
    house.driver.tokens[HERE].fail("probe", IndexError("list index out of range"))

    with pytest.raises(DeviceError, match="internal error: IndexError"):
        await house.reset()
    assert house.on_disk() == []


async def test_the_caller_may_go(house: House) -> None:
    """A hang-up of the console in the middle does not stop the reset; its outcome is recorded."""
    gate = Gate()
    house.driver.tokens[HERE].hooks["terminate"] = gate
    caller = asyncio.create_task(house.reset())
    await gate.reached()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert house.manager.busy
    gate.open()
    async with asyncio.timeout(BOUND):
        await house.manager.stop()

    assert house.driver.tokens[HERE].state is HsmState.ZEROIZED
    assert [record["outcome"] for record in house.records("reset-outcome")] == ["done"]
    assert house.on_disk() == []


async def test_the_caller_may_go_before_an_error(house: House) -> None:
    """An error that nobody waits for any more disturbs nobody."""
    gate = Gate()
    house.driver.tokens[HERE].fail("probe 2", DeviceTimeout("no answer"))
    house.driver.tokens[HERE].hooks["open"] = gate
    caller = asyncio.create_task(house.reset())
    await gate.reached()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.open()
    async with asyncio.timeout(BOUND):
        await house.manager.stop()

    assert not house.manager.busy


async def test_one_device_is_reset_once_at_a_time(house: House) -> None:
    """A second order for the same device is refused while the first is carried out; other devices are free."""
    gate = Gate()
    house.driver.tokens[HERE].hooks["terminate"] = gate
    first = asyncio.create_task(house.reset())
    await gate.reached()

    with pytest.raises(DeviceBusy):
        await house.reset()
    assert house.manager.busy
    assert (await house.reset(house.device("B2"))).outcome is Outcome.DONE
    gate.open()
    assert await first == DONE
    assert not house.manager.busy


async def test_a_running_reset_is_not_called_interrupted(house: House) -> None:
    """Its intent is on disk, but somebody who logs in meanwhile need not hear of it."""
    gate = Gate()
    house.driver.tokens[HERE].hooks["terminate"] = gate
    running = asyncio.create_task(house.reset())
    await gate.reached()
    seen = (house.on_disk(), house.manager.interrupted(), house.device().interrupted)
    gate.open()
    await running

    assert seen == (["A1"], (), None)


async def test_the_end_waits_for_a_reset(house: House) -> None:
    """Stopping in the middle of a reset lets it come to its end."""
    gate = Gate()
    house.driver.tokens[HERE].hooks["terminate"] = gate
    running = asyncio.create_task(house.reset())
    await gate.reached()
    stopping = asyncio.create_task(house.manager.stop())
    done, _ = await asyncio.wait([stopping], timeout=0)
    gate.open()
    async with asyncio.timeout(BOUND):
        await stopping

    assert not done
    assert await running == DONE


async def test_the_end_of_a_hung_reset_is_bounded(build: Build) -> None:
    """A device that never answers does not hold up the end for longer than an operation may take."""
    made = build(operation_timeout=LIMIT)
    gate = Gate()
    made.source.plug(HERE).hooks["terminate"] = gate
    await made.manager.start()
    await made.settled()
    running = asyncio.create_task(made.reset())
    await gate.reached()
    let_time_pass(LIMIT)
    async with asyncio.timeout(BOUND):
        await made.manager.stop()
    gate.open()

    assert (await running).outcome is Outcome.UNKNOWN


async def test_a_reset_that_ends_after_the_manager_leads_to_no_question(build: Build) -> None:
    """Nobody would hear the answer, and nobody would wait for the end of the question."""
    made = build(operation_timeout=LIMIT)
    gate = Gate()
    token = made.source.plug(HERE)
    token.hooks["terminate"] = gate
    await made.manager.start()
    await made.settled()
    running = asyncio.create_task(made.reset())
    await gate.reached()
    call = made.manager._calls[HERE]
    let_time_pass(LIMIT)
    async with asyncio.timeout(BOUND):
        await made.manager.stop()
        gate.open()
        await asyncio.wait([call])
    await made.settled()

    assert (await running).outcome is Outcome.UNKNOWN
    assert token.steps[3:] == ["open", "probe", "block", "terminate", "activate", "probe", "close"]


@pytest.mark.parametrize(
    "options", [{"journal": NoJournal("damaged")}, {"audit": NoAudit("no space left")}], ids=["journal", "audit"]
)
async def test_without_records_nothing_is_reset(build: Build, options: dict[str, object]) -> None:
    """When the journal or the audit is not available, devices are listed and none is reset."""
    made = build(**options)
    token = made.source.plug(HERE)
    await made.manager.start()
    await made.settled()

    assert made.shown() == [("A1", HsmState.INITIALIZED)]
    with pytest.raises(StateError):
        await made.reset()
    assert not token.touched


async def test_no_reset_begins_while_the_manager_stops(house: House) -> None:
    """Once the end has begun, an order is refused before anything is destroyed: nobody would wait for it."""
    device = house.device()
    await house.manager.stop()

    with pytest.raises(DeviceError, match="being stopped"):
        await house.reset(device)

    assert house.records("reset-intent") == []


async def test_a_reset_counts_as_begun_until_it_has_an_outcome(house: House) -> None:
    """Also while it runs, when it does not count as interrupted yet; no device of another family counts with it."""
    gate, device = Gate(), house.device()
    house.driver.tokens[HERE].hooks["terminate"] = gate
    running = asyncio.create_task(house.reset())
    await gate.reached()
    try:
        assert (house.manager.begun(device), house.manager.interrupted()) == (True, ())
        assert not house.manager.begun(replace(device, family="another"))
    finally:
        gate.open()

    assert await running == DONE
    assert not house.manager.begun(device)
