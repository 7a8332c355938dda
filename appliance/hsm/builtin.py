# SPDX-License-Identifier: Apache-2.0
"""What is done with the built-in HSM: its security officer logs in, initialises it, and it is reset.

The third wrong password in a row zeroizes it, by the reset of the external HSMs. Nothing else here destroys but what a
person has ordered: where the attempts are used up otherwise, by a crash or a fault of the library, no login is taken.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
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
from appliance.hsm.attempts import CHANGED, Attempt, Attempts, left
from appliance.hsm.drivers import Connection, Progress
from appliance.hsm.drivers.builtin import BuiltinConnection
from appliance.hsm.manager import Manager
from appliance.hsm.model import Device, HsmClass, HsmState, Outcome, Probe, Secret
from appliance.hsm.pkcs11.codes import PIN_INCORRECT
from appliance.hsm.reset import Beginning, Report
from appliance.log import get_logger
from appliance.worker import in_thread

_log = get_logger(__name__)

T = TypeVar("T")


class Zeroized(ApplianceError):
    """The HSM refused the password of the last attempt: what the reset came to."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"{report.outcome}: {report.reason}" if report.reason else str(report.outcome))
        self.report = report


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """Who asks, and from where, in one session: two are never the same, for a login belongs to its session."""

    actor: str
    origin: str


