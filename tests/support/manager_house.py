# SPDX-License-Identifier: Apache-2.0
"""A manager with a fake bus, and the means to hold a device at any step."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.audit import AuditLog
from appliance.hsm.journal import Journal
from appliance.hsm.manager import Manager
from appliance.hsm.model import Device, HsmClass, HsmState, Outcome, Secret
from appliance.hsm.reset import Report
from tests.support import audit_trail
from tests.support.fake_driver import FakeDriver, FakeSource, attachment

BOUND = 30.0  # seconds; no wait of a test lasts longer
LIMIT = BOUND / 2  # seconds; what a device may take where a test lets this time pass
HERE = attachment("1-1", 5, "A1")
THERE = attachment("1-2", 6, "B2")
DONE = Report(Outcome.DONE, "", "A1")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that a thread of the manager's brings about."""
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110  # nobody could set an event: the thread is not the test's
            await asyncio.sleep(0.005)


class Gate:
    """Holds the thread that comes to it until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._reached = threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        self._open.wait(BOUND)

    async def reached(self) -> None:
        """Return when the thread is there."""
        assert await asyncio.to_thread(self._reached.wait, BOUND)

    def open(self) -> None:
        """Let it go on."""
        self._open.set()


@dataclass
class House:
    """A manager with a fake bus, its journal and its audit."""

    folder: Path
    driver: FakeDriver
    source: FakeSource
    manager: Manager

    def shown(self) -> list[tuple[str, HsmState]]:
        """The backup HSMs as `token backup list` has them."""
        return [(device.serial, device.state) for device in self.manager.devices(HsmClass.BACKUP)]

    def device(self, serial: str = "A1") -> Device:
        """One of them."""
        return self.manager.find(serial, HsmClass.BACKUP)

    async def reset(self, device: Device | None = None, secret: Secret | None = None) -> Report:
        """Reset a device, A1 if none is named."""
        async with asyncio.timeout(BOUND):
            return await self.manager.factory_reset(
                device or self.device(), actor="admin", origin="Console", progress=lambda _: None, secret=secret
            )

    async def settled(self) -> None:
        """Every probe has ended."""
        async with asyncio.timeout(BOUND):
            await self.manager.settled()

    def records(self, *events: str) -> list[dict[str, object]]:
        """What the audit has of these events; everything is in it once the manager has stopped."""
        return [record for record in audit_trail.records(self.folder / "audit.jsonl") if record["event"] in events]

    def on_disk(self) -> list[str]:
        """The serial numbers of what a new process would find unfinished."""
        return [intent.serial for intent in Journal.open(self.folder / "pending.json").pending()]


Build = Callable[..., House]


@asynccontextmanager
async def builder(folder: Path) -> AsyncIterator[Build]:
    """What makes managers on one state folder; at the end they are stopped."""
    made: list[House] = []

    def house(**options: object) -> House:
        driver = options.pop("driver", None) or FakeDriver()
        assert isinstance(driver, FakeDriver)
        source = FakeSource(driver)
        journal = options.pop("journal", None) or Journal.open(folder / "pending.json")
        audit = options.pop("audit", None) or AuditLog.open(folder / "audit.jsonl")
        others = options.pop("others", [])
        assert isinstance(others, list)
        manager = Manager(source, [driver, *others], journal, audit, **options)  # type: ignore[arg-type]  # any option
        made.append(House(folder, driver, source, manager))
        return made[-1]

    yield house
    for one in made:
        async with asyncio.timeout(BOUND):
            await one.manager.stop()
