# SPDX-License-Identifier: Apache-2.0
"""One factory reset, step by step: recheck, intent, command, read-back, outcome.

Nothing is destroyed before the intent is on disk, and nothing is called done but what a read-back proved. An intent
without an outcome means that the reset may be half done; the same call, made again, completes it.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from appliance.audit import AuditLog
from appliance.errors import (
    DeviceError,
    DeviceRefused,
    DeviceTimeout,
    ResetUnsupported,
    SecretRefused,
    SerialMismatch,
    StateError,
)
from appliance.hsm.drivers import Connection, Driver, Progress
from appliance.hsm.journal import Journal
from appliance.hsm.model import Attachment, Device, HsmState, Intent, Outcome, Probe, Secret
from appliance.log import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """What a reset came to; `reason` is one sentence, "" when it is done."""

    outcome: Outcome
    reason: str
    serial: str


def suggested_serial(driver: Driver, attachment: Attachment, pending: Iterable[Intent]) -> str:
    """The serial number of a device that cannot tell its own: of the one reset left unfinished on it, else from USB.

    It only tells what to call the device. A read-back must confirm it before anything is called done.
    """
    looks = (driver.family, attachment.usb_id, attachment.usb_serial)
    tied = {intent.serial for intent in pending if (intent.family, intent.usb_id, intent.usb_serial) == looks}
    return tied.pop() if len(tied) == 1 else driver.serial_from_usb(attachment)


def serial_of(probe: Probe, driver: Driver, attachment: Attachment, pending: Iterable[Intent]) -> str:
    """The serial number that a device tells, also an empty one; where it cannot tell any, the suggested one."""
    return suggested_serial(driver, attachment, pending) if probe.serial is None else probe.serial


class Beginning:
    """Where work in a thread begins to change something, unless whoever ordered it has given it up before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._abandoned = False

    def pass_it(self) -> None:
        """Begin. Raises `DeviceTimeout` when it was given up."""
        with self._lock:
            if self._abandoned:
                raise DeviceTimeout("it answered too late")
            self._begun = True

    def abandon(self) -> bool:
        """Forbid what has not been begun; whether that was in time, so that nothing is or will be destroyed."""
        with self._lock:
            self._abandoned = True
            return not self._begun


