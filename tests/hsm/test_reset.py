# SPDX-License-Identifier: Apache-2.0
"""A reset is recorded before it destroys, and its outcome is what a read-back proved."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.audit import AuditLog, NoAudit
from appliance.errors import (
    DeviceBusy,
    DeviceError,
    DeviceGone,
    DeviceTimeout,
    ProtocolError,
    ResetUnsupported,
    SecretRefused,
    SerialMismatch,
    StateError,
)
from appliance.hsm.journal import Journal
from appliance.hsm.model import Attachment, Device, HsmClass, HsmState, Intent, Outcome, Secret
from appliance.hsm.reset import Report, Reset, suggested_serial
from tests.support.fake_driver import FakeDriver, FakeToken, attachment, refused

NOW = datetime(2026, 1, 30, 11, 24, 0, 500, UTC)
HERE = attachment("1-1.4", 5, "A1")
INTENT = Intent("A1", "fake", HsmClass.BACKUP, "f055:0001", "A1", "2026-01-30T11:24:00+00:00", "admin", "Console")
DONE = Report(Outcome.DONE, "", "A1")


@dataclass
class Bench:
    """One plugged token, the state folder, and a reset of the token."""

    folder: Path
    driver: FakeDriver
    token: FakeToken
    journal: Journal
    audit: AuditLog

    def reset(self, *, serial: str = "A1", place: Attachment = HERE, secret: str = "") -> Reset:
        """The reset of the device that was shown with this serial at this place."""
        return Reset(
            Device(place, "fake", HsmClass.BACKUP, serial),
            self.driver,
            self.journal,
            self.audit,
            actor="admin",
            origin="Console",
            now=lambda: NOW,
            secret=Secret(secret) if secret else None,
        )

    def run(self) -> Report:
        """Reset the token."""
        return self.reset().run(lambda _: None)

    def records(self) -> list[dict[str, object]]:
        """What the audit holds."""
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]

    def events(self) -> list[object]:
        """The names of what the audit holds."""
        return [record["event"] for record in self.records()]

    def on_disk(self) -> tuple[Intent, ...]:
        """What a new process would find unfinished."""
        return Journal.open(self.folder / "pending.json").pending()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A token A1 at port 1-1.4, and nothing unfinished."""
    driver = FakeDriver()
    driver.tokens[HERE] = token = FakeToken("A1")
    journal = Journal.open(tmp_path / "pending.json")
    return Bench(tmp_path, driver, token, journal, AuditLog.open(tmp_path / "audit.jsonl"))


def test_a_reset_is_done_when_the_read_back_says_so(bench: Bench) -> None:
    """Factory state under the same serial number is what success is."""
    assert bench.run() == DONE
    assert bench.token.state is HsmState.ZEROIZED
    assert bench.on_disk() == ()


def test_the_steps_are_told(bench: Bench) -> None:
    """The progress names the driver's steps and the read-back."""
    told: list[str] = []
    bench.reset().run(told.append)

    assert told == ["blocking", "activating", "reading the token back"]


def test_the_same_open_handle_serves_from_recheck_to_read_back(bench: Bench) -> None:
    """Nothing can be swapped between the check of the serial number and the destruction."""
    bench.run()

    assert bench.token.steps == ["open", "probe", "block", "terminate", "activate", "probe", "close"]


def test_the_audit_tells_intent_and_outcome(bench: Bench) -> None:
    """Who, from where, which device, and what came of it."""
    bench.run()
    common = {
        "actor": "admin",
        "origin": "Console",
        "serial": "A1",
        "family": "fake",
        "model": "Fake",
        "firmware": "1.0",
        "usb_id": "f055:0001",
        "port": "1-1.4",
    }
    intent, outcome = bench.records()

    assert intent.items() >= (common | {"event": "reset-intent"}).items()
    assert outcome.items() >= (common | {"event": "reset-outcome", "outcome": "done", "reason": ""}).items()


def test_the_intent_is_on_disk_before_the_first_destructive_byte(bench: Bench) -> None:
    """When the first destructive command is sent, a new process would already know of it."""
    seen: list[tuple[tuple[Intent, ...], list[object]]] = []
    bench.token.hooks["block"] = lambda: seen.append((bench.on_disk(), bench.events()))
    bench.run()

    assert seen == [((INTENT,), ["reset-intent"])]


