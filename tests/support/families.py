# SPDX-License-Identifier: Apache-2.0
"""The device families that the suites run through the same cases: a new one is a line of `FAMILIES`.

Those behind a PKCS#11 library are there where a C compiler is.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from appliance.config import HsmSettings, LibrarySettings
from appliance.errors import DeviceBusy, DeviceError
from appliance.hsm.drivers import Connection, Driver, luna, openpgp, pkcs11, smartcard_hsm, yubihsm2
from appliance.hsm.model import Attachment, Probe, Secret
from appliance.hsm.pkcs11 import client
from appliance.hsm.usb import UsbBus
from appliance.simulator import families as simulated
from appliance.simulator.descriptors import READERS, Level
from appliance.simulator.pkcs11_flash import SO_PIN_IN_USE
from appliance.simulator.vendor_driver import VendorDriver
from appliance.simulator.vendor_library import compile_library, compiler, library, socket
from appliance.simulator.yubihsm_flash import PASSWORD_IN_USE
from tests.support.token_bus import TokenBus


@dataclass(frozen=True, slots=True)
class Kind:
    """One family: its driver, its simulator, and what a reset of it takes."""

    module: ModuleType  # the driver's; its time limits have names that end in _TIMEOUT
    driver: type[Driver]
    simulator: simulated.Family
    serial: str
    decisive: str  # the command with which a reset is complete
    commands: int  # as many at least, in a reset of a token in use
    credential: str = ""  # "" where a reset takes none
    wrong_credential: str = ""
    tries: int | None = None  # how many wrong ones it takes; None where that is not known
    levels: tuple[Level, ...] = READERS  # what can be exchanged with such a device
    shortest: int = 12  # bytes of which none of its answers consists
    asks: str = ""  # for the credential, as a regular expression
    refuses: str = ""  # the wrong one
    tells: tuple[str, str] = ("Keys", "none")  # what it tells of itself when it is empty
    busy: type[DeviceError] = DeviceBusy  # the error while another program holds the device

    def bus(self, folder: Path, with_keys: int = 0, level: Level | None = None) -> TokenBus:
        """A token of the family, to be plugged in."""
        return TokenBus(folder, self.serial, with_keys, self.simulator, level)

    def prepare(self) -> None:
        """Do what need be done but once in a process."""

    @contextmanager
    def reaching(self, backend: object) -> Iterator[Driver]:
        """The driver, of devices that a pyusb backend reaches."""
        yield self.driver(UsbBus(backend))

    @contextmanager
    def open(self, bus: TokenBus, attachment: Attachment) -> Iterator[Connection]:
        """The driver's connection."""
        with self.reaching(bus.backend) as driver, driver.open(attachment) as connection:
            yield connection

    def probe(self, bus: TokenBus, attachment: Attachment) -> Probe:
        """What the driver finds."""
        with self.open(bus, attachment) as connection:
            return connection.probe()

    def reset(self, bus: TokenBus, attachment: Attachment) -> None:
        """What the driver does; `bus.here` is where the token is afterwards."""
        with self.reaching(bus.backend) as driver:
            with driver.open(attachment) as connection:
                connection.factory_reset(lambda _: None, self.secret)
            if driver.restarts:
                with driver.reopen(attachment):
                    pass  # it has come back

    @property
    def secret(self) -> Secret | None:
        """What a reset is given."""
        return Secret(self.credential) if self.credential else None

    @property
    def forms(self) -> tuple[str, ...]:
        """How it may be met: as it is typed, and as it is sent where that is something else."""
        is_hex = re.fullmatch("([0-9A-F]{2})+", self.credential)
        return (self.credential, *([bytes.fromhex(self.credential).decode("latin-1")] if is_hex else []))

    def impatient(self, patched: pytest.MonkeyPatch, seconds: float) -> None:
        """Have the driver wait for so long at most."""
        for name in vars(self.module):
            if name.endswith("_TIMEOUT"):
                patched.setattr(self.module, name, seconds)


