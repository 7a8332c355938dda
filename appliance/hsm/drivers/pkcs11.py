# SPDX-License-Identifier: Apache-2.0
"""A token that only a PKCS#11 module of its vendor's can reach is reset by C_InitToken, with the SO PIN.

The SO PIN is tried once. Logging in with it to see whether it is right would prove nothing: some modules keep it and
do not ask the token.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Self

from appliance.config import HsmSettings, LibrarySettings
from appliance.errors import DeviceError, DeviceRefused, ProtocolError
from appliance.hsm.drivers import Connection, Progress, UsbId
from appliance.hsm.drivers.pkcs11_slot import (
    PROTECTED_PATH,
    SO_PIN_FINAL_TRY,
    SO_PIN_LOCKED,
    TOKEN_INITIALIZED,
    USER_PIN_INITIALIZED,
    SlotDriver,
    details,
    present,
)
from appliance.hsm.model import Attachment, Credential, HsmState, Probe, Secret
from appliance.hsm.pkcs11.client import Library, Token
from appliance.hsm.usb import UsbBus

LONGEST_PIN = 255  # bytes
# Of a token that was initialised. Some modules take the first away from tokens in use, so objects count as well.
IN_USE = TOKEN_INITIALIZED | USER_PIN_INITIALIZED
# What the label becomes: always another than it was, so that it proves, read back, that C_InitToken did its work.
# OpenSC's module cannot write an empty one, and fails when the token is empty already.
LABELS = ("blank", "empty")


class Pkcs11Driver(SlotDriver):
    """Whatever an administrator has a PKCS#11 module for."""

    family = "pkcs11"
    title = "PKCS#11 token"

    def __init__(self, bus: UsbBus, modules: Sequence[LibrarySettings]) -> None:
        super().__init__(bus)
        self._libraries = [(module.library, module.usb_ids) for module in modules if module.library]
        self.usb_ids = tuple(UsbId(*known, self.title) for _, ids in self._libraries for known in ids)

    @classmethod
    def configured(cls, bus: UsbBus, settings: HsmSettings) -> Self | None:
        """With the configured modules; None without any."""
        return cls(bus, settings.pkcs11) if settings.pkcs11 else None

    def normalise(self, serial: str) -> str:
        """Without blanks around it, in upper case."""
        return serial.strip().upper()

    def serial_from_usb(self, attachment: Attachment) -> str:
        """What USB calls it; for a card in a reader that is the reader's."""
        return self.normalise(attachment.usb_serial)

    def library(self, attachment: Attachment) -> tuple[Path, Collection[tuple[int, int]]]:
        """The module that was configured for the USB id."""
        wanted = (attachment.vendor_id, attachment.product_id)
        return next((path, ids) for path, ids in self._libraries if wanted in ids)

    def connect(self, library: Library, token: Token, attachment: Attachment) -> Connection:
        """A connection to the token."""
        return Pkcs11Connection(library, token, self, attachment)


class Pkcs11Connection(Connection):
    """One token in its slot, from the time it was found there."""

    def __init__(self, library: Library, token: Token, driver: Pkcs11Driver, attachment: Attachment) -> None:
        self._library = library
        self._found = token
        self._driver = driver
        self._attachment = attachment
        self._label = ""  # written by a C_InitToken of this connection

    def probe(self) -> Probe:
        """What the token says of itself without a login: private objects are behind the user's PIN.

        So a token with a user PIN is not in factory state; but a module may set one by itself, right in C_InitToken.
        """
        token = present(self._library, self._found)
        serial = self._driver.normalise(token.serial)
        if not serial:
            raise ProtocolError("the token has no serial number")
        objects = self._objects(token)
        shortcomings = _shortcomings(token, objects, self._label)
        path, _ = self._driver.library(self._attachment)
        return Probe(
            serial=serial,
            state=HsmState.INITIALIZED if shortcomings else HsmState.ZEROIZED,
            model=token.model or self._driver.title,
            firmware=token.firmware,
            label=token.label,
            obstacle=_obstacle(token),
            conflict=self._conflict(serial),
            details=(*details(token, path), ("Public Objects", str(objects))),
            shortcomings=shortcomings,
            credential=_credential(token) if token.flags & IN_USE or objects else None,
        )

    def factory_reset(self, progress: Progress, secret: Secret | None = None) -> None:
        """C_InitToken; a token that was never initialised holds nothing and is left so, without an SO PIN of ours.

        Raises `DeviceGone` also for one that was plugged in again: the slot and the number may be the same.
        """
        progress("checking that it is still in its slot")
        token = present(self._library, self._found)
        self._driver.plugged(self._attachment)
        if token.flags & IN_USE or self._objects(token):
            if secret is None:
                raise DeviceError("it is reset with its SO PIN only")
            progress("resetting")
            label = next(label for label in LABELS if not token.label.startswith(label))
            self._library.init_token(token.slot, secret, label)
            self._label = label

    def _objects(self, token: Token) -> int:
        """How many a session without a login sees; one that was never initialised need not have sessions."""
        try:
            return self._library.objects(token.slot)
        except DeviceRefused:
            if token.flags & IN_USE:
                raise
            return 0

    def _conflict(self, serial: str) -> str:
        """A card's number differs from its reader's, and that may be all; so it is said, and hinders nothing."""
        told = self._driver.serial_from_usb(self._attachment)
        return f"USB says {told}, the token says {serial}" if told and told != serial else ""


def _credential(token: Token) -> Credential:
    """The shortest is the library's word, which may be nonsense; of ASCII, a character is a byte. None is ever empty.

    The longest is not: OpenSC's module tells fifteen, of the user's PIN, where the SO PIN has sixteen.
    """
    shortest = min(max(1, token.shortest_pin), LONGEST_PIN)
    return Credential(
        "SO PIN",
        f"[ -~]{{{shortest},{LONGEST_PIN}}}",
        f"The SO PIN has {shortest} to {LONGEST_PIN} ASCII characters.",
        1 if token.flags & SO_PIN_FINAL_TRY else None,
    )


def _obstacle(token: Token) -> str:
    if token.flags & SO_PIN_LOCKED:
        return "its SO PIN is locked"
    if token.flags & PROTECTED_PATH:
        return "it takes its SO PIN on a keypad of its own only"
    return ""


def _shortcomings(token: Token, objects: int, written: str) -> tuple[str, ...]:
    """`written` is the label that C_InitToken was given right now, "" for none; a module may add words of its own."""
    anew = written != "" and token.label.startswith(written)
    found = {
        "its label is not the one that was written": written != "" and not anew,
        "a user PIN is set": bool(token.flags & USER_PIN_INITIALIZED) and not anew,
        "there are objects": objects > 0,
    }
    return tuple(sentence for sentence, holds in found.items() if holds)