def test_the_outcome_is_in_the_audit_before_the_intent_is_struck_out(bench: Bench) -> None:
    """A crash between the two shows the reset as unfinished, never as unrecorded."""
    seen: list[list[object]] = []

    class Watched(Journal):
        def finish(self, serial: str, family: str) -> None:
            seen.append(bench.events())
            super().finish(serial, family)

    bench.journal = Watched.open(bench.folder / "pending.json")
    bench.run()

    assert seen == [["reset-intent", "reset-outcome"]]


# Before the intent: nothing is destroyed, nothing is recorded, and the error says what was wrong.


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("open", DeviceGone("it was unplugged")),
        ("open", DeviceBusy("another program holds it")),
        ("probe", DeviceTimeout("no answer")),
        ("probe", ProtocolError("rubbish")),
        ("probe", refused()),
    ],
)
def test_a_device_that_cannot_be_asked_is_not_reset(bench: Bench, step: str, error: DeviceError) -> None:
    """The driver's own error reaches the caller."""
    bench.token.fail(step, error)

    with pytest.raises(type(error)) as caught:
        bench.run()
    assert caught.value is error
    assert not bench.token.touched
    assert (bench.events(), bench.on_disk()) == ([], ())


def test_another_attachment_is_not_opened(bench: Bench) -> None:
    """The same device plugged in again is not the attachment that was shown."""
    with pytest.raises(DeviceGone):
        bench.reset(place=replace(HERE, address=6)).run(lambda _: None)
    assert bench.token.steps == []


@pytest.mark.parametrize("shown", ["B2", "A", "", "a1"])
def test_a_device_with_another_serial_is_not_reset(bench: Bench, shown: str) -> None:
    """What counts is the serial number that the device tells on this very connection."""
    with pytest.raises(SerialMismatch) as caught:
        bench.reset(serial=shown).run(lambda _: None)
    assert (caught.value.expected, caught.value.found) == (shown, "A1")
    assert not bench.token.touched
    assert (bench.events(), bench.on_disk()) == ([], ())


def test_a_device_without_a_serial_is_never_the_one(bench: Bench) -> None:
    """An empty serial number does not equal an empty serial number."""
    bench.token.serial = ""

    with pytest.raises(SerialMismatch):
        bench.reset(serial="").run(lambda _: None)
    assert not bench.token.touched


def test_a_device_that_a_reset_would_break_is_not_reset(bench: Bench) -> None:
    """The obstacle that the probe found is the reason."""
    bench.token.obstacle = "it has no life-cycle management"

    with pytest.raises(ResetUnsupported, match="life-cycle"):
        bench.run()
    assert not bench.token.touched
    assert (bench.events(), bench.on_disk()) == ([], ())


def no_journal(bench: Bench) -> None:
    """The state folder cannot be written any more."""
    folder = bench.folder / "elsewhere"
    folder.mkdir()
    bench.journal = Journal.open(folder / "pending.json")
    folder.rmdir()


def no_audit(bench: Bench) -> None:
    """The audit trail takes nothing."""
    bench.audit = NoAudit("no space left on device")


@pytest.mark.parametrize("fault", [no_journal, no_audit])
def test_what_cannot_be_recorded_is_not_begun(bench: Bench, fault: Callable[[Bench], None]) -> None:
    """A full disk keeps the device as it is."""
    fault(bench)

    with pytest.raises(StateError):
        bench.run()
    assert not bench.token.touched
    assert bench.on_disk() == ()


def test_an_intent_that_was_not_begun_has_its_outcome(bench: Bench) -> None:
    """When the journal fails after the audit has the intent, the audit says that nothing was done."""
    no_journal(bench)
    with pytest.raises(StateError):
        bench.run()

    assert bench.events() == ["reset-intent", "reset-outcome"]
    assert bench.records()[1]["outcome"] == "not done"


# After the intent: always a report, and never "done" without proof.


def become(state: HsmState, error: Exception | None = None) -> Callable[[FakeToken], None]:
    """A token that is in this state after the activation, whether it then says so or not."""

    def arrange(token: FakeToken) -> None:
        def activate() -> None:
            token.become(state)
            raise error or DeviceTimeout("no answer")

        token.hooks["activate"] = activate

    return arrange


