# SPDX-License-Identifier: Apache-2.0
"""A card in memory, a device in a file, a bus with its events: what the tests of the simulator stand on."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import usb.core
import usb.util

from appliance.errors import StateError
from appliance.hsm.hotplug import Event, Plugged, Rescan, Unplugged
from appliance.hsm.model import Attachment
from appliance.simulator.bus import FolderBus
from appliance.simulator.device import Observer
from appliance.simulator.families import new_token
from appliance.simulator.faults import Fault
from appliance.simulator.memory import dump
from appliance.simulator.openpgp_card import OpenPgpCard
from appliance.simulator.openpgp_flash import OpenPgpFlash
from tests.support.tokens import openpgp

SERIAL = "00667788"
BOUND = 10.0  # seconds to wait for anything

SELECT = "00A4040006D27600012401"
TERMINATE, ACTIVATE = "00E60000", "00440000"
VERIFY_USER, VERIFY_OTHER = "0020008106313233343536", "0020008206313233343536"
VERIFY_ADMIN = "00200083083132333435363738"
WRONG_ADMIN = "00200083083837363534333231"

POWER_ON, POWER_OFF, SLOT_STATUS, TRANSFER = 0x62, 0x63, 0x65, 0x6F


@dataclass
class Memory:
    """A card's memory that counts how often it was written, and can be full."""

    flash: OpenPgpFlash = field(default_factory=lambda: OpenPgpFlash.new(SERIAL))
    writes: list[OpenPgpFlash] = field(default_factory=list)
    full: bool = False

    def save(self, flash: OpenPgpFlash) -> None:
        """As `TokenFile.save` does."""
        if self.full:
            raise StateError(Path("a.token"), "cannot be written: No space left on device")
        self.writes.append(flash)
        self.flash = flash


class Bench:
    """A card with power, and the application selected."""

    def __init__(self, memory: Memory | None = None, *, selected: bool = True) -> None:
        self.memory = memory or Memory()
        self.card = OpenPgpCard(self.memory.flash, self.memory.save)
        self.card.power_on()
        if selected:
            self(SELECT)

    def __call__(self, *apdus: str) -> str:
        """The last response, in upper-case hexadecimal digits."""
        responses = [self.card.transmit(bytes.fromhex(apdu)) for apdu in apdus]
        return responses[-1].hex().upper()

    def data(self, tag: int) -> bytes:
        """The data object."""
        response = self.card.transmit(b"\x00\xca" + tag.to_bytes(2, "big") + b"\0")
        assert response[-2:] == b"\x90\x00"
        return response[:-2]

    @property
    def flash(self) -> OpenPgpFlash:
        """What the card remembers."""
        return self.memory.flash


def token(path: Path, *faults: Mapping[str, Any], keys: int = 0, serial: str = SERIAL) -> Path:
    """A token file, with faults."""
    new_token(path, serial, keys)
    if faults:
        flash = replace(openpgp(path.read_bytes()), faults=tuple(Fault.parse(fault) for fault in faults))
        path.write_bytes(dump(flash))
    return path


class Plugs:
    """A bus on a folder, and what it told."""

    def __init__(self, folder: Path, observe: Observer | None = None) -> None:
        self.folder = folder
        self.bus = FolderBus(folder, observe)
        self.events: list[Event] = []
        self._heard = asyncio.Event()

    def deliver(self, event: Event) -> None:
        """What the bus calls."""
        self.events.append(event)
        self._heard.set()

    async def until(self, condition: Callable[[list[Event]], bool]) -> list[Event]:
        """All events, once they are as wanted."""
        async with asyncio.timeout(BOUND):
            while not condition(self.events):
                self._heard.clear()
                await self._heard.wait()
        return self.events

    async def settled(self) -> list[Event]:
        """All events, once everything that happened in the folder so far has been told."""
        before = sum(isinstance(event, Rescan) for event in self.events)
        self.bus.rescan()
        return await self.until(lambda events: sum(isinstance(event, Rescan) for event in events) > before)

    @property
    def told(self) -> list[str]:
        """The events after the first scan, without rescans: "+" and "-" with the file's name."""
        return [sign for event in self.events[1:] if (sign := _sign(event))]

    @property
    def attachments(self) -> list[Attachment]:
        """What the last rescan found."""
        rescans = [event for event in self.events if isinstance(event, Rescan)]
        return list(rescans[-1].attachments)

    def host(self, index: int = 0) -> "Host":
        """A host's side of one plugged device."""
        devices = list(usb.core.find(find_all=True, backend=self.bus.backend))
        return Host(devices[index])


def _sign(event: Event) -> str:
    match event:
        case Plugged(attachment):
            return f"+{attachment.sys_path.rpartition('/')[2]}"
        case Unplugged(sys_path):
            return f"-{sys_path.rpartition('/')[2]}"
        case Rescan():
            return ""


class Host:
    """Just enough of a CCID driver to talk to a device through pyusb, in a way of its own."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self._sequence = 0

    def send(self, kind: int, data: bytes = b"", header: bytes = b"\0\0\0") -> None:
        """One message to the reader."""
        self._sequence = (self._sequence + 1) % 256
        message = bytes([kind]) + len(data).to_bytes(4, "little") + bytes([0, self._sequence]) + header + data
        self.device.write(0x01, message, 1000)

    def receive(self, timeout: int = 1000) -> bytes:
        """One message from the reader, after any time extensions."""
        while True:
            message = bytes(self.device.read(0x81, 320, timeout))
            if len(message) < 10 or message[7] & 0xC0 != 0x80:
                return message

    def power_on(self) -> bytes:
        """The answer to reset."""
        self.send(POWER_ON)
        return self.receive()[10:]

    def apdu(self, text: str, timeout: int = 1000) -> str:
        """The response APDU, in upper-case hexadecimal digits."""
        self.send(TRANSFER, bytes.fromhex(text))
        return self.receive(timeout)[10:].hex().upper()

    def started(self) -> "Host":
        """With power, and the application selected."""
        self.power_on()
        self.apdu(SELECT)
        return self

    def close(self) -> None:
        """Let go of the device."""
        with suppress(usb.core.USBError):
            usb.util.dispose_resources(self.device)
