# SPDX-License-Identifier: Apache-2.0
"""The built-in HSM with a real SoftHSM: initialised, logged in to, zeroized and reset, whatever goes wrong."""

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from appliance.audit import verify
from appliance.errors import (
    DeviceError,
    DeviceRefused,
    DeviceTimeout,
    NotLoggedIn,
    ProtocolError,
    SecretRefused,
    StateError,
    UnknownSerial,
)
from appliance.hsm.builtin import AttemptsDropped, NoAttemptLeft, Person, Zeroized
from appliance.hsm.drivers import builtin as drivers
from appliance.hsm.model import HsmClass, HsmState, Outcome, Secret
from appliance.hsm.pkcs11 import client
from appliance.hsm.pkcs11.codes import error
from appliance.hsm.usb import UsbBus
from tests.support.builtin_house import (
    ADMIN,
    LABEL,
    BuiltinHouse,
    builtin_house,
    keys,
    tool,
)
from tests.support.vendor_module import (
    BOUND,
    SERIAL,
    SO_PIN,
    USER_PIN,
    VendorModule,
    needs_softhsm,
)

pytestmark = needs_softhsm

OTHER = Person("admin", "192.0.2.7/40847")
WRONG = "so-pin-4712"
BAD_COUNTS = [
    "",
    "{}",
    '{"failed": 1}',
    '{"hsm": "", "failed": 4}',
    '{"hsm": "", "failed": "1"}',
    '{"hsm": "", "failed": 0, "more": 1}',
    "[" * 2000,
]


