# SPDX-License-Identifier: Apache-2.0
"""A manager without devices of its own: what is attached is said, what a reset comes to is scripted."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from appliance.errors import AmbiguousSerial, UnknownSerial, WrongClass
from appliance.hsm.drivers import Progress
from appliance.hsm.model import Attachment, Device, HsmClass, HsmState, Intent, Outcome, Probe, Secret
from appliance.hsm.reset import Report


def attachment(address: int = 5) -> Attachment:
    """One plug-in of a token."""
    return Attachment(
        "/sys/devices/1-1", 1, address, 1000 + address, 0x234B, 0x0000, "SIM-0.1-00667788", "maker", "token"
    )


def token(serial: str = "667788", obstacle: str = "", conflict: str = "", **changes: object) -> Device:
    """A backup HSM with keys on it."""
    details = (("Keys", "3"),)
    probe = Probe(serial, HsmState.INITIALIZED, "OpenPGP card", "3.4", "Alice", obstacle, conflict, details)
    values: dict[str, object] = {"hsm_class": HsmClass.BACKUP, "probe": probe, **changes}
    return Device(attachment(), "openpgp", serial=serial, **values)  # type: ignore[arg-type]  # a builder for tables


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class FakeManager:
    """The part of `Manager` that the shell uses."""

    attached: list[Device] = field(default_factory=list)
    unfinished: list[Intent] = field(default_factory=list)
    problem: Exception | None = None  # what `find` raises
    normalise: Callable[[str, str], str] = lambda family, serial: serial  # by family
    failure: Exception | None = None  # what `factory_reset` raises
    report: Report = field(default_factory=lambda: Report(Outcome.DONE, "", "667788"))
    refreshed: Device | Exception | None = None  # what a device that is asked again turns out to be
    asking: Callable[[], Awaitable[None]] | None = None  # happens meanwhile
    steps: tuple[str, ...] = ()
    during: Callable[[], Awaitable[None]] | None = None
    resets: list[tuple[str, str, str]] = field(default_factory=list)
    secrets: list[str | None] = field(default_factory=list)  # that came with them
    looked: int = 0
    hanging: asyncio.Event = field(default_factory=_set)  # cleared: a device that does not answer is being asked

    async def settled(self) -> None:
        self.looked += 1
        await self.hanging.wait()

    def devices(self, hsm_class: HsmClass) -> tuple[Device, ...]:
        self.looked += 1
        return tuple(device for device in self.attached if device.hsm_class is hsm_class)

    def interrupted(self) -> tuple[Intent, ...]:
        return tuple(self.unfinished)

    def find(self, serial: str, hsm_class: HsmClass) -> Device:
        self.looked += 1
        if self.problem:
            raise self.problem
        named = [device for device in self.attached if self.normalise(device.family, serial) == device.serial]
        match [device for device in named if device.hsm_class is hsm_class]:
            case [device]:
                return device
            case []:
                raise WrongClass(serial) if named else UnknownSerial(serial)
            case _:
                raise AmbiguousSerial(serial)

    def begun(self, device: Device) -> bool:
        return device.unfinished(self.unfinished) is not None

    async def refresh(self, device: Device) -> None:
        if self.asking:
            await self.asking()
        if isinstance(self.refreshed, Exception):
            raise self.refreshed
        if self.refreshed:
            self.attached = [self.refreshed]

    async def factory_reset(
        self, device: Device, *, actor: str, origin: str, progress: Progress, secret: Secret | None = None
    ) -> Report:
        self.secrets.append(secret.text if secret else None)
        self.resets.append((device.serial, actor, origin))
        for step in self.steps:
            progress(step)
        if self.during:
            await self.during()
        if self.failure:
            raise self.failure
        return self.report
