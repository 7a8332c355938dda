# SPDX-License-Identifier: Apache-2.0
"""The device families that the suites run through the same cases: a new one is a line of `FAMILIES`."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from appliance.hsm.drivers import Connection, Driver, openpgp, smartcard_hsm
from appliance.hsm.model import Attachment, Probe, Secret
from appliance.hsm.usb import UsbBus
from appliance.simulator import families as simulated
from appliance.simulator.descriptors import Level
from tests.support.token_bus import TokenBus


@dataclass(frozen=True, slots=True)
class Kind:
    """One family: its driver, its simulator, and what a reset of it takes."""

    module: ModuleType  # the driver's; its time limits are in PROBE_TIMEOUT and RESET_TIMEOUT
    driver: type[Driver]
    simulator: simulated.Family
    serial: str
    decisive: str  # the command with which a reset is complete
    commands: int  # as many at least, in a reset of a token in use
    so_pin: str = ""  # "" where a reset takes none
    wrong_so_pin: str = ""

    def bus(self, folder: Path, with_keys: int = 0, level: Level | None = None) -> TokenBus:
        """A token of the family, to be plugged in."""
        return TokenBus(folder, self.serial, with_keys, self.simulator, level)

    def open(self, bus: TokenBus, attachment: Attachment) -> AbstractContextManager[Connection]:
        """The driver's connection."""
        return self.driver(UsbBus(bus.backend)).open(attachment)

    def probe(self, bus: TokenBus, attachment: Attachment) -> Probe:
        """What the driver finds."""
        with self.open(bus, attachment) as connection:
            return connection.probe()

    def reset(self, bus: TokenBus, attachment: Attachment) -> None:
        """What the driver does."""
        with self.open(bus, attachment) as connection:
            connection.factory_reset(lambda _: None, self.secret)

    @property
    def secret(self) -> Secret | None:
        """What a reset is given."""
        return Secret(self.so_pin) if self.so_pin else None


OPENPGP = Kind(openpgp, openpgp.OpenPgpDriver, simulated.OPENPGP, "667788", "ACTIVATE FILE", 11)
SMARTCARD_HSM = Kind(
    smartcard_hsm,
    smartcard_hsm.SmartcardHsmDriver,
    simulated.SMARTCARD_HSM,
    "DENK0403514",
    "INITIALIZE DEVICE",
    5,
    "3537363231383830",
    "0123456789ABCDEF",
)
FAMILIES = {kind.driver.family: kind for kind in (OPENPGP, SMARTCARD_HSM)}

each_family = pytest.mark.parametrize("kind", FAMILIES.values(), ids=FAMILIES)
each_family_with_so_pin = pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=name) for name, kind in FAMILIES.items() if kind.so_pin]
)