def fail(step: str, error: Exception, *more: str) -> Callable[[FakeToken], None]:
    """A token that fails at these steps."""

    def arrange(token: FakeToken) -> None:
        for name in (step, *more):
            token.fail(name, error)

    return arrange


def swap(token: FakeToken) -> None:
    """Another token answers after the reset."""

    def activate() -> None:
        token.serial = "B2"

    token.hooks["activate"] = activate


def block(token: FakeToken) -> None:
    """A token that refuses to be terminated after its PINs have been blocked."""

    def terminate() -> None:
        token.tries = 0
        raise refused()

    token.hooks["terminate"] = terminate


def forget(token: FakeToken) -> None:
    """The driver says that all went well, and nothing happened."""
    token.become = lambda state: None  # type: ignore[method-assign]  # a device that lies


GONE = DeviceGone("it was unplugged")
MISMATCH = "expected serial 'A1', the device says 'B2'"
REFUSAL = "conditions of use not satisfied (status 6985)"


@pytest.mark.parametrize(
    ("arrange", "outcome", "reason"),
    [
        # The answer was lost, the deed was done: the read-back decides.
        (become(HsmState.ZEROIZED), Outcome.DONE, ""),
        (become(HsmState.ZEROIZED, refused()), Outcome.DONE, ""),
        # The device said no and is as it was.
        (fail("block", refused()), Outcome.NOT_DONE, REFUSAL),
        (fail("terminate", refused()), Outcome.NOT_DONE, REFUSAL),
        # It said no half-way: something was destroyed.
        (fail("activate", refused()), Outcome.UNKNOWN, REFUSAL),
        (block, Outcome.UNKNOWN, REFUSAL),
        # It said nothing, or nonsense.
        (fail("block", DeviceTimeout("no answer")), Outcome.UNKNOWN, "no answer"),
        (fail("terminate", ProtocolError("rubbish")), Outcome.UNKNOWN, "rubbish"),
        (fail("activate", GONE, "probe 2", "open 2"), Outcome.UNKNOWN, "it was unplugged"),
        (fail("block", refused(), "probe 2", "open 2"), Outcome.UNKNOWN, REFUSAL),
        # A driver stopped before its first command.
        (fail("block", ResetUnsupported("few tries are left")), Outcome.NOT_DONE, "few tries are left"),
        # It cannot be read back.
        (fail("probe 2", GONE, "open 2"), Outcome.UNKNOWN, "it was unplugged"),
        (fail("probe 2", SerialMismatch("A1", "B2"), "probe 3"), Outcome.UNKNOWN, MISMATCH),
        # It says it was done, and it is not so.
        (forget, Outcome.UNKNOWN, "not in factory state: there are keys"),
        (become(HsmState.UNKNOWN, refused()), Outcome.UNKNOWN, REFUSAL),
        (swap, Outcome.UNKNOWN, "the device says serial 'B2' after the reset"),
    ],
)
def test_the_read_back_decides(
    bench: Bench, arrange: Callable[[FakeToken], None], outcome: Outcome, reason: str
) -> None:
    """Done is proved, not done is a refusal of an unchanged device, everything else is unknown and stays unfinished."""
    arrange(bench.token)
    report = bench.run()

    assert (report.outcome, report.reason) == (outcome, reason or "")
    assert bench.events() == ["reset-intent", "reset-outcome"]
    assert bench.records()[1]["outcome"] == outcome.value
    assert bench.on_disk() == ((INTENT,) if outcome is Outcome.UNKNOWN else ())


def test_a_blank_device_that_refuses_is_not_done(bench: Bench) -> None:
    """What was blank before, and is as it was, proves no reset: its owner may have set a PIN that is still there."""
    bench.token.become(HsmState.ZEROIZED)
    bench.token.fail("block", refused())
    report = bench.run()

    assert (report.outcome, report.reason) == (Outcome.NOT_DONE, REFUSAL)
    assert bench.on_disk() == ()


