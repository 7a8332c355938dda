# SPDX-License-Identifier: Apache-2.0
"""What is plugged in, by place and by serial number; pure: no device is asked and nothing waits here."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from appliance.errors import AmbiguousSerial, UnknownSerial, WrongClass
from appliance.hsm.drivers import Driver, owners
from appliance.hsm.hotplug import Event, Plugged, Rescan, Unplugged
from appliance.hsm.model import BUILTIN, Attachment, Device, HsmClass, Probe


@dataclass(frozen=True, slots=True)
class Changes:
    """What an event changed. A device that took the place of another is in both."""

    vanished: tuple[Device, ...] = ()
    appeared: tuple[Device, ...] = ()


class Registry:
    """The attached devices that a USB id nominates for a family, each under its place (sysfs path).

    A device is here from its `Plugged` to its `Unplugged`, also while nothing can be learnt from it. Two devices with
    one serial number are both here.
    """

    def __init__(self, drivers: Sequence[Driver], pki_serials: Collection[str] = ()) -> None:
        self._drivers = tuple(drivers)
        self._pki_serials = tuple(pki_serials)
        self._devices: dict[str, Device] = {}
        self._strangers: dict[str, Attachment] = {}  # nominated, but of no family after all

    def apply(self, event: Event) -> Changes:
        """Take an event in. Applying the same one again changes nothing."""
        match event:
            case Plugged(attachment):
                return self._plug(attachment)
            case Unplugged(sys_path):
                return self._unplug(sys_path)
            case Rescan(attachments):
                present = {BUILTIN.sys_path} | {attachment.sys_path for attachment in attachments}
                gone = [path for path in (*self._devices, *self._strangers) if path not in present]
                changes = [*map(self._unplug, gone), *map(self._plug, attachments)]
                return Changes(
                    tuple(device for change in changes for device in change.vanished),
                    tuple(device for change in changes for device in change.appeared),
                )

    def nominees(self, attachment: Attachment) -> tuple[Driver, ...]:
        """The families that the USB id suggests, in the order in which they are asked; those that borrow it last."""
        nominated = [driver for driver in self._drivers if driver.nominated(attachment)]
        lenders = owners(attachment)
        borrowers = [driver for driver in self._drivers if driver not in nominated and driver.borrows & lenders]
        return (*nominated, *borrowers)

    def driver(self, family: str) -> Driver:
        """The driver of a family that is in the inventory."""
        return next(driver for driver in self._drivers if driver.family == family)

    def learn(
        self, attachment: Attachment, family: str, serial: str, *, probe: Probe | None = None, problem: str = ""
    ) -> Device | None:
        """Note what a device said, or why it said nothing; None if it is not attached any more."""
        if self.at(attachment) is None:
            return None
        device = Device(attachment, family, self._class_of(attachment, family, serial), serial, probe, problem)
        self._devices[attachment.sys_path] = device
        return device

    def forget(self, attachment: Attachment) -> Device | None:
        """Strike out a device that is of no family, until something else is in its place."""
        device = self.at(attachment)
        if device is not None:
            del self._devices[attachment.sys_path]
            self._strangers[attachment.sys_path] = attachment
        return device

    def at(self, attachment: Attachment) -> Device | None:
        """The device of exactly this attachment; None when it is gone, or replaced by another."""
        device = self._devices.get(attachment.sys_path)
        return device if device is not None and device.attachment == attachment else None

    def all(self) -> tuple[Device, ...]:
        """Every device, in a stable order: by serial number, then by place."""
        return tuple(sorted(self._devices.values(), key=lambda device: (device.serial, device.attachment.sys_path)))

    def find(self, serial: str, hsm_class: HsmClass) -> Device:
        """The one device of the class with this serial number, compared as its own family compares.

        What is built in is none of the devices that are plugged in, and those are not built in. Raises `UnknownSerial`
        (also for an empty one: it never means "any"), `WrongClass`, `AmbiguousSerial`.
        """
        inside = hsm_class is HsmClass.BUILTIN
        candidates = [device for device in self._devices.values() if (device.hsm_class is HsmClass.BUILTIN) is inside]
        matches = [device for device in candidates if self._has(device, serial)]
        match [device for device in matches if device.hsm_class is hsm_class]:
            case [device]:
                return device
            case []:
                raise WrongClass(serial) if matches else UnknownSerial(serial)
            case _:
                raise AmbiguousSerial(serial)

    def _plug(self, attachment: Attachment) -> Changes:
        path = attachment.sys_path
        if self.at(attachment) is not None or self._strangers.get(path) == attachment:
            return Changes()
        vanished = self._unplug(path).vanished
        nominees = self.nominees(attachment)
        if not nominees:
            return Changes(vanished)
        driver = nominees[0]
        serial = driver.serial_from_usb(attachment)
        self._devices[path] = Device(
            attachment, driver.family, self._class_of(attachment, driver.family, serial), serial
        )
        return Changes(vanished, (self._devices[path],))

    def _unplug(self, sys_path: str) -> Changes:
        self._strangers.pop(sys_path, None)
        device = self._devices.pop(sys_path, None)
        return Changes() if device is None else Changes((device,))

    def _has(self, device: Device, serial: str) -> bool:
        wanted = self.driver(device.family).normalise(serial)
        return wanted != "" and wanted == device.serial

    def _class_of(self, attachment: Attachment, family: str, serial: str) -> HsmClass:
        """What a device is for: by its place, its serial number in the configuration or udev's mark; else a backup."""
        if attachment == BUILTIN:
            return HsmClass.BUILTIN
        normalise = self.driver(family).normalise
        configured = serial != "" and serial in {normalise(other) for other in self._pki_serials}
        return HsmClass.PKI if configured or attachment.class_mark == HsmClass.PKI else HsmClass.BACKUP