class BuiltinHsm:
    """The built-in HSM of this appliance, if it has one. Lives on the manager's loop."""

    def __init__(self, manager: Manager, attempts: Attempts, audit: AuditLog) -> None:
        self._manager = manager
        self._attempts = attempts
        self._audit = audit
        self._logged_in: set[Person] = set()  # another set, whenever what they have logged in to is gone
        self._work: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._turn = asyncio.Lock()  # an attempt and what follows from it, before the next one
        self._queue = asyncio.Lock()  # where all but a reset wait for the turn

    @property
    def busy(self) -> bool:
        """Whether anything is being done with it, a reset aside; what waits for its turn at the end is refused."""
        return bool(self._work)

    async def finished(self) -> None:
        """Take no password any more, and wait for what is being done with it; each has its own time limit."""
        self._closing = True
        if self._work:
            await asyncio.wait(self._work)

    def device(self) -> Device | None:
        """What is known of it; None when none is configured."""
        return next(iter(self._manager.devices(HsmClass.BUILTIN)), None)

    async def refresh(self, *, first: bool = False) -> None:
        """Ask it what it is now, when nothing else is being done with it, and before all who wait, if `first`.

        Raises what `Manager.refresh` raises.
        """
        async with self._its_turn(first=first):
            device = self._existing()
            await self._manager.refresh(device)
            await self._manager.answered(device)
            if self._existing().state is HsmState.ZEROIZED:
                await self._begin_anew()

    def logged_in(self, person: Person | None = None) -> bool:
        """Whether its security officer is logged in: in this session, or in whichever."""
        return person in self._logged_in if person else bool(self._logged_in)

    async def attempts_left(self) -> int:
        """How many wrong logins it takes until it is zeroized; 0: it takes none. Raises `DeviceError`, `StateError`.

        A Luna HSM counts as well; it may have seen some that came through another program.
        """
        device = self._existing()
        probe = device.probe
        if probe is None:
            raise DeviceError(device.problem or "it has not answered yet")
        return await in_thread(lambda: left(self._attempts, probe), "attempts")

    async def log_in(self, secret: Secret, person: Person, shown: int) -> None:
        """Log the security officer in, for this session; `shown` is how many attempts the person knows of.

        Raises `SecretRefused`, `Zeroized`, `NoAttemptLeft`, `AttemptsDropped`, what `Manager.operate` raises,
        `StateError`. A caller who is cancelled stops nothing, and is not logged in.
        """
        here = await self._to_the_end(self._log_in(secret, person, shown))
        here.add(person)

    async def log_out(self, person: Person) -> bool:
        """End the login of this session; whether there was one."""
        if person not in self._logged_in:
            return False
        self._logged_in.discard(person)
        await self._record("hsm-logout", person)
        return True

    async def initialize(self, label: str, secret: Secret, person: Person, shown: int | None) -> Report:
        """Give the HSM a label, and its first password where it is zeroized; else destroy what is in it.

        What is initialised needs a login of this session, and the password once more, which is an attempt like a
        login; `shown` is how many the person knows of, None where the HSM was shown as zeroized. One that is not what
        was shown is left alone: the person was asked for another password. Raises what `log_in` raises, and
        `NotLoggedIn`; once something may be destroyed there is a report.
        """
        return await self._to_the_end(self._initialize(label, secret, person, shown))

    async def factory_reset(self, person: Person, progress: Progress) -> Report:
        """Reset it like any HSM; what is known of it afterwards is what it says then.

        It waits for what is being done with it, which has its own time limit, and goes before all who wait.
        Raises what `Manager.factory_reset` raises.
        """
        if self._turn.locked():
            progress("waiting for what is being done with it")
        async with self._its_turn(first=True):
            return await self._reset(person, progress)

    async def _reset(self, person: Person, progress: Progress) -> Report:
        """As above, by whoever has the turn."""

        def begun(step: str) -> None:  # in the thread, with every step: no driver has one before the intent
            self._logged_in = set()
            progress(step)

        device = self._existing()
        report = await self._manager.factory_reset(device, actor=person.actor, origin=person.origin, progress=begun)
        if report.outcome is Outcome.DONE:
            await self._begin_anew()
        await self._manager.answered(device)
        return report

    def _existing(self) -> Device:
        device = self.device()
        if device is None:
            raise UnknownSerial("")
        return device

    async def _begin_anew(self) -> None:
        """It is blank: nobody is logged in, and whoever initialises it has every attempt."""
        self._logged_in = set()
        try:
            await in_thread(self._attempts.forget, "attempts")
        except (DeviceError, StateError) as problem:  # the initialisation tries again
            _log.error("attempts could not be forgotten", reason=str(problem))

    async def _log_in(self, secret: Secret, person: Person, shown: int) -> set[Person]:
        here, beginning, attempt = self._logged_in, Beginning(), Attempt(self._attempts, shown)

        def work(connection: BuiltinConnection) -> None:
            attempt.make(connection, beginning.pass_it, lambda before: connection.log_in(secret, before))

        try:
            await self._operate(work)
        except ApplianceError as problem:
            begun = not beginning.abandon()
            self._logged_in.discard(person)
            await self._record("hsm-login", person, outcome="not done", reason=str(problem))
            if begun:
                await self._zeroize_after(problem, person, attempt)
            raise
        await self._record("hsm-login", person, outcome="done")
        return here

    async def _initialize(self, label: str, secret: Secret, person: Person, shown: int | None) -> Report:
        known, beginning, attempt = self._existing(), Beginning(), Attempt(self._attempts, shown or 0)
        blank = shown is None
        if not blank and known.state is HsmState.ZEROIZED:
            raise DeviceError(CHANGED)
        if not blank and person not in self._logged_in:
            raise NotLoggedIn("its security officer is not logged in")

        def begin() -> None:
            beginning.pass_it()
            self._audit.append(
                "hsm-init-intent", actor=person.actor, origin=person.origin, label=label, told_serial=self._told()
            )
            self._logged_in = set()

        def first() -> None:
            begin()
            self._attempts.forget()  # those of whoever had it before

        def work(connection: BuiltinConnection) -> Report:
            if not blank:
                attempt.make(connection, begin, lambda before: connection.initialize(label, secret, before))
            elif connection.probe().state is HsmState.ZEROIZED:  # or a password would be tried uncounted
                connection.initialize(label, secret, first)
            else:
                raise DeviceError(CHANGED)
            return _read_back(connection, label)

        try:
            report = await self._operate(work)
        except (DeviceError, StateError) as problem:
            begun = not beginning.abandon()
            refused = isinstance(problem, StateError) or (
                isinstance(problem, DeviceRefused) and _contents(self._existing()) == _contents(known)
            )
            report = Report(Outcome.UNKNOWN if begun and not refused else Outcome.NOT_DONE, str(problem), "")
            await self._record_init(report, person)
            if begun and not blank:
                await self._zeroize_after(problem, person, attempt)
            if report.outcome is Outcome.NOT_DONE:
                if blank and isinstance(problem, SecretRefused):  # there is none that it could differ from
                    raise DeviceRefused("it does not take this password", problem.status) from problem
                raise
        else:
            await self._record_init(report, person)
        return report

    async def _zeroize_after(self, problem: ApplianceError, person: Person, attempt: Attempt) -> None:
        """What a refused password leads to: the reset when it was the last, or when the HSM has zeroized itself.

        What was known before the password counts: the HSM need not answer any more. Raises `Zeroized` then.
        """
        if not isinstance(problem, DeviceRefused):
            return
        zeroized = self._existing().state is HsmState.ZEROIZED
        if not zeroized and not (attempt.last and problem.status == PIN_INCORRECT):
            return
        try:
            report = await self._reset(person, lambda _: None)
        except ApplianceError as obstacle:  # it takes no login, and is what it was
            report = Report(Outcome.NOT_DONE, str(obstacle), "")
        raise Zeroized(report) from problem

    async def _operate(self, call: Callable[[BuiltinConnection], T]) -> T:
        def narrowed(connection: Connection) -> T:
            if not isinstance(connection, BuiltinConnection):
                raise ProtocolError("it is no built-in HSM")
            return call(connection)

        if self._closing:
            raise DeviceError("the console is being stopped")
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
        async with self._its_turn(first=False):
            return await work

    @asynccontextmanager
    async def _its_turn(self, *, first: bool) -> AsyncIterator[None]:
        """Be alone with it. Who goes `first` waits for who is at it, and for one more at most: who left the queue."""
        async with AsyncExitStack() as held:
            if not first:
                await held.enter_async_context(self._queue)
            await held.enter_async_context(self._turn)
            yield

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


def _contents(device: Device) -> tuple[object, ...]:
    probe = device.probe
    return (probe.state, probe.label, probe.told, probe.shortcomings) if probe else ()


def _read_back(connection: BuiltinConnection, label: str) -> Report:
    """What it is after an initialisation that it did not refuse: never "not done", whatever goes wrong with this."""
    try:
        return _judged(connection.probe(), label, connection.remains())
    except DeviceError as problem:
        return Report(Outcome.UNKNOWN, str(problem), "")


def _judged(probe: Probe, label: str, remains: tuple[str, ...]) -> Report:
    """What a read-back says of an initialisation."""
    if remains:
        return Report(Outcome.UNKNOWN, f"not initialized anew: {', '.join(remains)}", "")
    if probe.state is HsmState.INITIALIZED and probe.label == label:
        return Report(Outcome.DONE, "", probe.told or probe.serial or "")
    return Report(Outcome.UNKNOWN, f"it is {probe.state}, and its label is {probe.label!r}", "")
