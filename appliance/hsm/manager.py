# SPDX-License-Identifier: Apache-2.0
"""One actor owns the inventory: it hears what is plugged, asks each device what it is, and lets one thing at a time be
done with each.

Devices are only ever touched in worker threads. One that hangs keeps its own thread for as long as it likes, counts as
busy meanwhile, and stands in nobody's way.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from appliance.audit import AuditLog
from appliance.errors import AttachmentChanged, DeviceBusy, DeviceError, DeviceTimeout, NotThisFamily, StateError
from appliance.hsm.drivers import Connection, Driver, Progress
from appliance.hsm.hotplug import Event, HotplugSource, Plugged, Rescan
from appliance.hsm.journal import Journal
from appliance.hsm.model import BUILTIN, Attachment, Device, HsmClass, Intent, Outcome, Probe, Secret
from appliance.hsm.registry import Registry
from appliance.hsm.reset import Report, Reset, serial_of, suggested_serial
from appliance.log import get_logger
from appliance.worker import in_thread, in_time

_log = get_logger(__name__)

ASKED_AT_ONCE = 4  # devices; more threads would take the processor from the loop, and so from the console
PATIENCE = 1.0  # seconds after which a device that has not answered makes room for the next

_ACTOR = "system"  # in the audit, for what no person did

T = TypeVar("T")


def utc_now() -> datetime:
    """The time of day."""
    return datetime.now(UTC)


class Manager:
    """The attached HSMs: which there are, what they are, and their factory reset. Lives on one event loop."""

    def __init__(
        self,
        source: HotplugSource,
        drivers: Sequence[Driver],
        journal: Journal,
        audit: AuditLog,
        *,
        pki_serials: Collection[str] = (),
        operation_timeout: float = 120.0,
        probe_timeout: float = 30.0,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._source = source
        self._registry = Registry(drivers, pki_serials)
        self._journal = journal
        self._audit = audit
        self._operation_timeout = operation_timeout  # seconds
        self._probe_timeout = probe_timeout  # seconds
        self._now = now
        self._scanned = asyncio.Event()
        self._stopping = False
        self._calls: dict[Attachment, asyncio.Future[Any]] = {}  # what occupies a device: its lock
        self._asking: dict[Attachment, asyncio.Task[bool]] = {}
        self._resets: dict[asyncio.Task[Report], Device] = {}
        self._unannounced: dict[Attachment, str] = {}  # arrivals that the audit does not know yet: present or plug
        self._noting: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(ASKED_AT_ONCE)

    async def start(self) -> None:
        """Begin to listen; returns when the first scan is applied, while the devices are still being asked."""
        self._hear(Plugged(BUILTIN))  # nothing, where no driver takes it
        await self._source.start(self._hear)
        await self._scanned.wait()

    async def stop(self) -> None:
        """Begin no reset any more, wait for those that run (they have their own time limit), then hear nothing more."""
        self._stopping = True
        while self._resets:
            await asyncio.wait(self._resets)
        self._source.close()  # not before: where devices are simulated, they leave with it
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), *self._noting, return_exceptions=True)

    async def settled(self) -> None:
        """Wait until every device that is being asked has answered or has run out of time."""
        if self._asking:
            await asyncio.wait(self._asking.values())

    @property
    def busy(self) -> bool:
        """Whether a reset is running."""
        return bool(self._resets)

    def devices(self, hsm_class: HsmClass) -> tuple[Device, ...]:
        """The attached devices of one class, by serial number; unreachable and interrupted ones included."""
        return tuple(self._with_intent(device) for device in self._registry.all() if device.hsm_class is hsm_class)

    def find(self, serial: str, hsm_class: HsmClass) -> Device:
        """The one device with this serial number. Raises `UnknownSerial`, `WrongClass` or `AmbiguousSerial`."""
        return self._with_intent(self._registry.find(serial, hsm_class))

    def interrupted(self) -> tuple[Intent, ...]:
        """The resets that were begun and have no outcome, attached or not; none that is still running."""
        running = {(device.serial, device.family) for device in self._resets.values()}
        return tuple(intent for intent in self._journal.pending() if (intent.serial, intent.family) not in running)

    def begun(self, device: Device) -> bool:
        """Whether a reset of the device was begun and has no outcome, running or not."""
        return device.unfinished(self._journal.pending()) is not None

    async def refresh(self, device: Device) -> None:
        """Ask a device once more; `find` knows the answer afterwards.

        Raises `AttachmentChanged`, or the `DeviceError` that says why it cannot be asked.
        """
        attachment = device.attachment
        await self._until_idle(attachment)
        if self._registry.at(attachment) is None or await self._recognise(attachment) is None:
            raise AttachmentChanged(device.serial)

    async def _recognise(self, attachment: Attachment) -> Device | None:
        """Ask each family, and learn what the one says that knows the device; None when that is gone."""
        *others, last = self._registry.nominees(attachment)
        for driver in others:
            with suppress(NotThisFamily):
                return self._learn(driver, attachment, await self._probe(driver, attachment))
        return self._learn(last, attachment, await self._probe(last, attachment))

    async def factory_reset(
        self, device: Device, *, actor: str, origin: str, progress: Progress, secret: Secret | None = None
    ) -> Report:
        """Reset exactly the attachment that was shown, with the secret that its probe asks for.

        Cancelling the caller does not stop a reset that has begun.

        Raises `AttachmentChanged` or `AmbiguousSerial`, a `DeviceError` or `StateError` before anything was destroyed;
        afterwards there is always a report.
        """
        attachment = device.attachment
        current = await self._ready(device)
        driver = self._registry.driver(current.family)
        reset = Reset(
            current, driver, self._journal, self._audit, actor=actor, origin=origin, now=self._now, secret=secret
        )
        call = self._begin(attachment, partial(reset.run, progress))
        # What it said before a reset that was begun is not shown any more.
        forget = partial(self._registry.learn, attachment, current.family, current.serial)
        call.add_done_callback(lambda ended: ended.exception() or forget())
        call.add_done_callback(lambda _: self._ask(attachment))  # however late it ends
        task = asyncio.create_task(self._report(reset, call, current, actor, origin))
        self._resets[task] = current
        task.add_done_callback(self._reset_over)
        return await asyncio.shield(task)

    async def operate(self, device: Device, call: Callable[[Connection], T]) -> T:
        """Let `call`, in a thread, do something else with the device; `find` knows what it is afterwards.

        Raises what `factory_reset` raises before anything was destroyed, what `call` raises, or `DeviceTimeout`: then
        what it did is not known.
        """
        attachment = device.attachment
        current = await self._ready(device)
        work = self._begin(attachment, partial(_opened, self._registry.driver(current.family), attachment, call))
        work.add_done_callback(lambda _: self._ask(attachment))  # however late it ends
        try:
            return await in_time(work, self._operation_timeout)
        finally:
            await self.answered(device)

    async def answered(self, device: Device) -> None:
        """Wait until the device, where it is being asked what it is, has answered or has run out of time."""
        if device.attachment in self._asking:
            await asyncio.wait([self._asking[device.attachment]])

    async def _ready(self, device: Device) -> Device:
        """The device, when it is idle, as it was shown, and still the only one."""
        await self._until_idle(device.attachment)
        if self._stopping:
            raise DeviceError("the console is being stopped")
        current = self._registry.at(device.attachment)
        if current is None or (current.serial, current.hsm_class) != (device.serial, device.hsm_class):
            raise AttachmentChanged(device.serial)
        self._registry.find(device.serial, device.hsm_class)
        return current

    async def _report(
        self, reset: Reset, call: asyncio.Future[Report], device: Device, actor: str, origin: str
    ) -> Report:
        """What the reset came to, also when it does not end in time or ends in a defect of ours."""
        try:
            return await in_time(call, self._operation_timeout)
        except DeviceError as problem:
            if reset.abandon():
                raise
            report = Report(Outcome.UNKNOWN, str(problem), device.serial)
        outcome = {"outcome": report.outcome.value, "reason": report.reason}
        await self._record("reset-outcome", device, actor, origin, outcome)
        return report

    def _reset_over(self, task: asyncio.Task[Report]) -> None:
        """Ask what came back to the bus meanwhile."""
        reset = self._resets.pop(task)
        for device in self._registry.all():
            if device.attachment.looks == reset.attachment.looks:
                self._ask(device.attachment)

    def _restarts(self, attachment: Attachment) -> bool:
        """Whether this is a device that restarts in its reset, or looks like it: then it is the reset's to ask."""
        looks = (
            device.attachment.looks for device in self._resets.values() if self._registry.driver(device.family).restarts
        )
        return attachment.looks in looks

    def _hear(self, event: Event) -> None:
        """Take in what the source says; called on the loop."""
        changes = self._registry.apply(event)
        for device in changes.vanished:
            self._announce(device)
            self._note("unplug", device)
        for device in changes.appeared:
            _log.info("device heard", usb_id=device.attachment.usb_id, port=device.attachment.port)
            self._unannounced[device.attachment] = "plug" if self._scanned.is_set() else "present"
            self._ask(device.attachment)
        if isinstance(event, Rescan):
            for device in self._registry.all():
                if device.probe is None:  # another program may have let it go meanwhile
                    self._ask(device.attachment)
            self._scanned.set()

    def _ask(self, attachment: Attachment) -> None:
        """Begin to find out what a device is, unless it is gone or occupied."""
        if attachment in self._calls or attachment in self._asking or self._registry.at(attachment) is None:
            return
        if self._stopping or self._restarts(attachment):
            return
        task = asyncio.create_task(self._identify(attachment))
        self._asking[attachment] = task
        task.add_done_callback(partial(self._asked, attachment))

    def _asked(self, attachment: Attachment, question: asyncio.Task[bool]) -> None:
        """Ask again where the answer was nobody's: the device was out while it came, and may be back."""
        del self._asking[attachment]
        if not question.cancelled() and question.exception() is None and not question.result():
            self._ask(attachment)

    async def _identify(self, attachment: Attachment) -> bool:
        """Learn what a device is, or why it does not say; False when it was not there any more."""
        for driver in self._registry.nominees(attachment):
            try:
                async with self._turn():
                    device = self._learn(driver, attachment, await self._probe(driver, attachment))
            except NotThisFamily as problem:
                _log.info("not this family", family=driver.family, usb_id=attachment.usb_id, reason=str(problem))
                continue
            except DeviceError as problem:
                _log.warning("device unreachable", usb_id=attachment.usb_id, reason=str(problem))
                serial = suggested_serial(driver, attachment, self._journal.pending())
                device = self._registry.learn(attachment, driver.family, serial, problem=str(problem))
            if device is not None:
                _log.info("device asked", serial=device.serial, state=device.state, port=attachment.port)
                self._announce(device)
            return device is not None
        self._unannounced.pop(attachment, None)
        return self._registry.forget(attachment) is not None

    def _learn(self, driver: Driver, attachment: Attachment, probe: Probe) -> Device | None:
        serial = serial_of(probe, driver, attachment, self._journal.pending())
        return self._registry.learn(attachment, driver.family, serial, probe=probe)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until few devices are being asked; one that keeps silent is not counted among them for long."""
        await self._room.acquire()
        with ExitStack() as place:  # left once: at the end, or when the time is over
            place.callback(self._room.release)
            place.callback(asyncio.get_running_loop().call_later(PATIENCE, place.close).cancel)
            yield

    async def _probe(self, driver: Driver, attachment: Attachment) -> Probe:
        """What the device says of itself. Raises `DeviceError`, at the latest when the time is over."""
        call = self._begin(attachment, partial(_opened, driver, attachment, lambda device: device.probe()))
        return await in_time(call, self._probe_timeout)

    def _begin(self, attachment: Attachment, call: Callable[[], T]) -> asyncio.Future[T]:
        """Occupy a device until `call`, in a thread, has ended. Raises `DeviceBusy` when it is occupied."""
        if attachment in self._calls:
            raise DeviceBusy("it is occupied")
        future = in_thread(call, f"hsm {attachment.bus}-{attachment.address}")
        self._calls[attachment] = future
        future.add_done_callback(partial(self._ended, attachment))
        return future

    def _ended(self, attachment: Attachment, call: asyncio.Future[Any]) -> None:
        del self._calls[attachment]
        if (error := call.exception()) is not None:  # read here too: after a time-out nobody else does
            _log.info("operation failed", usb_id=attachment.usb_id, reason=str(error))

    async def _until_idle(self, attachment: Attachment) -> None:
        """Wait for our own questions to a device, which are no other program. Raises `DeviceBusy`, `DeviceTimeout`."""
        while attachment in self._asking:  # a rescan may ask again in the moment in which one question ends
            await asyncio.wait([self._asking[attachment]])
        if self._restarts(attachment) or any(device.attachment == attachment for device in self._resets.values()):
            raise DeviceBusy("a reset of it is running")
        if attachment in self._calls:
            raise DeviceTimeout("it has still not answered an earlier question")

    def _with_intent(self, device: Device) -> Device:
        return replace(device, interrupted=device.unfinished(self.interrupted()))

    def _announce(self, device: Device) -> None:
        if word := self._unannounced.pop(device.attachment, ""):
            self._note(word, device)

    def _note(self, event: str, device: Device) -> None:
        task = asyncio.create_task(self._record(event, device, _ACTOR, _ACTOR, {}))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def _record(self, event: str, device: Device, actor: str, origin: str, more: Mapping[str, str]) -> None:
        """Audit what has happened anyway: nothing waits for it, and nothing fails with it."""
        attachment = device.attachment
        try:
            await self._audit.record(
                event,
                actor=actor,
                origin=origin,
                serial=device.serial,
                family=device.family,
                usb_id=attachment.usb_id,
                port=attachment.port,
                **more,
            )
        except StateError as problem:
            _log.error("audit record lost", audited=event, reason=str(problem))


def _opened(driver: Driver, attachment: Attachment, call: Callable[[Connection], T]) -> T:
    with driver.open(attachment) as connection:
        return call(connection)
