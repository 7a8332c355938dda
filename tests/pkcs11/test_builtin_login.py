# SPDX-License-Identifier: Apache-2.0
"""The built-in HSM with a real SoftHSM: whose login it is, and what a wrong password costs."""

import asyncio
import json
import threading
from pathlib import Path

import pytest

from appliance.errors import DeviceError, NotLoggedIn, SecretRefused, StateError
from appliance.hsm.attempts import AttemptsDropped, NoAttemptLeft
from appliance.hsm.builtin import Person, Zeroized
from appliance.hsm.drivers import builtin as drivers
from appliance.hsm.model import HsmState, Outcome, Secret
from appliance.hsm.pkcs11 import client
from tests.support.builtin_house import ADMIN, OTHER, WRONG, builtin_house, fail, keys, killed, luna, records, tool
from tests.support.vendor_module import BOUND, SO_PIN, VendorModule, needs_softhsm

pytestmark = needs_softhsm
BAD_COUNTS = [
    "",
    "{}",
    '{"failed": 1}',
    '{"hsm": "", "failed": 4}',
    '{"hsm": "", "failed": "1"}',
    '{"hsm": "", "failed": 0, "more": 1}',
    "[" * 2000,
]


class HeldLogin:
    """A password on its way to the library, which waits in its thread until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        self._monkeypatch = monkeypatch

    def hold(self) -> None:
        """Hold every login from now on."""
        real = client.Library.log_in

        def slow(library: client.Library, slot: int, secret: Secret) -> None:
            self.reached.set()
            self.released.wait(BOUND)
            real(library, slot, secret)

        self._monkeypatch.setattr(client.Library, "log_in", slow)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> HeldLogin:
    """None is held yet."""
    return HeldLogin(monkeypatch)


async def test_a_login_belongs_to_its_session(tmp_path: Path) -> None:
    """It ends with a logout there, and with nobody else's."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await house.log_in()
        elsewhere = await house.hsm.log_out(OTHER)
        still = house.hsm.logged_in()
        here = await house.hsm.log_out(ADMIN)

    assert (elsewhere, still, here, house.hsm.logged_in()) == (False, True, True, False)
    assert [len(records(house, event)) for event in ("hsm-login", "hsm-logout")] == [1, 1]


async def test_a_right_password_gives_the_attempts_back(tmp_path: Path) -> None:
    """Two wrong ones leave one attempt; a right one makes it three again."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await fail(house, 2)
        left = await house.hsm.attempts_left()
        await house.log_in()

        assert (left, await house.hsm.attempts_left()) == (1, 3)


async def test_the_third_wrong_password_zeroizes_it(tmp_path: Path) -> None:
    """What is in it is destroyed by the reset of every HSM, with intent and outcome; a new one has three attempts."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        house.with_key()
        await fail(house, 2)
        before = keys(tmp_path)
        with pytest.raises(Zeroized) as raised:
            await house.log_in(WRONG)
        state = house.device.state
        await house.initialize()
        left = await house.hsm.attempts_left()

    assert raised.value.report.outcome is Outcome.DONE
    assert (before, keys(tmp_path), state, left) == (1, 0, HsmState.ZEROIZED, 3)
    assert [len(records(house, event)) for event in ("hsm-login", "reset-intent", "reset-outcome")] == [3, 1, 1]


async def test_a_wrong_password_counts_when_it_is_initialised_too(tmp_path: Path) -> None:
    """The third one there zeroizes the HSM just the same."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await house.log_in()
        house.attempts.set(house.name, 2)
        with pytest.raises(SecretRefused):
            await house.initialize("other", WRONG)
        left = await house.hsm.attempts_left()
        await house.log_in()
        house.attempts.set(house.name, 1)
        with pytest.raises(Zeroized):
            await house.initialize("other", WRONG)

    assert left == 1


@pytest.mark.parametrize(("pin", "failed"), [(WRONG, 3), (SO_PIN, 2)])
async def test_who_hangs_up_leaves_no_attempt_open(tmp_path: Path, pin: str, failed: int, held: HeldLogin) -> None:
    """A third wrong password zeroizes the HSM though nobody waits for the answer; a right one logs nobody in."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await fail(house, 2)
        held.hold()
        login = asyncio.create_task(house.log_in(pin))
        await asyncio.to_thread(held.reached.wait, BOUND)
        login.cancel()
        await asyncio.wait([login])
        held.released.set()
        await house.hsm.finished()

        assert house.device.state is (HsmState.ZEROIZED if pin == WRONG else HsmState.INITIALIZED)
        assert not house.hsm.logged_in()
        assert [record["outcome"] for record in records(house, "hsm-login")].count("not done") == failed