def records(house: BuiltinHouse, event: str) -> list[dict[str, object]]:
    """The audit's records of one event."""
    lines = (house.folder / "audit.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == event]


async def fail(house: BuiltinHouse, times: int) -> None:
    """Log in with a wrong password, and be refused."""
    for _ in range(times):
        with pytest.raises(SecretRefused):
            await house.log_in(WRONG)


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
async def test_who_hangs_up_leaves_no_attempt_open(
    tmp_path: Path, pin: str, failed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third wrong password zeroizes the HSM though nobody waits for the answer; a right one logs nobody in."""
    reached, released = threading.Event(), threading.Event()
    real = client.Library.log_in

    def slow(library: client.Library, slot: int, secret: Secret) -> None:
        reached.set()
        released.wait(BOUND)
        real(library, slot, secret)

    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await fail(house, 2)
        monkeypatch.setattr(client.Library, "log_in", slow)
        login = asyncio.create_task(house.log_in(pin))
        await asyncio.to_thread(reached.wait, BOUND)
        login.cancel()
        await asyncio.wait([login])
        released.set()
        await house.hsm.finished()

        assert house.device.state is (HsmState.ZEROIZED if pin == WRONG else HsmState.INITIALIZED)
        assert not house.hsm.logged_in()
        assert [record["outcome"] for record in records(house, "hsm-login")].count("not done") == failed


async def test_two_who_log_in_at_once_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is in the middle of the last attempt, with the right password, to the other it is not used up."""
    reached, released = threading.Event(), threading.Event()
    real = client.Library.log_in

    def slow(library: client.Library, slot: int, secret: Secret) -> None:
        reached.set()
        released.wait(BOUND)
        real(library, slot, secret)

    async with builtin_house(tmp_path) as house:
        await house.initialize()
        await fail(house, 2)
        monkeypatch.setattr(client.Library, "log_in", slow)
        first = asyncio.create_task(house.log_in())
        await asyncio.to_thread(reached.wait, BOUND)
        second = asyncio.create_task(house.hsm.log_in(Secret(SO_PIN), OTHER, 1))
        await asyncio.sleep(0)
        released.set()
        await asyncio.gather(first, second)

        assert (house.device.state, await house.hsm.attempts_left()) == (HsmState.INITIALIZED, 3)


async def test_a_password_is_not_tried_where_it_would_not_count(tmp_path: Path) -> None:
    """An HSM that another program has initialised since it was asked is not taken for a zeroized one."""
    async with builtin_house(tmp_path) as house:
        tool(tmp_path, "--init-token", "--slot-index", "0", "--so-pin", SO_PIN, "--label", "theirs")
        with pytest.raises(DeviceError, match="not what it was"):
            await house.initialize()
        label = house.device.probe.label if house.device.probe else ""

    assert label == "theirs"
    assert records(house, "hsm-init-intent") == []


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


async def test_a_password_that_it_does_not_take_destroys_nothing(tmp_path: Path) -> None:
    """A blank HSM says of one that is too short that it is wrong; that is no reason for a reset."""
    async with builtin_house(tmp_path) as house:
        shortest = house.device.probe.shortest_password if house.device.probe else 0
        with pytest.raises(DeviceRefused, match="does not take this password"):
            await house.initialize(pin="abc")

    assert (shortest, records(house, "reset-intent")) == (4, [])


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
            await house.reset()
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


def killed(pristine: Path, folder: Path, what: str) -> None:
    """Run tests/support/killed_builtin.py to its end."""
    command: list[str | Path] = [sys.executable, "-m", "tests.support.killed_builtin", what, pristine, folder]
    subprocess.run(command, check=True)  # noqa: S603  # of ours


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


# The same with a Luna HSM, whose library fails on demand.


def luna(vendor: VendorModule, serial: str = SERIAL) -> drivers.BuiltinLunaDriver:
    """The HSM of the vendor's module as the one that is built in."""
    return drivers.BuiltinLunaDriver(UsbBus(), vendor.library, serial)


async def test_a_luna_hsm_is_reset_by_its_vendors_function(vendor: VendorModule, tmp_path: Path) -> None:
    """It needs no login, and its serial number is the configured one before and after."""
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        before = (house.device.state, house.device.serial, vendor.keys())
        report = await house.reset()
        after = (house.device.state, house.device.serial, vendor.keys())

    assert before == (HsmState.INITIALIZED, "7550054", 1)
    assert (report.outcome, after) == (Outcome.DONE, (HsmState.ZEROIZED, "7550054", 0))
    assert vendor.calls("CA_FactoryReset") == 1


async def test_three_wrong_passwords_zeroize_a_luna_hsm(vendor: VendorModule, tmp_path: Path) -> None:
    """By the same reset; afterwards it is initialised with a new label."""
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        await fail(house, 2)
        with pytest.raises(Zeroized) as raised:
            await house.log_in(WRONG)
        zeroized = house.device.state
        report = await house.initialize("anew")

    assert (raised.value.report.outcome, zeroized, report.outcome) == (Outcome.DONE, HsmState.ZEROIZED, Outcome.DONE)


async def test_a_luna_hsm_counts_too(vendor: VendorModule, tmp_path: Path) -> None:
    """Where it says that the next wrong password is the last, that is what is shown."""
    vendor.tell("flags", "200000")
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        assert await house.hsm.attempts_left() == 1


async def test_a_luna_hsm_that_has_zeroized_itself_is_reset(
    vendor: VendorModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another program's wrong passwords have brought about ends in the same state and the same records."""

    def threshold(*_: object) -> None:
        vendor.tell("zeroized")
        raise error("C_Login", 0x8000001C)

    monkeypatch.setattr(client.Library, "log_in", threshold)
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        with pytest.raises(Zeroized):
            await house.log_in(WRONG)

    assert "LUNA_RET_SO_LOGIN_FAILURE_THRESHOLD" in str(records(house, "hsm-login")[0]["reason"])
    assert [record["outcome"] for record in records(house, "reset-outcome")] == ["done"]
    assert vendor.keys() == 0


async def test_another_hsm_is_not_taken_for_it(vendor: VendorModule, tmp_path: Path) -> None:
    """Where the library shows no HSM with the configured serial number there is none."""
    async with builtin_house(tmp_path / "state", luna(vendor, "475290")) as house:
        assert (house.device.state, house.device.problem) == (
            HsmState.UNREACHABLE,
            "the library shows no HSM with the serial number 475290",
        )
        with pytest.raises(DeviceError):
            await house.reset()

    assert vendor.calls("CA_FactoryReset") == 0


@pytest.mark.parametrize(("fault", "kind"), [("hang", DeviceTimeout), ("crash", ProtocolError), ("30", DeviceError)])
async def test_a_library_that_fails_in_a_login_costs_the_attempt(
    vendor: VendorModule, tmp_path: Path, fault: str, kind: type[DeviceError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the password was right nobody knows, so it counts; the HSM holds what it held and can be used again."""
    vendor.tell("fault-C_Login", fault)
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        with monkeypatch.context() as patch:
            patch.setattr(client, "CALL_TIMEOUT", 1.0)
            with pytest.raises(kind):
                await house.log_in()
        left = await house.hsm.attempts_left()
        logged_in = house.hsm.logged_in()
        vendor.untell("fault-C_Login")
        await house.log_in()

        assert (left, logged_in, await house.hsm.attempts_left()) == (2, False, 3)
    assert vendor.keys() == 1


async def test_faults_with_the_right_password_destroy_nothing(vendor: VendorModule, tmp_path: Path) -> None:
    """Three in a row use up the attempts; no login is taken any more, and the keys are where they were."""
    vendor.tell("fault-C_Login", "30")
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        for _ in range(3):
            with pytest.raises(DeviceError, match="CKR_DEVICE_ERROR"):
                await house.log_in()
        vendor.untell("fault-C_Login")
        with pytest.raises(NoAttemptLeft):
            await house.log_in()

    assert (vendor.keys(), records(house, "reset-intent")) == (1, [])


async def test_a_locked_password_is_no_wrong_one(vendor: VendorModule, tmp_path: Path) -> None:
    """That it is locked says nothing of the password that was given, even in the last attempt."""
    vendor.tell("fault-C_Login", "a4")
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        house.attempts.set(house.name, 1)
        with pytest.raises(SecretRefused):
            await house.log_in()

    assert (vendor.keys(), records(house, "reset-intent")) == (1, [])


async def test_a_fault_before_the_password_costs_nothing(
    vendor: VendorModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a session nothing has been tried."""

    def faulty(*_: object) -> int:
        raise error("C_OpenSession", 0x30)

    monkeypatch.setattr(client.Library, "open_session", faulty)
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        with pytest.raises(DeviceError, match="CKR_DEVICE_ERROR"):
            await house.log_in()

        assert await house.hsm.attempts_left() == 3


async def test_a_fault_after_the_right_password_is_none(
    vendor: VendorModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails as the session is ended says nothing of the password."""
    real = client.Library._call

    def faulty(library: client.Library, call: str, *arguments: object, timeout: float) -> object:
        if call == "log_out":
            raise error("C_Logout", 0x30)
        return real(library, call, *arguments, timeout=timeout)

    monkeypatch.setattr(client.Library, "_call", faulty)
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        await house.log_in()

        assert (house.hsm.logged_in(), await house.hsm.attempts_left()) == (True, 3)


@pytest.mark.parametrize("initializes", [True, False])
async def test_what_is_reported_late_does_nothing_after(
    vendor: VendorModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, initializes: bool
) -> None:
    """Said to be not done, it is not begun either when the library comes to itself: no key and no attempt is lost."""
    released = threading.Event()
    real = client.Library.load

    def slow(library: client.Library, path: Path) -> None:
        released.wait(BOUND)
        real(library, path)

    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        await house.log_in()
        monkeypatch.setattr(client.Library, "load", slow)
        monkeypatch.setattr(house.manager, "_operation_timeout", 0.2)
        with pytest.raises(DeviceTimeout):
            await (house.initialize("anew") if initializes else house.log_in())
        released.set()
        while house.manager._calls:
            await asyncio.wait(house.manager._calls.values())

        assert (vendor.keys(), await house.hsm.attempts_left()) == (1, 3)
    assert records(house, "hsm-init-intent") == []


async def test_an_old_label_proves_no_initialisation(vendor: VendorModule, tmp_path: Path) -> None:
    """A library that says it has done it, and has not, is not believed: the label was the same before."""
    vendor.tell("idle")
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        await house.log_in()
        report = await house.initialize(LABEL)

    assert (report.outcome, report.reason) == (
        Outcome.UNKNOWN,
        "not initialized anew: a user PIN is set, there are objects",
    )


async def test_a_no_that_is_not_about_the_password_costs_nothing(vendor: VendorModule, tmp_path: Path) -> None:
    """An HSM that does not look at the password, because of its state, has not judged it."""
    vendor.tell("fault-C_Login", "80000030")
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        with pytest.raises(DeviceError, match="LUNA_RET_OPERATION_NOT_ALLOWED"):
            await house.log_in()

        assert await house.hsm.attempts_left() == 3


@pytest.mark.parametrize("fault", ["hang", "crash", "30"])
async def test_a_library_that_fails_in_an_initialisation_leaves_it_unknown(
    vendor: VendorModule, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report says so, and it is in the audit after an intent."""
    monkeypatch.setattr(client, "RESET_TIMEOUT", 1.0)
    vendor.tell("fault-C_InitToken", fault)
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        await house.log_in()
        report = await house.initialize("anew")

    assert report.outcome is Outcome.UNKNOWN
    assert len(records(house, "hsm-init-intent")) == 1
    assert [record["outcome"] for record in records(house, "hsm-init")] == ["unknown"]


@pytest.mark.parametrize("fault", ["hang", "crash"])
async def test_a_library_that_fails_in_a_reset_is_read_back(
    vendor: VendorModule, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the work it is unknown, and the same command completes it."""
    monkeypatch.setattr(client, "RESET_TIMEOUT", 0.5)
    vendor.tell("fault-CA_FactoryReset", fault)
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        report = await house.reset()
        vendor.untell("fault-CA_FactoryReset")
        again = await house.reset()

    assert (report.outcome, again.outcome, vendor.keys()) == (Outcome.UNKNOWN, Outcome.DONE, 0)
