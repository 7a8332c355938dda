# SPDX-License-Identifier: Apache-2.0
"""What a device family has to know, and the table of families.

A driver is stateless and everything it does blocks: the manager calls it in a worker thread. A USB id only nominates a
driver; `Connection.probe` decides, in the device's own protocol, and raises `NotThisFamily` when the id misled.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import ClassVar, NamedTuple, Self

from appliance.config import HsmSettings
from appliance.hsm.model import Attachment, Probe, Secret
from appliance.hsm.usb import UsbBus

UNCONFIGURED = HsmSettings()  # the families that need no configuration

Progress = Callable[[str], None]  # called from a worker thread with the name of the step that begins


class UsbId(NamedTuple):
    """A USB vendor and product id that nominates a family, and the product's name for people."""

    vendor: int
    product: int
    name: str


class Connection(ABC):
    """One device, opened for one operation and closed by its context manager."""

    @abstractmethod
    def probe(self) -> Probe:
        """The device's own account of itself, read now. Spends no authentication try.

        Raises `NotThisFamily`, or any other `DeviceError`.
        """

    @abstractmethod
    def factory_reset(self, progress: Progress, secret: Secret | None = None) -> None:
        """Destroy everything, or finish a reset that was interrupted. Returning is not success: `probe` again.

        The caller has checked that `probe().obstacle` is empty, and gives the `secret` that `probe().credential` asks
        for. A wrong one is tried once, never again. Raises `DeviceRefused` when the device said no, `SecretRefused`
        among them, another `DeviceError` when what it did is not known.
        """


class Driver(ABC):
    """One device family."""

    family: ClassVar[str]  # the word for configuration, audit and udev, e.g. "openpgp"
    title: ClassVar[str]  # for people, e.g. "OpenPGP card"
    restarts: ClassVar[bool] = False  # whether a reset makes the device leave the bus and come back
    usb_ids: tuple[UsbId, ...] = ()  # of a class: those that need no configuration
    borrows: ClassVar[frozenset[str]] = frozenset()  # families under whose own USB ids its devices may come, too

    def __init__(self, bus: UsbBus) -> None:
        self.bus = bus

    @classmethod
    def configured(cls, bus: UsbBus, settings: HsmSettings) -> Self | None:
        """The driver as this machine is set up; None where it is not set up for the family."""
        return cls(bus)

    def nominated(self, attachment: Attachment) -> bool:
        """Whether the USB id suggests this family."""
        return any(
            (known.vendor, known.product) == (attachment.vendor_id, attachment.product_id) for known in self.usb_ids
        )

    @abstractmethod
    def normalise(self, serial: str) -> str:
        """The serial number in the form in which two of them are compared; raises nothing, "" for an empty one."""

    @abstractmethod
    def serial_from_usb(self, attachment: Attachment) -> str:
        """The normalised serial number that USB alone suggests, for a device that cannot be asked; "" if none."""

    @abstractmethod
    def open(self, attachment: Attachment) -> AbstractContextManager[Connection]:
        """Open exactly this attachment, exclusively. Raises `DeviceGone`, `DeviceBusy` or another `DeviceError`."""

    def reopen(self, attachment: Attachment) -> AbstractContextManager[Connection]:
        """Open the device of this attachment again after a reset, wherever it is now.

        Where a reset makes it restart, that is at another address, and this waits for it. Raises as `open` does, also
        when it is not certain which device it is.
        """
        return self.open(attachment)


# Each in a module of its own, in the order in which they are asked.
FAMILIES = (
    ("openpgp", "OpenPgpDriver"),
    ("smartcard_hsm", "SmartcardHsmDriver"),
    ("yubihsm2", "YubiHsmDriver"),
    ("luna", "LunaDriver"),
    ("pkcs11", "Pkcs11Driver"),
)


def kinds() -> tuple[type[Driver], ...]:
    """Every family, whether this machine is set up for it or not."""
    return tuple(getattr(import_module(f"{__name__}.{module}"), name) for module, name in FAMILIES)


def owners(attachment: Attachment) -> frozenset[str]:
    """The families that have the USB id for their own, whether this machine is set up for them or not."""
    usb_id = (attachment.vendor_id, attachment.product_id)
    return frozenset(kind.family for kind in kinds() if usb_id in [(own.vendor, own.product) for own in kind.usb_ids])


def families(bus: UsbBus, settings: HsmSettings = UNCONFIGURED) -> tuple[Driver, ...]:
    """One driver of each family that this machine is set up for, in the order in which they are asked."""
    drivers = [kind.configured(bus, settings) for kind in kinds()]
    return tuple(driver for driver in drivers if driver is not None)