class Reset:
    """The factory reset of one device, as it was shown to the person who ordered it."""

    def __init__(
        self,
        device: Device,
        driver: Driver,
        journal: Journal,
        audit: AuditLog,
        *,
        actor: str,
        origin: str,
        now: Callable[[], datetime],
        secret: Secret | None = None,
    ) -> None:
        self._device = device
        self._driver = driver
        self._journal = journal
        self._audit = audit
        self._actor = actor
        self._origin = origin
        self._now = now
        self._secret = secret
        self._beginning = Beginning()
        self._resumes = False  # an earlier reset of it has no outcome yet

    def abandon(self) -> bool:
        """Forbid it when it has not begun; whether that was in time."""
        return self._beginning.abandon()

    def run(self, progress: Progress) -> Report:
        """Reset the device; blocks for as long as it takes.

        Raises `SerialMismatch`, `ResetUnsupported`, another `DeviceError` or `StateError` before anything was
        destroyed. Once the intent is recorded there is always a report.
        """
        before: Probe | None = None
        after: Probe | None = None
        trouble: DeviceError | None = None
        try:
            with self._driver.open(self._device.attachment) as connection:
                checked = self._recheck(connection)
                self._record_intent(checked)
                before = checked
                trouble = _command(connection, progress, self._secret)
                progress("reading the token back")
                after = connection.probe()
        except DeviceError as problem:
            if before is None:
                raise
            if after is None and not self._driver.restarts:  # one that restarts answers nothing more here
                trouble = trouble or problem
        if after is None:
            try:
                after = self._asked_anew()
            except DeviceError as problem:
                trouble = trouble or problem
        report = self._conclude(trouble, before, after)
        self._record_outcome(report, before, after)
        return report

    def _recheck(self, connection: Connection) -> Probe:
        """What the device says of itself now, if it is the one that was shown and can be reset."""
        probe = connection.probe()
        expected = self._device.serial
        found = serial_of(probe, self._driver, self._device.attachment, self._journal.pending())
        if not expected or found != expected:
            raise SerialMismatch(expected, found)
        if probe.obstacle:
            raise ResetUnsupported(probe.obstacle)
        if probe.credential and self._secret is None:
            raise DeviceError(f"it wants its {probe.credential.name}, and has not wanted it before")
        return probe

    def _record_intent(self, probe: Probe) -> None:
        """Have the intent on disk, in the audit and in the journal, or raise `StateError`; then nothing was begun."""
        self._beginning.pass_it()
        self._append("reset-intent", probe)
        attachment = self._device.attachment
        intent = Intent(
            serial=self._device.serial,
            family=self._device.family,
            hsm_class=self._device.hsm_class,
            usb_id=attachment.usb_id,
            usb_serial=attachment.usb_serial,
            begun=self._now().astimezone(UTC).isoformat(timespec="seconds"),
            actor=self._actor,
            origin=self._origin,
        )
        self._resumes = any(
            (other.serial, other.family) == (intent.serial, intent.family) for other in self._journal.pending()
        )
        try:
            self._journal.begin(intent)
        except StateError as problem:
            self._append_if_possible(probe, Report(Outcome.NOT_DONE, problem.reason, self._device.serial))
            raise

    def _asked_anew(self) -> Probe:
        """What the device says on a fresh connection, when the old one serves no more: it may have restarted.

        Raises `DeviceError`.
        """
        with self._driver.reopen(self._device.attachment) as connection:
            return connection.probe()

    def _conclude(self, trouble: DeviceError | None, before: Probe | None, after: Probe | None) -> Report:
        serial = self._device.serial
        if after is None:
            return Report(Outcome.UNKNOWN, str(trouble), serial)
        if after.serial is not None and serial not in (after.serial, after.alias):
            return Report(Outcome.UNKNOWN, f"the device says serial {after.serial!r} after the reset", serial)
        if isinstance(trouble, SecretRefused) and not (before and _holds_less(before, after)):
            return Report(Outcome.NOT_DONE, _with_tries(trouble, after), serial)
        # As it was in every respect: where a PIN is blocked now, the keys behind it are out of reach.
        unchanged = after == before and after.state in (HsmState.INITIALIZED, HsmState.ZEROIZED)
        if unchanged and isinstance(trouble, DeviceRefused | ResetUnsupported):
            return Report(Outcome.NOT_DONE, str(trouble), serial)
        # Blank as before proves nothing: of its owner's PINs and of much else a device does not tell.
        if trouble and before and after.state is before.state:
            return Report(Outcome.UNKNOWN, str(trouble), serial)
        if after.serial is not None and after.state is HsmState.ZEROIZED:
            return Report(Outcome.DONE, "", serial)
        found = ", ".join(after.shortcomings) or f"the state is {after.state}"
        return Report(Outcome.UNKNOWN, str(trouble) if trouble else f"not in factory state: {found}", serial)

    def _record_outcome(self, report: Report, before: Probe | None, after: Probe | None) -> None:
        """Record the outcome; the intent stays while that has failed, or while the outcome is not certain."""
        if not self._append_if_possible(after or before, report) or report.outcome is Outcome.UNKNOWN:
            return
        if report.outcome is Outcome.NOT_DONE and self._resumes:  # what the earlier one did is as open as before
            return
        names = [report.serial]
        if before and after:  # of a device that was called otherwise once, the reset under that name is done as well
            pending = {intent.serial for intent in self._journal.pending()}
            names += sorted(pending.intersection({after.serial, before.alias}) - {report.serial})
        try:
            for name in names:
                self._journal.finish(name, self._device.family)
        except StateError as problem:
            _log.error("intent could not be struck out", serial=report.serial, reason=str(problem))

    def _append_if_possible(self, probe: Probe | None, report: Report) -> bool:
        try:
            self._append("reset-outcome", probe, outcome=report.outcome.value, reason=report.reason)
        except StateError as problem:
            _log.error("outcome could not be recorded", outcome=report.outcome, reason=str(problem))
            return False
        return True

    def _append(self, event: str, probe: Probe | None, **fields: str) -> None:
        device = self._device
        if probe and (told := probe.told or probe.serial or device.serial) != device.serial:
            fields["told_serial"] = told
        self._audit.append(
            event,
            actor=self._actor,
            origin=self._origin,
            serial=device.serial,
            family=device.family,
            model=probe.model if probe else "",
            firmware=probe.firmware if probe else "",
            usb_id=device.attachment.usb_id,
            port=device.attachment.port,
            **fields,
        )


def _command(connection: Connection, progress: Progress, secret: Secret | None) -> DeviceError | None:
    """Have the device destroy what it holds; what went wrong, if anything did."""
    try:
        connection.factory_reset(progress, secret)
    except DeviceError as problem:
        return problem
    return None


def _with_tries(trouble: SecretRefused, after: Probe) -> str:
    """What was refused, and how many tries are left now."""
    left = after.credential.tries_left if after.credential else None
    return str(trouble) if left is None else f"{trouble}; tries left: {left}"


def _holds_less(before: Probe, after: Probe) -> bool:
    """Whether something was destroyed, whatever the device said: some reset themselves after too many wrong PINs."""
    emptier = after.state is not before.state and after.state in (HsmState.ZEROIZED, HsmState.TERMINATED)
    return emptier or after.label != before.label
