# SPDX-License-Identifier: Apache-2.0
"""The built-in HSM with a real SoftHSM: initialised and reset, whatever goes wrong."""

import asyncio
from pathlib import Path

import pytest

from appliance.audit import verify
from appliance.errors import DeviceError, DeviceRefused, NotLoggedIn, UnknownSerial
from appliance.hsm.drivers import builtin as drivers
from appliance.hsm.model import Device, HsmClass, HsmState, Outcome, Secret
from appliance.hsm.reset import Report
from tests.support.builtin_house import ADMIN, LABEL, OTHER, WRONG, builtin_house, fail, keys, killed, records, tool
from tests.support.vendor_module import BOUND, SO_PIN, USER_PIN, needs_softhsm

pytestmark = needs_softhsm


async def test_it_begins_zeroized_and_is_initialised(tmp_path: Path) -> None:
    """A new one is blank; somebody else's program sees the label that it is given, and logs in with the password."""
    async with builtin_house(tmp_path) as house:
        before = house.device
        report = await house.initialize()
        after = house.device
        house.with_key()

    assert (before.state, before.hsm_class) == (HsmState.ZEROIZED, HsmClass.BUILTIN)
    assert report.outcome is Outcome.DONE
    assert after.state is HsmState.INITIALIZED
    assert after.probe is not None
    assert (after.probe.label, after.probe.told) == (LABEL, report.serial)
    assert f"token label        : {LABEL}" in tool(tmp_path, "--list-slots")
    assert keys(tmp_path) == 1


async def test_a_reset_destroys_its_keys(tmp_path: Path) -> None:
    """A key can be used before and is gone after; the token is not there any more, nor is a file of it."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        house.with_key()
        before = keys(tmp_path)
        report = await house.reset()
        state = house.device.state

    assert (before, keys(tmp_path)) == (1, 0)
    assert (report.outcome, report.reason) == (Outcome.DONE, "")
    assert state is HsmState.ZEROIZED
    assert LABEL not in tool(tmp_path, "--list-slots")
    assert list((tmp_path / "builtin/tokens").iterdir()) == []
    [intent], [outcome] = records(house, "reset-intent"), records(house, "reset-outcome")
    assert intent["serial"] == outcome["serial"] == "builtin"
    assert (len(str(intent["told_serial"])), outcome["told_serial"]) == (16, "none")


async def test_it_is_among_no_tokens(tmp_path: Path) -> None:
    """The commands for tokens on USB neither list it nor find it."""
    async with builtin_house(tmp_path) as house:
        listed = [*house.manager.devices(HsmClass.BACKUP), *house.manager.devices(HsmClass.PKI)]
        with pytest.raises(UnknownSerial):
            house.manager.find("builtin", HsmClass.BACKUP)

    assert listed == []


async def test_it_stays_when_everything_is_unplugged(tmp_path: Path) -> None:
    """A look at what is plugged in does not take it away."""
    async with builtin_house(tmp_path) as house:
        house.manager._source.rescan()

        assert house.hsm.device() is not None


async def test_what_is_initialised_needs_a_login_to_be_initialised_anew(tmp_path: Path) -> None:
    """Without a login of the same session nothing happens; with it, what was in the HSM is gone."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        house.with_key()
        with pytest.raises(NotLoggedIn):
            await house.initialize("other")
        await house.log_in()
        with pytest.raises(NotLoggedIn):
            await house.hsm.initialize("other", Secret(SO_PIN), OTHER, 3)
        before = keys(tmp_path)
        report = await house.initialize("other")
        label = house.device.probe.label if house.device.probe else ""

    assert (before, report.outcome, keys(tmp_path), label) == (1, Outcome.DONE, 0, "other")
    assert not house.hsm.logged_in()


async def test_a_password_that_it_does_not_take_destroys_nothing(tmp_path: Path) -> None:
    """A blank HSM says of one that is too short that it is wrong; that is no reason for a reset."""
    async with builtin_house(tmp_path) as house:
        shortest = house.device.probe.shortest_password if house.device.probe else 0
        with pytest.raises(DeviceRefused, match="does not take this password"):
            await house.initialize(pin="abc")

    assert (shortest, records(house, "reset-intent")) == (4, [])


