# SPDX-License-Identifier: Apache-2.0
"""What is done with the built-in HSM: its security officer logs in, initialises it, and it is reset.

The third wrong password in a row zeroizes it. The reset is that of the external HSMs; nothing here destroys by itself
but the initialisation of an HSM whose security officer has logged in.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from appliance.audit import AuditLog
from appliance.errors import (
    ApplianceError,
    DeviceError,
    DeviceRefused,
    NotLoggedIn,
    ProtocolError,
    SecretRefused,
    StateError,
    UnknownSerial,
)
from appliance.hsm.attempts import Attempts
from appliance.hsm.drivers import Connection, Progress
from appliance.hsm.drivers.builtin import BuiltinConnection
from appliance.hsm.manager import Manager
from appliance.hsm.model import Device, HsmClass, HsmState, Outcome, Probe, Secret
from appliance.hsm.reset import Report
from appliance.hsm.worker import in_thread
from appliance.log import get_logger

_log = get_logger(__name__)

T = TypeVar("T")


class Zeroized(ApplianceError):
    """The last attempt was wrong, or is not known to have been right: what the reset came to."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"{report.outcome}: {report.reason}" if report.reason else str(report.outcome))
        self.report = report


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks, and from where; a login belongs to the session, of which there is one from each place at a time."""

    actor: str
    origin: str


class BuiltinHsm:
    """The built-in HSM of this appliance, if it has one. Lives on the manager's loop."""

    def __init__(self, manager: Manager, attempts: Attempts, audit: AuditLog) -> None:
        self._manager = manager
        self._attempts = attempts
        self._audit = audit
        self._logged_in: set[Person] = set()
        self._work: set[asyncio.Task[Any]] = set()
        self._turn = asyncio.Lock()  # an attempt and what follows from it, before the next one

    @property
    def busy(self) -> bool:
        """Whether anything is being done with it, a reset aside."""
        return bool(self._work)

    async def finished(self) -> None:
        """Wait for what is being done with it; each has its own time limit."""
        while self._work:
            await asyncio.wait(self._work)

    def device(self) -> Device | None:
        """What is known of it; None when none is configured."""
        return next(iter(self._manager.devices(HsmClass.BUILTIN)), None)

    def logged_in(self) -> bool:
        """Whether its security officer is logged in, in whichever session."""
        return bool(self._logged_in)

    async def attempts_left(self) -> int:
        """How many wrong logins it takes until it is zeroized; 0: it is due. Raises `StateError`.

        A Luna HSM counts as well; it may have seen some that came through another program.
        """
        left = await in_thread(self._attempts.left, "attempts")
        device = self.device()
        return min(left, 1) if device and device.probe and device.probe.final_try else left

    async def log_in(self, secret: Secret, person: Person) -> None:
        """Log the security officer in, for this session.

        Raises `SecretRefused`, `Zeroized`, what `Manager.operate` raises, `StateError`. A caller who is cancelled
        stops nothing, and is not logged in.
        """
        await self._to_the_end(self._log_in(secret, person))
        self._logged_in.add(person)

    async def log_out(self, person: Person) -> bool:
        """End the login of this session; whether there was one."""
        if person not in self._logged_in:
            return False
        self._logged_in.discard(person)
        await self._record("hsm-logout", person)
        return True

    async def initialize(self, label: str, secret: Secret, person: Person) -> Report:
        """Give the HSM a label, and its first password where it is zeroized; else destroy what is in it.

        What is initialised needs a login of this session, and the password once more, which is an attempt like a
        login. Raises what `log_in` raises, and `NotLoggedIn`; once something may be destroyed there is a report.
        """
        return await self._to_the_end(self._initialize(label, secret, person))

    async def zeroize_if_due(self, person: Person) -> None:
        """Zeroize the HSM when no attempt is left: it was turned off, or failed, in the middle of the last one.

        Raises `Zeroized` then.
        """
        await self._to_the_end(self._zeroize_if_due(person))

    async def factory_reset(self, person: Person, progress: Progress) -> Report:
        """Reset it like any HSM; what is known of it afterwards is what it says then.

        Raises what `Manager.factory_reset` raises.
        """
        self._logged_in.clear()
        device = self._existing()
        report = await self._manager.factory_reset(device, actor=person.actor, origin=person.origin, progress=progress)
        await self._manager.answered(device)
        return report

    def _existing(self) -> Device:
        device = self.device()
        if device is None:
            raise UnknownSerial("")
        return device

    async def _zeroize_if_due(self, person: Person) -> None:
        if not await self.attempts_left() and self._existing().state is not HsmState.ZEROIZED:
            raise Zeroized(await self.factory_reset(person, lambda _: None))

    async def _log_in(self, secret: Secret, person: Person) -> None:
        try:
            await self._attempt(person, lambda connection: connection.log_in(secret, self._attempts.spend))
        except ApplianceError as problem:
            self._logged_in.discard(person)
            await self._record("hsm-login", person, outcome="not done", reason=str(problem))
            await self._zeroize_after(problem, person)
            raise
        await self._record("hsm-login", person, outcome="done")

    async def _initialize(self, label: str, secret: Secret, person: Person) -> Report:
        blank = self._existing().state is HsmState.ZEROIZED
        if not blank and person not in self._logged_in:
            raise NotLoggedIn("its security officer is not logged in")
        begun: list[bool] = []

        def before() -> None:
            self._audit.append(
                "hsm-init-intent", actor=person.actor, origin=person.origin, label=label, told_serial=self._told()
            )
            if blank:
                self._attempts.set(self._attempts.most)  # those of whoever had it before
            else:
                self._attempts.spend()
            begun.append(True)

        def work(connection: BuiltinConnection) -> Probe:
            if (connection.probe().state is HsmState.ZEROIZED) is not blank:  # or a password would be tried uncounted
                raise DeviceError("it is not what it was any more")
            connection.initialize(label, secret, before)
            return connection.probe()

        self._logged_in.clear()
        try:
            probe = await (self._operate(work) if blank else self._attempt(person, work))
            report = _judged(probe, label)
        except (DeviceError, StateError) as problem:
            outcome = Outcome.UNKNOWN if begun and not isinstance(problem, DeviceRefused) else Outcome.NOT_DONE
            report = Report(outcome, str(problem), "")
            await self._record_init(report, person)
            await self._zeroize_after(problem, person)
            if outcome is Outcome.NOT_DONE:
                raise
        else:
            await self._record_init(report, person)
        return report

    async def _attempt(self, person: Person, call: Callable[[BuiltinConnection], T]) -> T:
        """Let `call` give the HSM a password; it spends an attempt, which a right one, or no answer on it, gives back.

        Raises `Zeroized`, `SecretRefused`, or whatever else it comes to: then nobody knows, and it is spent.
        """
        await self._zeroize_if_due(person)
        left = await in_thread(self._attempts.left, "attempts")
        try:
            result = await self._operate(call)
        except SecretRefused:
            raise
        except DeviceRefused:
            await in_thread(partial(self._attempts.set, left), "attempts")
            raise
        await in_thread(partial(self._attempts.set, self._attempts.most), "attempts")
        return result

    async def _zeroize_after(self, problem: ApplianceError, person: Person) -> None:
        """What a refused password leads to: the reset when none is left, or when the HSM has zeroized itself.

        Raises `Zeroized` then.
        """
        if isinstance(problem, SecretRefused):
            await self._zeroize_if_due(person)
        if isinstance(problem, DeviceRefused) and self._existing().state is HsmState.ZEROIZED:
            raise Zeroized(await self.factory_reset(person, lambda _: None))

    async def _operate(self, call: Callable[[BuiltinConnection], T]) -> T:
        def narrowed(connection: Connection) -> T:
            if not isinstance(connection, BuiltinConnection):
                raise ProtocolError("it is no built-in HSM")
            return call(connection)

        device = self._existing()
        if device.interrupted:
            raise DeviceError("a reset of it was begun and has not ended; 'hsm factoryReset' completes it")
        return await self._manager.operate(device, narrowed)

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it as a task of its own: whoever hangs up leaves no attempt without its consequence."""
        task = asyncio.create_task(self._in_turn(work))
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return await asyncio.shield(task)

    async def _in_turn(self, work: Coroutine[Any, Any, T]) -> T:
        async with self._turn:
            return await work

    def _told(self) -> str:
        device = self.device()
        return device.probe.told or device.serial if device and device.probe else ""

    async def _record_init(self, report: Report, person: Person) -> None:
        told = self._told()
        await self._record("hsm-init", person, outcome=report.outcome.value, reason=report.reason, told_serial=told)

    async def _record(self, event: str, person: Person, **fields: str) -> None:
        try:
            await self._audit.record(event, actor=person.actor, origin=person.origin, **fields)
        except StateError as problem:
            _log.error("audit record lost", audited=event, reason=str(problem))


def _judged(probe: Probe, label: str) -> Report:
    """What a read-back says of an initialisation."""
    if probe.state is HsmState.INITIALIZED and probe.label == label:
        return Report(Outcome.DONE, "", probe.told or probe.serial or "")
    return Report(Outcome.UNKNOWN, f"it is {probe.state}, and its label is {probe.label!r}", "")