async def test_the_end_waits_for_a_login_and_takes_no_other(tmp_path: Path, held: HeldLogin) -> None:
    """Whoever goes on to log in does not keep the console from being stopped; nothing is tried or counted for him."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        held.hold()
        login, waiting = (asyncio.create_task(house.log_in()) for _ in range(2))
        await asyncio.to_thread(held.reached.wait, BOUND)
        end = asyncio.create_task(house.hsm.finished())
        await asyncio.wait([end], timeout=0.01)
        waited, busy = not end.done(), house.hsm.busy
        held.released.set()
        async with asyncio.timeout(BOUND):
            await end
        for late in (waiting, house.log_in(WRONG)):
            with pytest.raises(DeviceError, match="being stopped"):
                await late
        await login

        assert (waited, busy, house.hsm.busy) == (True, True, False)
        assert await house.hsm.attempts_left() == 3


async def test_two_who_log_in_at_once_take_turns(tmp_path: Path, held: HeldLogin) -> None:
    """While one is in the middle of the last attempt, with the right password, to the other it is not used up."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await fail(house, 2)
        held.hold()
        first = asyncio.create_task(house.log_in())
        await asyncio.to_thread(held.reached.wait, BOUND)
        second = asyncio.create_task(house.hsm.log_in(Secret(SO_PIN), OTHER, 1))
        await asyncio.sleep(0)
        held.released.set()
        await asyncio.gather(first, second)

        assert (house.device.state, await house.hsm.attempts_left()) == (HsmState.INITIALIZED, 3)


async def test_a_login_keeps_no_reset_from_it(tmp_path: Path, held: HeldLogin) -> None:
    """One that is under way ends first, and is of no use afterwards."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        held.hold()
        login = asyncio.create_task(house.log_in())
        await asyncio.to_thread(held.reached.wait, BOUND)
        reset = asyncio.create_task(house.reset())
        await asyncio.sleep(0)
        held.released.set()
        _, report = await asyncio.gather(login, reset)

        assert (report.outcome, house.hsm.logged_in()) == (Outcome.DONE, False)


async def test_a_password_is_not_tried_where_it_would_not_count(tmp_path: Path) -> None:
    """An HSM that another program has initialised since it was asked is not taken for a zeroized one."""
    async with builtin_house(tmp_path) as house:
        tool(tmp_path, "--init-token", "--slot-index", "0", "--so-pin", SO_PIN, "--label", "theirs")
        with pytest.raises(DeviceError, match="not what it was"):
            await house.initialize()
        label = house.device.probe.label if house.device.probe else ""

    assert label == "theirs"
    assert records(house, "hsm-init-intent") == []


async def test_the_password_of_an_hsm_that_was_reset_becomes_no_first_one(tmp_path: Path) -> None:
    """Who was asked for the password of what is initialised sets none on the blank HSM that it has become meanwhile."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await house.hsm.log_in(Secret(SO_PIN), OTHER, 3)
        shown = await house.hsm.attempts_left()
        await house.reset()
        with pytest.raises(DeviceError, match="not what it was"):
            await house.hsm.initialize("theirs", Secret(WRONG), OTHER, shown)

        assert house.device.state is HsmState.ZEROIZED
    assert len(records(house, "hsm-init-intent")) == 1


async def test_an_attempt_is_spent_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the power fails as the password is given to the HSM, the attempt stands on disk as failed."""
    seen: list[str] = []
    real = client.Library.log_in

    def watched(library: client.Library, slot: int, pin: Secret) -> None:
        seen.append((tmp_path / "builtin-attempts.json").read_text())
        real(library, slot, pin)

    monkeypatch.setattr(client.Library, "log_in", watched)
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await house.log_in()

    assert [json.loads(text)["failed"] for text in seen] == [1]


async def test_no_attempt_is_made_when_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash in the last one neither a password is tried nor anything destroyed; a person's reset helps."""
    asked: list[int] = []
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        house.with_key()
        house.attempts.set(house.name, 0)
        with monkeypatch.context() as patch:
            patch.setattr(client.Library, "log_in", lambda _, session, pin: asked.append(session))
            with pytest.raises(NoAttemptLeft):
                await house.log_in()
        before = keys(tmp_path)
        await house.reset()
        await house.initialize()
        await house.log_in()

        assert (asked, before, keys(tmp_path)) == ([], 1, 0)