async def test_questions_do_not_keep_a_reset_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the one that the HSM is being asked, and goes before all others; none of them fails.

    So does the question that the command asks before. Whoever waits for the reset is told.
    """
    order: list[str] = []
    steps: list[str] = []
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        house.with_key()
        first, gate, real = asyncio.Event(), asyncio.Event(), house.manager.refresh

        async def held(device: Device) -> None:
            first.set()
            await gate.wait()
            await real(device)

        async def question(number: int) -> None:
            await house.hsm.refresh()
            order.append(f"question {number}")

        async def urgent() -> None:
            await house.hsm.refresh(first=True)
            order.append("urgent question")

        async def reset() -> Report:
            report = await house.hsm.factory_reset(ADMIN, steps.append)
            order.append("reset")
            return report

        monkeypatch.setattr(house.manager, "refresh", held)
        async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
            group.create_task(question(1))
            await first.wait()
            group.create_task(question(2))
            group.create_task(question(3))
            await asyncio.sleep(0)
            group.create_task(urgent())
            report = group.create_task(reset())
            await asyncio.sleep(0)
            gate.set()

    assert (report.result().outcome, keys(tmp_path)) == (Outcome.DONE, 0)
    assert steps[0] == "waiting for what is being done with it"
    assert order == ["question 1", "urgent question", "reset", "question 2", "question 3"]


async def test_what_a_killed_reset_has_left_is_removed(tmp_path: Path) -> None:
    """Files that SoftHSM itself does not know any more are no factory state; the same command clears them away."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
    [token] = (tmp_path / "builtin/tokens").iterdir()
    (token / "token.object").unlink()
    (token.parent / "a file").touch()
    async with builtin_house(tmp_path) as house:
        before = house.device.state
        report = await house.reset()

    assert (before, report.outcome) == (HsmState.TERMINATED, Outcome.DONE)
    assert list((tmp_path / "builtin/tokens").iterdir()) == []


async def test_an_unfinished_reset_stands_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is completed nobody is logged in, logs in or initialises: what the HSM holds is not known."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await house.log_in()
        with monkeypatch.context() as patch:
            patch.setattr(drivers, "run", lambda *_, **__: "")
            patch.setattr("shutil.rmtree", lambda _: None)
            report = await house.reset()
        interrupted, logged_in = house.device.interrupted, house.hsm.logged_in()
        with pytest.raises(DeviceError, match="'hsm factoryReset' completes it"):
            await house.log_in()
        again = await house.reset()

    assert (report.outcome, again.outcome) == (Outcome.UNKNOWN, Outcome.DONE)
    assert interrupted is not None
    assert not logged_in


async def test_without_its_program_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where softhsm2-util is missing a reset is impossible, and says so."""
    monkeypatch.setattr(drivers, "SOFTHSM_UTIL", Path("/nowhere/softhsm2-util"))
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        with pytest.raises(DeviceError, match="/nowhere/softhsm2-util is not installed"):
            await house.reset()

        assert house.device.state is HsmState.INITIALIZED
    assert records(house, "reset-intent") == []


async def test_two_tokens_are_none_to_log_in_to(tmp_path: Path) -> None:
    """Which of two it would be is not guessed; a reset destroys both, for the folder is the HSM."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        tool(tmp_path, "--init-token", "--slot-index", "1", "--so-pin", SO_PIN, "--label", "second")
        with pytest.raises(DeviceError, match="2 tokens"):
            await house.log_in()
        report = await house.reset()

    assert report.outcome is Outcome.DONE
    assert list((tmp_path / "builtin/tokens").iterdir()) == []


async def test_no_secret_is_in_the_state_folder(tmp_path: Path) -> None:
    """Neither the right password nor a wrong one is in the audit or beside it."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await fail(house, 1)
        await house.log_in()
        kept = house.recorded()

    assert "hsm-login" in kept
    assert [secret for secret in (SO_PIN, WRONG, USER_PIN) if secret in kept] == []


async def test_a_reset_that_is_killed_at_any_step_is_completed(tmp_path: Path) -> None:
    """Without an intent the key is there; with one the reset is told to be interrupted. Running it again ends it."""
    pristine = tmp_path / "pristine"
    async with builtin_house(pristine) as house:
        await house.initialize()
        house.with_key()
    killed(pristine, tmp_path / "killed", "reset")
    folders = sorted((tmp_path / "killed").iterdir(), key=lambda path: int(path.name))
    begun = []
    for folder in folders[:-1]:
        async with builtin_house(folder) as house:
            begun.append(house.device.interrupted is not None)
            assert keys(folder) == 1 or begun[-1] or records(house, "reset-outcome")
            report = await house.reset()
        assert (report.outcome, keys(folder), house.device.state) == (Outcome.DONE, 0, HsmState.ZEROIZED)
        assert verify(folder / "audit.jsonl").ok

    assert len(folders) > 12
    assert begun.count(True) > 6
    assert (begun[0], begun[-1]) == (False, False)
