# SPDX-License-Identifier: Apache-2.0
"""Token files are plugged in by hand, without a folder to watch: for tests of what is above USB."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance.hsm.model import Attachment
from appliance.simulator.descriptors import Level
from appliance.simulator.device import SimulatedDevice
from appliance.simulator.families import OPENPGP, Family, load, new_token
from appliance.simulator.faults import Fault, When
from appliance.simulator.memory import dump
from appliance.simulator.pyusb_backend import Place, SimulatedBackend
from appliance.simulator.token_file import TokenFile


class TokenBus:
    """One token, plugged in as often as wanted; its commands are counted in `commands`."""

    def __init__(
        self,
        folder: Path,
        serial: str = "667788",
        with_keys: int = 0,
        family: Family = OPENPGP,
        level: Level | None = None,
    ) -> None:
        """The reader is at the level that the family's are, or at another."""
        self.path = folder / "token"
        self.backend = SimulatedBackend(self._places)
        self.commands: list[bytes] = []
        self.here = Attachment("", 0, 0, 0, 0, 0)  # where it is plugged in
        self._place: Place | None = None
        self._address = 1
        self._family = family
        new_token(self.path, serial, with_keys, family.name)
        if level not in (None, self.flash.level):
            self.path.write_bytes(dump(replace(self.flash, level=level)))

    @property
    def flash(self) -> Any:
        """What the token remembers, as its family keeps it."""
        return load(self.path.read_bytes())

    def plug(self, *faults: Fault, usb_serial: str | None = None) -> Attachment:
        """Pull the token out and plug it in again, at another address; from now on it misbehaves like that."""
        self.unplug()
        flash = self.flash.with_faults(faults)
        self.path.write_bytes(dump(flash))
        return self._appear(self._family.usb_serial(flash.serial) if usb_serial is None else usb_serial)

    def unplug(self) -> None:
        """Pull it out."""
        if self._place is not None:
            self._place.device.unplug()  # type: ignore[attr-defined]  # of a simulated device
            self._place = None

    def count(self, instruction: int) -> int:
        """How many commands with that INS the card has had."""
        return sum(command[1] == instruction for command in self.commands)

    def _appear(self, usb_serial: str) -> Attachment:
        file, looks = TokenFile(self.path), self._family.looks
        remembered = load(file.read())
        device = SimulatedDevice(file, self._family, remembered, usb_serial, self._vanished, self._observe)
        self._address += 1
        self._place = Place(device, 1, self._address)
        ids = (looks.vendor_id, looks.product_id)
        self.here = Attachment("/devices/simulated/1", 1, self._address, self._address, *ids, usb_serial)
        return self.here

    def _vanished(self, device: SimulatedDevice, back: float | None) -> None:
        if back is not None:  # it restarts, and is back at once
            self._appear(device.usb_serial)

    def _places(self) -> Sequence[Place]:
        return [self._place] if self._place else []

    def _observe(self, _path: Path, _number: int, command: bytes, when: When) -> None:
        if when is When.BEFORE:
            self.commands.append(command)