@pytest.mark.parametrize(
    ("state", "label", "outcome"),
    [
        (HsmState.INITIALIZED, "vault", Outcome.NOT_DONE),
        (HsmState.INITIALIZED, "", Outcome.UNKNOWN),
        (HsmState.INITIALIZED, "another", Outcome.UNKNOWN),
        (HsmState.TERMINATED, "vault", Outcome.UNKNOWN),
        (HsmState.ZEROIZED, "vault", Outcome.DONE),
    ],
)
def test_a_refused_secret_is_no_proof_that_nothing_was_destroyed(
    bench: Bench, state: HsmState, label: str, outcome: Outcome
) -> None:
    """A device that resets itself after too many wrong ones says no more than that: what it is then was read back."""
    bench.token.label = "vault"

    def refuse() -> None:
        bench.token.become(state)
        bench.token.label = label
        raise SecretRefused("the SO PIN is blocked", 0x6983)

    bench.token.hooks["block"] = refuse

    assert bench.run().outcome is outcome
    assert bench.on_disk() == ((INTENT,) if outcome is Outcome.UNKNOWN else ())


@pytest.mark.parametrize("secret", ["4711", ""])
def test_what_was_blank_before_proves_no_reset_that_went_wrong(bench: Bench, secret: str) -> None:
    """Its owner may have set a PIN, whether a reset takes one or not, and no device tells everything it holds."""
    bench.token.become(HsmState.ZEROIZED)
    bench.token.secret = secret
    bench.token.fail("block", DeviceTimeout("no answer"))

    assert bench.reset(secret=secret).run(lambda _: None).outcome is Outcome.UNKNOWN
    assert bench.on_disk() == (INTENT,)


def test_a_blank_device_that_cannot_be_read_back_at_once_is_unknown(bench: Bench) -> None:
    """What a fresh connection tells is no proof of it: only the one of the reset knows what the reset has changed."""
    bench.token.become(HsmState.ZEROIZED)
    bench.token.fail("probe 2", ProtocolError("out of step"))

    assert bench.run() == Report(Outcome.UNKNOWN, "out of step", "A1")


def test_a_broken_connection_is_made_anew_to_read_back(bench: Bench) -> None:
    """When the connection of the reset serves no more, a fresh one tells what became of the device."""
    bench.token.fail("probe 2", ProtocolError("out of step"))

    assert bench.run() == DONE
    assert bench.token.steps[-4:] == ["close", "open", "probe", "close"]


def test_trouble_in_closing_costs_nothing(bench: Bench) -> None:
    """After the read-back the connection is of no more use."""
    bench.token.fail("close", GONE)

    assert bench.run() == DONE


def test_a_lost_closing_without_read_back_is_unknown(bench: Bench) -> None:
    """The reason is the first trouble there was."""
    bench.token.fail("probe 2", ProtocolError("out of step"))
    bench.token.fail("close", GONE)

    assert bench.run() == Report(Outcome.UNKNOWN, "it was unplugged", "A1")


def test_no_command_is_repeated(bench: Bench) -> None:
    """A device that did not answer is read back, not commanded again."""
    bench.token.fail("terminate", DeviceTimeout("no answer"))
    bench.run()

    assert [bench.token.steps.count(step) for step in ("block", "terminate", "activate")] == [1, 1, 0]


@pytest.mark.parametrize("lost", ["audit", "journal"])
def test_an_outcome_that_cannot_be_recorded_stays_unfinished(bench: Bench, lost: str) -> None:
    """The report is true all the same; the intent stays, because its outcome is not on record."""

    class Full(Journal):
        def finish(self, serial: str, family: str) -> None:
            raise StateError(bench.folder / "pending.json", "no space left on device")

    if lost == "audit":
        bench.token.hooks["activate"] = no_audit_from_now(bench)
    else:
        bench.journal = Full.open(bench.folder / "pending.json")

    assert bench.run() == DONE
    assert bench.on_disk() == (INTENT,)


def no_audit_from_now(bench: Bench) -> Callable[[], None]:
    """Have the audit fail from this moment."""

    def fill() -> None:
        def append(event: str, **_: object) -> int:
            raise StateError(bench.folder / "audit.jsonl", "no space left on device")

        bench.audit.append = append  # type: ignore[method-assign]  # the disk fills up in the middle of the reset

    return fill


# An interrupted reset is completed by the same call.


def test_an_interrupted_reset_is_completed(bench: Bench) -> None:
    """A terminated device that the journal ties to the serial number is only activated."""
    bench.token.fail("activate", GONE)
    assert bench.run().outcome is Outcome.UNKNOWN
    del bench.token.hooks["activate"]
    bench.token.steps.clear()

    assert bench.run() == DONE
    assert bench.token.steps == ["open", "probe", "activate", "probe", "close"]
    assert bench.on_disk() == ()


