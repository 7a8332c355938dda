# SPDX-License-Identifier: Apache-2.0
"""HSMs behind a PKCS#11 library, without hardware: a test holds the plugs, the vendor's module has the token."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.audit import AuditLog
from appliance.hsm.drivers import Driver
from appliance.hsm.drivers.luna import LunaDriver
from appliance.hsm.drivers.pkcs11_slot import SMART_CARD
from appliance.hsm.hotplug import Event, Plugged, Rescan, Unplugged
from appliance.hsm.journal import Journal
from appliance.hsm.manager import Manager
from appliance.hsm.model import Attachment, Device, HsmClass, Secret
from appliance.hsm.reset import Report
from appliance.hsm.usb import UsbBus
from tests.support.fake_driver import PRODUCT, VENDOR, attachment

NUMBER = "7550054"
LUNA = attachment("1-1.2", 7, NUMBER)
SILENT = replace(LUNA, usb_serial="")  # USB tells no serial number
SECOND = attachment("1-1.3", 8, "")
READERS = 0x04E6  # the vendor of smart card readers that nobody has configured
USB_IDS = [(VENDOR, PRODUCT)]
BOUND = 60.0  # seconds


class Plugs(UsbBus):
    """A bus of which only is known what is plugged in, and the source of its events."""

    def __init__(self, *plugged: Attachment) -> None:
        super().__init__()
        self.plugged = list(plugged)
        self._deliver: Callable[[Event], None] = lambda _: None

    def addresses(
        self, usb_ids: Collection[tuple[int, int]], interface_class: int | None = None
    ) -> frozenset[tuple[int, int]]:
        """Where devices with these ids are, and smart card readers, as which those of other vendors count here."""
        mine = [device for device in self.plugged if (device.vendor_id, device.product_id) in usb_ids]
        readers = [device for device in self.plugged if interface_class == SMART_CARD and device.vendor_id == READERS]
        return frozenset((device.bus, device.address) for device in mine + readers)

    async def start(self, deliver: Callable[[Event], None]) -> None:
        """Deliver the first scan."""
        self._deliver = deliver
        self.rescan()

    def rescan(self) -> None:
        """Deliver all there is."""
        self._deliver(Rescan(tuple(self.plugged)))

    def deaf(self) -> str:
        """It hears."""
        return ""

    def close(self) -> None:
        """Deliver nothing more."""
        self._deliver = lambda _: None

    def plug(self, place: Attachment) -> None:
        """Plug a device in."""
        self.plugged.append(place)
        self._deliver(Plugged(place))

    def unplug(self, place: Attachment) -> None:
        """Pull it out."""
        self.plugged.remove(place)
        self._deliver(Unplugged(place.sys_path))


@dataclass
class LunaHouse:
    """A manager of what is plugged in."""

    plugs: Plugs
    manager: Manager
    folder: Path

    @property
    def devices(self) -> tuple[Device, ...]:
        """The backup HSMs."""
        return self.manager.devices(HsmClass.BACKUP)

    async def settled(self) -> None:
        """Every HSM has said what it is, or has not in time."""
        async with asyncio.timeout(BOUND):
            await self.manager.settled()

    async def reset(self, progress: Callable[[str], None] = lambda _: None, secret: Secret | None = None) -> Report:
        """Reset the only one."""
        [device] = self.devices
        async with asyncio.timeout(BOUND):
            return await self.manager.factory_reset(
                device, actor="admin", origin="Console", progress=progress, secret=secret
            )

    def recorded(self) -> str:
        """Everything in the state folder."""
        return "".join(path.read_text() for path in self.folder.iterdir())


def luna(library: Path, bus: UsbBus) -> LunaDriver:
    """The driver for one USB id."""
    return LunaDriver(bus, library, USB_IDS)


@asynccontextmanager
async def house(folder: Path, plugs: Plugs, *drivers: Driver) -> AsyncIterator[LunaHouse]:
    """A manager that has asked what is plugged in."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240  # nothing else runs on this loop yet
    audit = AuditLog.open(folder / "audit.jsonl")
    manager = Manager(plugs, drivers, Journal.open(folder / "pending.json"), audit)
    made = LunaHouse(plugs, manager, folder)
    await manager.start()
    try:
        await made.settled()
        yield made
    finally:
        await made.settled()
        await manager.stop()
        audit.close()
