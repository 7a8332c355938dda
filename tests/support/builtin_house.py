# SPDX-License-Identifier: Apache-2.0
"""A built-in HSM of SoftHSM's in a folder of its own, and everything around it."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.audit import AuditLog
from appliance.config import BuiltinSettings
from appliance.errors import SecretRefused
from appliance.hsm.attempts import Attempts
from appliance.hsm.builtin import BuiltinHsm, Person
from appliance.hsm.drivers import Driver
from appliance.hsm.drivers.builtin import BuiltinLunaDriver, builtin
from appliance.hsm.journal import Journal
from appliance.hsm.manager import Manager
from appliance.hsm.model import Device, HsmState, Secret
from appliance.hsm.reset import Report
from appliance.hsm.usb import UsbBus
from tests.support import audit_trail
from tests.support.luna_house import BOUND, Plugs
from tests.support.vendor_module import SERIAL, SO_PIN, SOFTHSM, USER_PIN, VendorModule

ADMIN, OTHER = Person("admin", "Console"), Person("admin", "192.0.2.7/40847")
LABEL = "vault"
WRONG = "so-pin-4712"


@dataclass
class BuiltinHouse:
    """The HSM in the state folder `folder`, and the manager that has it."""

    folder: Path
    manager: Manager
    hsm: BuiltinHsm

    @property
    def device(self) -> Device:
        """What is known of it."""
        device = self.hsm.device()
        assert device is not None
        return device

    @property
    def attempts(self) -> Attempts:
        """The count, whoever's it is."""
        return Attempts(self.folder / "builtin-attempts.json")

    @property
    def name(self) -> str:
        """What the count is kept under."""
        assert self.device.probe is not None
        return f"{self.device.serial} {self.device.probe.told}".strip()

    async def initialize(self, label: str = LABEL, pin: str = SO_PIN, shown: int = 1) -> Report:
        """Initialise it, as one who was shown what it is, and that many attempts where it has a password."""
        blank = self.device.state is HsmState.ZEROIZED
        return await self.hsm.initialize(label, Secret(pin), ADMIN, None if blank else shown)

    async def log_in(self, pin: str = SO_PIN, shown: int = 1) -> None:
        """Log in, as one who knows of that many attempts."""
        await self.hsm.log_in(Secret(pin), ADMIN, shown)

    async def reset(self) -> Report:
        """Reset it."""
        async with asyncio.timeout(BOUND):
            return await self.hsm.factory_reset(ADMIN, lambda _: None)

    def with_key(self) -> None:
        """Have somebody else's program make the user's PIN, and a key."""
        tool(self.folder, "--login", "--login-type", "so", "--so-pin", SO_PIN, "--init-pin", "--pin", USER_PIN)
        tool(self.folder, "--login", "--pin", USER_PIN, "--keygen", "--key-type", "AES:32", "--label", "kek")

    def recorded(self) -> str:
        """Everything in the state folder."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and "tokens" not in path.parts)
        return "".join(path.read_text() for path in files)


def tool(folder: Path, *arguments: str) -> str:
    """What pkcs11-tool says of the HSM of a state folder, whether it is content or not."""
    result = subprocess.run(  # noqa: S603  # of this file
        ["/usr/bin/pkcs11-tool", "--module", SOFTHSM, *arguments],
        env={"SOFTHSM2_CONF": str(folder / "builtin/softhsm2.conf")},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout + result.stderr


def keys(folder: Path) -> int:
    """How many keys pkcs11-tool can use there with the user's PIN."""
    return tool(folder, "--login", "--pin", USER_PIN, "--list-objects").count("Secret Key Object")


def softhsm_driver(folder: Path) -> Driver:
    """The driver as the daemon makes it for a state folder."""
    driver = builtin(UsbBus(), BuiltinSettings("softhsm"), folder / "builtin")
    assert driver is not None
    return driver


@asynccontextmanager
async def builtin_house(folder: Path, driver: Driver | None = None) -> AsyncIterator[BuiltinHouse]:
    """The HSM, which has been asked what it is."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240  # nothing else runs on this loop yet
    audit = AuditLog.open(folder / "audit.jsonl")
    drivers = (driver or softhsm_driver(folder),)
    manager = Manager(Plugs(), drivers, Journal.open(folder / "pending.json"), audit)
    await manager.start()
    try:
        async with asyncio.timeout(BOUND):
            await manager.settled()
        yield BuiltinHouse(folder, manager, BuiltinHsm(manager, Attempts(folder / "builtin-attempts.json"), audit))
    finally:
        async with asyncio.timeout(BOUND):
            await manager.settled()
        await manager.stop()
        audit.close()


def records(house: BuiltinHouse, event: str) -> list[dict[str, object]]:
    """The audit's records of one event."""
    return [record for record in audit_trail.records(house.folder / "audit.jsonl") if record["event"] == event]


async def fail(house: BuiltinHouse, times: int) -> None:
    """Log in with a wrong password, and be refused."""
    for _ in range(times):
        with pytest.raises(SecretRefused):
            await house.log_in(WRONG)


def luna(vendor: VendorModule, serial: str = SERIAL) -> BuiltinLunaDriver:
    """The HSM of the vendor's module as the one that is built in."""
    return BuiltinLunaDriver(UsbBus(), vendor.library, serial)


def killed(pristine: Path, folder: Path, what: str) -> None:
    """Run tests/support/killed_builtin.py to its end."""
    command: list[str | Path] = [sys.executable, "-m", "tests.support.killed_builtin", what, pristine, folder]
    subprocess.run(command, check=True)  # noqa: S603  # of ours
