# SPDX-License-Identifier: Apache-2.0
"""A folder is the USB bus: each file NAME.token in it is a plugged device, from when it appears to when it leaves.

Whoever writes to such a file from outside has opened the device: it is unplugged, and plugged in as the file is then.
"""

import asyncio
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes

from appliance.errors import StateError
from appliance.hsm.hotplug import Event, Plugged, Rescan, Unplugged
from appliance.hsm.model import Attachment
from appliance.log import get_logger
from appliance.simulator import descriptors
from appliance.simulator.device import Observer, SimulatedDevice
from appliance.simulator.families import FAMILIES, OPENPGP, Family, load, remnant
from appliance.simulator.inotify import (
    IN_CLOSE_WRITE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
    Happening,
    Inotify,
)
from appliance.simulator.memory import Flash
from appliance.simulator.pyusb_backend import Place, SimulatedBackend
from appliance.simulator.token_file import TokenFile

SUFFIX = ".token"
BUS = 1
ADDRESSES = range(2, 128)  # USB 2.0, 9.4.6; 1 is the root hub's

_log = get_logger(__name__)


_WATCHED = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF


@dataclass(slots=True)
class _Plug:
    """One device while it is plugged in."""

    device: SimulatedDevice
    attachment: Attachment
    replaced: int = 0  # how often the watch has told of another file under this name
    away: bool = False  # it left the bus by itself

    @property
    def undisturbed(self) -> bool:
        """Whether nobody but the device itself did anything to its file."""
        known = self.replaced <= self.device.file.replaced
        return known and self.device.file.in_place() and (self.away or not self.device.gone)


