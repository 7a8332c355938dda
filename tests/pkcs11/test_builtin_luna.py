# SPDX-License-Identifier: Apache-2.0
"""The built-in HSM with a Luna slot, whose library fails on demand."""

import asyncio
import threading
from pathlib import Path

import pytest

from appliance.errors import DeviceError, DeviceRefused, DeviceTimeout, ProtocolError, SecretRefused
from appliance.hsm.attempts import Attempts, NoAttemptLeft
from appliance.hsm.builtin import Zeroized
from appliance.hsm.drivers.builtin import BuiltinLunaConnection
from appliance.hsm.model import Device, HsmState, Outcome
from appliance.hsm.pkcs11 import client
from appliance.hsm.pkcs11.codes import error
from tests.support.builtin_house import LABEL, WRONG, builtin_house, fail, luna, records
from tests.support.vendor_module import BOUND, VendorModule, needs_softhsm

pytestmark = needs_softhsm


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


@pytest.mark.parametrize("announced", [False, True])
@pytest.mark.parametrize(("crashes", "outcome"), [(1, Outcome.DONE), (9, Outcome.NOT_DONE)])
async def test_the_last_wrong_password_zeroizes_an_hsm_that_does_not_answer_after_it(
    vendor: VendorModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    crashes: int,
    outcome: Outcome,
    announced: bool,
) -> None:
    """The question that follows is lost: the reset is ordered all the same, and tells what it came to.

    So it is of one that has announced its last attempt itself, of which the person was warned.
    """
    spend = Attempts.spend

    def spent(attempts: Attempts, hsm: str) -> None:
        spend(attempts, hsm)
        vendor.tell("fault-C_GetTokenInfo", "crash")

    if announced:
        vendor.tell("flags", "200000")
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        await fail(house, 0 if announced else 2)
        answered, seen, name = house.manager.answered, [], house.name

        async def once(device: Device) -> None:
            await answered(device)
            seen.append(house.device.problem)
            if len(seen) == crashes:
                vendor.untell("fault-C_GetTokenInfo")

        monkeypatch.setattr(Attempts, "spend", spent)
        monkeypatch.setattr(house.manager, "answered", once)
        with pytest.raises(Zeroized) as raised:
            await house.log_in(WRONG)

    report = raised.value.report
    assert "crashed" in seen[0]
    assert (report.outcome, "crashed" in report.reason) == (outcome, outcome is not Outcome.DONE)
    left = 2 if announced else 0
    assert (vendor.keys(), house.attempts.left(name)) == ((0, 3) if outcome is Outcome.DONE else (1, left))


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


async def test_what_is_refused_after_an_initialisation_does_not_undo_it(
    vendor: VendorModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the label that it had, and no user PIN before, it looks as it did: what is refused is the look at it."""

    def refuse(_: BuiltinLunaConnection) -> tuple[str, ...]:
        raise DeviceRefused("the operation is not allowed", 0x80000030)

    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        await house.log_in()
        await house.initialize(LABEL)
        await house.log_in()
        monkeypatch.setattr(BuiltinLunaConnection, "remains", refuse)
        report = await house.initialize(LABEL)

    assert (report.outcome, report.reason) == (Outcome.UNKNOWN, "the operation is not allowed (status 80000030)")
    assert [record["outcome"] for record in records(house, "hsm-init")] == ["done", "unknown"]


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
    if fault == "hang":  # else it is to have the time that it needs
        monkeypatch.setattr(client, "RESET_TIMEOUT", 2.0)
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
    vendor.tell("fault-CA_FactoryReset", fault)
    async with builtin_house(tmp_path / "state", luna(vendor)) as house:
        with monkeypatch.context() as patch:
            if fault == "hang":  # else it is to have the time that it needs
                patch.setattr(client, "RESET_TIMEOUT", 2.0)
            report = await house.reset()
        vendor.untell("fault-CA_FactoryReset")
        again = await house.reset()

    assert (report.outcome, again.outcome, vendor.keys()) == (Outcome.UNKNOWN, Outcome.DONE, 0)