NO_USB_SERIAL = replace(HERE, usb_serial="")
OPAQUE = replace(HERE, usb_serial="EMULATED")


@pytest.mark.parametrize(
    ("place", "pending", "found"),
    [
        (HERE, [], "A1"),  # USB says so
        (NO_USB_SERIAL, [], ""),
        (NO_USB_SERIAL, [replace(INTENT, usb_serial="")], "A1"),
        (OPAQUE, [replace(INTENT, usb_serial="EMULATED")], "A1"),
        (OPAQUE, [], "EMULATED"),
        (OPAQUE, [INTENT], "EMULATED"),  # another stick
        (OPAQUE, [replace(INTENT, usb_serial="EMULATED", family="other")], "EMULATED"),
        (OPAQUE, [replace(INTENT, usb_serial="EMULATED", usb_id="f055:0002")], "EMULATED"),
        # Two unfinished resets on devices that look alike tie it to neither.
        (OPAQUE, [replace(INTENT, usb_serial="EMULATED", serial=serial) for serial in ("A1", "B2")], "EMULATED"),
    ],
)
def test_a_terminated_device_needs_a_tie(bench: Bench, place: Attachment, pending: list[Intent], found: str) -> None:
    """A device that cannot tell its serial is the one only if the journal, or else USB, ties it to that serial."""
    bench.driver.tokens[place] = bench.token
    bench.token.state = HsmState.TERMINATED
    for intent in pending:
        bench.journal.begin(intent)
    assert suggested_serial(bench.driver, place, bench.journal.pending()) == found

    if found == "A1":
        assert bench.reset(place=place).run(lambda _: None) == DONE
    else:
        with pytest.raises(SerialMismatch):
            bench.reset(place=place).run(lambda _: None)
        assert not bench.token.touched


def test_a_terminated_device_that_turns_out_another_is_unknown(bench: Bench) -> None:
    """The tie only allowed to go on; what the device says afterwards decides."""
    bench.token.state = HsmState.TERMINATED
    bench.token.serial = "B2"

    assert bench.run().outcome is Outcome.UNKNOWN
    assert bench.on_disk() == (INTENT,)


OTHERS = [replace(INTENT, usb_serial="EMULATED", serial=serial) for serial in ("A1", "B2")]


@pytest.mark.parametrize(("pending", "left"), [([], []), (OTHERS, OTHERS[1:])])
def test_a_name_that_only_usb_told_gives_way(bench: Bench, pending: list[Intent], left: list[Intent]) -> None:
    """A token that nothing ties to a serial is reset under its name on USB, and nothing of it stays unfinished."""
    for intent in pending:
        bench.journal.begin(intent)
    bench.driver.tokens[OPAQUE] = FakeToken("A1", HsmState.TERMINATED, alias="EMULATED")

    assert bench.reset(serial="EMULATED", place=OPAQUE).run(lambda _: None) == Report(Outcome.DONE, "", "EMULATED")
    assert bench.on_disk() == tuple(left)
    assert [record.get("told_serial") for record in bench.records()] == [None, "A1"]


def test_a_refusal_does_not_finish_what_an_earlier_reset_left(bench: Bench) -> None:
    """A terminated device that refuses has still lost what it held: unknown, and unfinished."""
    bench.token.state = HsmState.TERMINATED
    bench.token.fail("activate", refused())

    assert bench.run().outcome is Outcome.UNKNOWN
    assert bench.on_disk() == (INTENT,)


# A reset that nobody waits for any more.


def test_an_abandoned_reset_destroys_nothing(bench: Bench) -> None:
    """Abandoned while the device is still being opened, it does not go on to destroy."""
    reset = bench.reset()
    abandoned: list[bool] = []
    bench.token.hooks["probe"] = lambda: abandoned.append(reset.abandon())

    with pytest.raises(DeviceTimeout):
        reset.run(lambda _: None)
    assert abandoned == [True]
    assert not bench.token.touched
    assert (bench.events(), bench.on_disk()) == ([], ())


def test_a_begun_reset_cannot_be_abandoned(bench: Bench) -> None:
    """Once begun it goes to its end, and records it."""
    reset = bench.reset()
    abandoned: list[bool] = []
    bench.token.hooks["block"] = lambda: abandoned.append(reset.abandon())

    assert reset.run(lambda _: None) == DONE
    assert abandoned == [False]