class FolderBus:
    """The bus, and the source of its plug events. `observe` is called around every command to a card, in any thread."""

    def __init__(self, folder: Path, observe: Observer | None = None) -> None:
        self.backend = SimulatedBackend(self._places)
        self._folder = folder
        self._observe = observe
        self._inotify = Inotify()
        self._plugs: dict[str, _Plug] = {}  # by file name
        self._deaf = ""
        self._deliver: Callable[[Event], None] = _ignore
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_address = ADDRESSES[-1]
        self._last_time = 0

    async def start(self, deliver: Callable[[Event], None]) -> None:
        """Begin delivering, on the running loop. The first event is the `Rescan` of the first scan."""
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        try:
            self._inotify.watch(self._folder, _WATCHED)
        except OSError as error:
            self._go_deaf(f"the folder {self._folder} cannot be watched: {error.strerror}")
            return
        self._loop.add_reader(self._inotify.fileno(), self._hear)
        self._scan()

    def rescan(self) -> None:
        """Have a `Rescan` delivered soon."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._rescan)

    def deaf(self) -> str:
        """Why plug events cannot be heard, one sentence; "" when they can."""
        return self._deaf

    def plugged(self) -> list[tuple[Attachment, SimulatedDevice]]:
        """What is on the bus now."""
        return [(plug.attachment, plug.device) for plug in list(self._plugs.values()) if not plug.away]

    def close(self) -> None:
        """Deliver nothing more; every device leaves the bus."""
        self._deliver = _ignore
        self._stop_listening()
        for name in list(self._plugs):
            self._unplug(name)
        self._loop = None

    def _places(self) -> list[Place]:
        return [Place(device, attachment.bus, attachment.address) for attachment, device in self.plugged()]

    # What happens in the folder

    def _hear(self) -> None:
        happenings = self._inotify.read()
        if any(happening.mask & IN_Q_OVERFLOW for happening in happenings):
            self._scan()
            return
        for happening in happenings:
            if happening.mask & (IN_DELETE_SELF | IN_MOVE_SELF):
                self._go_deaf(f"the folder {self._folder} was removed")
                return
            if happening.name.endswith(SUFFIX):
                for event in self._follow(happening):
                    self._deliver(event)

    def _follow(self, happening: Happening) -> list[Event]:
        plug = self._plugs.get(happening.name)
        if plug and happening.mask & IN_MOVED_TO:
            plug.replaced += 1
        return self._reconcile(happening.name, touched=bool(happening.mask & IN_CLOSE_WRITE))

    def _rescan(self) -> None:
        if self._loop is None:  # closed since it was asked for
            return
        if self._inotify.fileno() >= 0:
            self._hear()
        self._scan()

    def _scan(self) -> None:
        for name in sorted(self._plugs.keys() | self._names()):
            self._reconcile(name)
        attachments = [plug.attachment for plug in self._plugs.values() if not plug.away]
        self._deliver(Rescan(tuple(attachments)))

    def _names(self) -> set[str]:
        try:
            return {path.name for path in self._folder.iterdir() if path.name.endswith(SUFFIX)}
        except OSError:
            return set()

    def _go_deaf(self, reason: str) -> None:
        self._deaf = reason
        _log.error("simulated bus is deaf", reason=reason)
        self._stop_listening()
        self._scan()

    def _stop_listening(self) -> None:
        if self._loop is not None and self._inotify.fileno() >= 0:
            self._loop.remove_reader(self._inotify.fileno())
        self._inotify.close()

    # Plugging

    def _reconcile(self, name: str, *, touched: bool = False) -> list[Event]:
        """Make the plugs agree with the folder in what concerns one name; the events that this comes to."""
        plug, present = self._plugs.get(name), _is_file(self._folder / name)
        if plug and present and not touched and plug.undisturbed:
            return []
        return [*(self._unplug(name) if plug else []), *(self._plug(name) if present else [])]

    def _plug(self, name: str) -> list[Event]:
        address = self._free_address()
        if address is None:
            _log.warning("simulated bus is full", file=name)
            return []
        file = TokenFile(self._folder / name)
        family, flash, serial = _read(file)
        usb_serial = family.usb_serial(serial) if serial else ""
        self._last_time = max(self._last_time + 1, time.monotonic_ns() // 1000)
        attachment = Attachment(
            sys_path=f"/devices/simulated/usb{BUS}/{quote_from_bytes(os.fsencode(name))}",
            bus=BUS,
            address=address,
            initialized=self._last_time,
            vendor_id=family.looks.vendor_id,
            product_id=family.looks.product_id,
            usb_serial=usb_serial,
            manufacturer=descriptors.MANUFACTURER,
            product=family.looks.product,
        )
        device = SimulatedDevice(file, family, flash, usb_serial, self._vanished, self._observe)
        self._plugs[name] = _Plug(device, attachment)
        return [Plugged(attachment)]

    def _unplug(self, name: str) -> list[Event]:
        plug = self._plugs.pop(name)
        plug.device.unplug()
        return [] if plug.away else [Unplugged(plug.attachment.sys_path)]

    def _free_address(self) -> int | None:
        """The next one: an address is not used again before all others have been."""
        taken = {plug.attachment.address for plug in self._plugs.values()}
        order = [*range(self._last_address + 1, ADDRESSES.stop), *ADDRESSES]
        address = next((address for address in order if address not in taken), None)
        self._last_address = address or self._last_address
        return address

    # Devices that leave by themselves

    def _vanished(self, device: SimulatedDevice, back: float | None) -> None:
        loop = self._loop  # which `close` may take away meanwhile: this is the device's thread
        if loop is not None:
            loop.call_soon_threadsafe(self._leave, device, back)

    def _leave(self, device: SimulatedDevice, back: float | None) -> None:
        plug = next((plug for plug in self._plugs.values() if plug.device is device), None)
        if plug and self._loop:
            plug.away = True
            self._deliver(Unplugged(plug.attachment.sys_path))
            if back is not None:
                self._loop.call_later(back, self._come_back, plug)

    def _come_back(self, plug: _Plug) -> None:
        name = plug.device.file.path.name
        if self._plugs.get(name) is plug:
            for event in self._reconcile(name, touched=True):
                self._deliver(event)


def _read(file: TokenFile) -> tuple[Family, Flash | None, str]:
    """What the device is and remembers, None when its file is damaged; its serial number, "" when that is lost too."""
    try:
        contents = file.read()
    except StateError as error:
        _log.warning("token file unreadable", file=str(error.path), reason=error.reason)
        return OPENPGP, None, ""
    try:
        flash = load(contents)
    except ValueError as error:
        _log.warning("token file damaged", file=str(file.path), reason=str(error))
        family, serial = remnant(contents)
        return family, None, serial
    return FAMILIES[flash.FAMILY], flash, flash.serial


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _ignore(_: Event) -> None:
    pass