@cache
def _compiled() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """The library, which is of the family that its name says, and the folder that it is in."""
    program = compiler()
    assert program
    folder = tempfile.TemporaryDirectory(prefix="library-")
    path = Path(folder.name, "library.so")
    compile_library(program, path)
    return folder, path


@dataclass(frozen=True, slots=True)
class LibraryKind(Kind):
    """A family that is reached through its vendor's PKCS#11 library; `module` is what calls that."""

    def prepare(self) -> None:
        """Compile it."""
        _compiled()

    @contextmanager
    def served(self, backend: object) -> Iterator[Path]:
        """A library of its own, and the vendor's driver behind it."""
        with tempfile.TemporaryDirectory(prefix="library-") as name:
            path = library(Path(name), self.simulator)
            shutil.copy(_compiled()[1], path)
            with VendorDriver(UsbBus(backend), self.simulator, socket(Path(name), self.simulator)):
                yield path

    @contextmanager
    def reaching(self, backend: object) -> Iterator[Driver]:
        """With such a library."""
        looks = self.simulator.looks
        with self.served(backend) as path:
            settings = LibrarySettings(path, ((looks.vendor_id, looks.product_id),))
            driver = self.driver.configured(UsbBus(backend), HsmSettings(luna=settings, pkcs11=(settings,)))
            assert driver is not None
            yield driver

    def impatient(self, patched: pytest.MonkeyPatch, seconds: float) -> None:
        """Not for the start of the process, which takes what it takes."""
        for name in ("CALL_TIMEOUT", "RESET_TIMEOUT"):
            patched.setattr(self.module, name, seconds)


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
    tries=15,
    asks=r"the SO PIN of this token \(\d+ tries left\)",
    refuses="the SO PIN is wrong (status 6985); tries left: 14",
)
YUBIHSM = Kind(
    yubihsm2,
    yubihsm2.YubiHsmDriver,
    simulated.YUBIHSM,
    "7550054",
    "RESET DEVICE",
    6,
    PASSWORD_IN_USE,
    "correct-horse-stable",
    levels=(Level.VENDOR,),
    shortest=3,
    asks="the password of authentication key 1 of this token",
    refuses="the password of authentication key 1 is wrong (AUTHENTICATION FAILED)",
    tells=("Objects", "1"),
)
LUNA = LibraryKind(
    client,
    luna.LunaDriver,
    simulated.LUNA,
    "496771",
    "FACTORY RESET",
    3,
    levels=(Level.VENDOR,),
    shortest=3,
    tells=("Token Label", "no label"),
    busy=DeviceError,
)
PKCS11 = LibraryKind(
    client,
    pkcs11.Pkcs11Driver,
    simulated.PKCS11,
    "A4711",
    "INIT TOKEN",
    3,
    SO_PIN_IN_USE,
    "incorrect-horse",
    levels=(Level.VENDOR,),
    shortest=3,
    asks="the SO PIN of this token",
    refuses="the SO PIN is wrong (A00000 : CKR_PIN_INCORRECT)",
    tells=("Public Objects", "0"),
    busy=DeviceError,
)
KINDS = (OPENPGP, SMARTCARD_HSM, YUBIHSM, *([LUNA, PKCS11] if compiler() else []))
FAMILIES = {kind.driver.family: kind for kind in KINDS}
AT_LEVELS = [(kind, level) for kind in KINDS for level in kind.levels]

each_family = pytest.mark.parametrize("kind", FAMILIES.values(), ids=FAMILIES)
each_family_with_credential = pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=name) for name, kind in FAMILIES.items() if kind.credential]
)
at_each_level = pytest.mark.parametrize(
    ("kind", "level"), AT_LEVELS, ids=[f"{kind.driver.family}-{level}" for kind, level in AT_LEVELS]
)
