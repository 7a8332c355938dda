# SPDX-License-Identifier: Apache-2.0
"""A Luna Backup HSM is reset by the vendor's CA_FactoryReset, which needs no login: to have it at hand is the control.

The vendor's own kernel driver holds the device. udev tells that it was plugged in, by USB ids that are configured
because they are not public, and the vendor's library does the rest.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Self

from appliance.config import HsmSettings
from appliance.errors import DeviceGone, ProtocolError, SerialMismatch
from appliance.hsm.drivers import Connection, Progress, UsbId
from appliance.hsm.drivers.pkcs11_slot import (
    SO_PIN_FINAL_TRY,
    TOKEN_INITIALIZED,
    USER_PIN_INITIALIZED,
    SlotDriver,
    details,
    present,
)
from appliance.hsm.model import Attachment, HsmState, Probe, Secret
from appliance.hsm.pkcs11.client import Library, MissingFunction, Token
from appliance.hsm.usb import UsbBus
from appliance.log import get_logger

CLIENT_CONFIGURATION = "Chrystoki.conf"  # of the vendor's client, in /etc unless the environment says otherwise
CLIENT_FOLDER_VARIABLE = "ChrystokiConfigurationPath"

_log = get_logger(__name__)


class LunaDriver(SlotDriver):
    """Luna Backup HSM, G5 and G7."""

    family = "luna"
    title = "Luna Backup HSM"

    def __init__(self, bus: UsbBus, path: Path, usb_ids: Collection[tuple[int, int]]) -> None:
        super().__init__(bus)
        self.path = path
        self.usb_ids = tuple(UsbId(vendor, product, self.title) for vendor, product in usb_ids)

    @classmethod
    def configured(cls, bus: UsbBus, settings: HsmSettings) -> Self | None:
        """With the configured library or the vendor's client's; None without it, or without a USB id."""
        if not settings.luna.usb_ids:
            return None
        path = settings.luna.library or library_of_client()
        if path is None:
            _log.warning("no library for Luna HSMs", hint="set hsm.luna.library, or install the vendor's client")
            return None
        return cls(bus, path, settings.luna.usb_ids)

    def normalise(self, serial: str) -> str:
        """Without blanks around it; a number without leading zeros, for 0007550054 and 7550054 are one."""
        text = serial.strip()
        return text.lstrip("0") or "0" if _is_number(text) else text

    def serial_from_usb(self, attachment: Attachment) -> str:
        """What USB calls it; whether that is the HSM's own number only the HSM can tell."""
        return self.normalise(attachment.usb_serial)

    def library(self, attachment: Attachment) -> tuple[Path, Collection[tuple[int, int]]]:
        """One library for all."""
        return self.path, [(known.vendor, known.product) for known in self.usb_ids]

    def on_usb(self, token: Token) -> bool:
        """The vendor does not mark its USB slots as removable: their name or the HSM's model, as G5Backup, says it."""
        named = re.search(r"\b(UHD|USB)\b", token.slot_description) or re.search("backup", token.model, re.IGNORECASE)
        return super().on_usb(token) or named is not None

    def external(self, token: Token) -> bool:
        """The library shows the appliance's own HSM, too, and that one is reset by its own command only."""
        return self.on_usb(token)

    def connect(self, library: Library, token: Token, attachment: Attachment) -> Connection:
        """A connection to the HSM, of which the number of insertions is noted."""
        return LunaConnection(library, token, self, attachment)


class LunaConnection(Connection):
    """One HSM in its slot, from the time it was found there."""

    def __init__(self, library: Library, token: Token, driver: LunaDriver, attachment: Attachment) -> None:
        self._library = library
        self._found = token
        self._driver = driver
        self._attachment = attachment
        self._insertions = library.insertions(token.slot)

    def probe(self) -> Probe:
        """What the HSM says of itself.

        Raises `SerialMismatch` when USB tells another number, `DeviceGone` when it was taken out meanwhile.
        """
        token = self._present()
        serial = self._driver.normalise(token.serial)
        if not _is_number(serial):
            raise ProtocolError(f"the HSM's serial number is no number: {token.serial!r}")
        told = self._driver.serial_from_usb(self._attachment)
        if _is_number(told) and told != serial:
            raise SerialMismatch(told, serial)
        shortcomings = _shortcomings(token)
        return Probe(
            serial=serial,
            state=HsmState.INITIALIZED if shortcomings else HsmState.ZEROIZED,
            model=token.model or self._driver.title,
            firmware=self._firmware(token),
            label=token.label,
            details=details(token, self._driver.path),
            shortcomings=shortcomings,
            shortest_password=token.shortest_pin,
            final_try=bool(token.flags & SO_PIN_FINAL_TRY),
        )

    def factory_reset(self, progress: Progress, secret: Secret | None = None) -> None:
        """CA_FactoryReset of the slot, between two looks at whether it holds the HSM that was found.

        Raises `DeviceGone` when the HSM was taken out before, or in the middle of it.
        """
        progress("checking that it is still in its slot")
        self._present()
        progress("resetting")
        self._library.factory_reset(self._found.slot)
        progress("checking that it was not taken out")
        self._check_insertions()

    def _present(self) -> Token:
        token = present(self._library, self._found)
        self._check_insertions()
        return token

    def _check_insertions(self) -> None:
        if self._library.insertions(self._found.slot) != self._insertions:
            raise DeviceGone("the HSM was taken out of its slot since it was found there")

    def _firmware(self, token: Token) -> str:
        try:
            return self._library.firmware(token.slot)
        except MissingFunction:
            return token.firmware


def library_of_client() -> Path | None:
    """The library that the vendor's client is set up with on this machine; None without one."""
    path = Path(os.environ.get(CLIENT_FOLDER_VARIABLE, "/etc"), CLIENT_CONFIGURATION)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    section = re.search(r"^\s*Chrystoki2\s*=\s*\{(.*?)\}", text, re.MULTILINE | re.DOTALL)
    library = re.search(r"^\s*LibUNIX64\s*=\s*(/[^;\n]*?)\s*;", section[1], re.MULTILINE) if section else None
    return Path(library[1]) if library else None


def _is_number(serial: str) -> bool:
    return serial.isascii() and serial.isdecimal()


def _shortcomings(token: Token) -> tuple[str, ...]:
    found = {TOKEN_INITIALIZED: "the HSM is initialized", USER_PIN_INITIALIZED: "a user PIN is set"}
    return tuple(sentence for flag, sentence in found.items() if token.flags & flag)