async def test_a_count_is_none_of_another_hsms(tmp_path: Path) -> None:
    """An HSM that another program has set up since begins with every attempt, and keeps its keys."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        house.attempts.set(house.name, 0)
        await house.manager.factory_reset(house.device, actor="a", origin="b", progress=lambda _: None)
    tool(tmp_path, "--init-token", "--slot-index", "0", "--so-pin", SO_PIN, "--label", "theirs")
    async with builtin_house(tmp_path) as house:
        house.with_key()
        left = await house.hsm.attempts_left()
        await house.log_in()

        assert (left, keys(tmp_path)) == (3, 1)


async def test_a_reset_forgets_the_count(tmp_path: Path, vendor: VendorModule) -> None:
    """Whoever has a Luna HSM next, under the same serial number, has every attempt."""
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        await fail(house, 2)
        left = await house.hsm.attempts_left()
        await house.reset()

        assert (left, await house.hsm.attempts_left()) == (1, 3)


async def test_what_is_found_zeroized_begins_anew(tmp_path: Path, vendor: VendorModule) -> None:
    """A tamper, or another program, has zeroized it: that is seen, nobody is logged in, nothing has been tried."""
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        await house.log_in()
        house.attempts.set(house.name, 0)
        vendor.tell("zeroized")
        await house.hsm.refresh()

        assert (house.device.state, house.hsm.logged_in()) == (HsmState.ZEROIZED, False)
        assert await house.hsm.attempts_left() == 3


async def test_an_attempt_less_than_was_shown_is_not_made(tmp_path: Path) -> None:
    """Somebody has failed elsewhere while the password was typed: it is not tried without the caution for the last."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await fail(house, 2)
        with pytest.raises(AttemptsDropped):
            await house.log_in(WRONG, shown=2)

        assert (await house.hsm.attempts_left(), house.device.state) == (1, HsmState.INITIALIZED)


async def test_two_sessions_from_one_place_are_two(tmp_path: Path) -> None:
    """Two over one SSH connection have the same name and place, and neither the same login nor the same logout."""
    one, two = Person("admin", "192.0.2.7/40847"), Person("admin", "192.0.2.7/40847")
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await house.hsm.log_in(Secret(SO_PIN), one, 3)
        with pytest.raises(NotLoggedIn):
            await house.hsm.initialize("other", Secret(SO_PIN), two, 3)

        assert (await house.hsm.log_out(two), house.hsm.logged_in(one), house.hsm.logged_in(two)) == (
            False,
            True,
            False,
        )


async def test_a_reset_that_does_not_begin_logs_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, it has changed nothing; begun, it has, and nobody is logged in."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await house.log_in()
        with monkeypatch.context() as patch:
            patch.setattr(drivers, "SOFTHSM_UTIL", Path("/nowhere/softhsm2-util"))
            with pytest.raises(DeviceError):
                await house.reset()
        refused = house.hsm.logged_in()
        await house.reset()

        assert (refused, house.hsm.logged_in()) == (True, False)


async def test_a_reset_between_a_login_and_its_answer_logs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in to what was reset since the password was found right."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        record = house.hsm._record

        async def late(event: str, person: Person, **fields: str) -> None:
            await house.hsm._reset(ADMIN, lambda _: None)
            await record(event, person, **fields)

        monkeypatch.setattr(house.hsm, "_record", late)
        await house.log_in()

        assert (house.device.state, house.hsm.logged_in()) == (HsmState.ZEROIZED, False)


@pytest.mark.parametrize("text", BAD_COUNTS)
async def test_a_count_that_cannot_be_believed_refuses(tmp_path: Path, text: str) -> None:
    """With a damaged count nobody logs in, and nothing is destroyed; a reset and a new password set it right."""
    async with builtin_house(tmp_path) as house:
        await house.initialize()
        (tmp_path / "builtin-attempts.json").write_text(text)
        with pytest.raises(StateError, match="is damaged"):
            await house.log_in()
        state = house.device.state
        await house.reset()
        report = await house.initialize()
        await house.log_in()

    assert (state, report.outcome) == (HsmState.INITIALIZED, Outcome.DONE)


async def test_a_count_that_cannot_be_written_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an attempt cannot be counted it is not made."""
    asked: list[int] = []

    def full(*_: object) -> None:
        raise StateError(tmp_path, "No space left on device")

    async with builtin_house(tmp_path) as house:
        await house.initialize()
        monkeypatch.setattr(client.Library, "log_in", lambda _, slot, pin: asked.append(slot))
        monkeypatch.setattr("appliance.hsm.attempts.write_atomically", full)
        with pytest.raises(StateError):
            await house.log_in()

    assert asked == []


async def test_a_killed_attempt_is_no_attempt_for_free(tmp_path: Path) -> None:
    """The power fails as each of three passwords is given; no fourth is taken, not even the right one."""
    folder = tmp_path / "state"
    async with builtin_house(folder) as house:
        await house.initialize()
    left = []
    for _ in range(3):
        killed(folder, folder, "login")
        async with builtin_house(folder) as house:
            left.append(await house.hsm.attempts_left())
    async with builtin_house(folder) as house:
        with pytest.raises(NoAttemptLeft):
            await house.log_in()

        assert (left, house.device.state) == ([2, 1, 0], HsmState.INITIALIZED)
