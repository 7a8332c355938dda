# SPDX-License-Identifier: Apache-2.0
"""Which token of a PKCS#11 library is in which USB device; what the families have in common that are reached so.

udev knows devices and the library knows slots, and nothing ties the one to the other but a serial number, where both
tell the same. Without it a device has a token only if it is the only device and that the only token on USB. Whatever
is not certain is refused; it is never "the first".
"""

from abc import abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import DeviceError, DeviceGone
from appliance.hsm.drivers import Connection, Driver
from appliance.hsm.model import Attachment
from appliance.hsm.pkcs11.client import Library, Token, loaded

# PKCS#11 2.40, 3.2
REMOVABLE_DEVICE = 0x02  # of a slot
USER_PIN_INITIALIZED = 0x08  # of a token, like the others
PROTECTED_PATH = 0x100
TOKEN_INITIALIZED = 0x400
SO_PIN_FINAL_TRY = 0x200000
SO_PIN_LOCKED = 0x400000

SMART_CARD = 0x0B  # the class of a USB interface

SLOTS_NAMED = 3  # in a sentence for people


class SlotDriver(Driver):
    """A family whose devices are reached through a PKCS#11 library."""

    @abstractmethod
    def library(self, attachment: Attachment) -> tuple[Path, Collection[tuple[int, int]]]:
        """The library for a device, and all USB ids whose tokens it shows."""

    @abstractmethod
    def connect(self, library: Library, token: Token, attachment: Attachment) -> Connection:
        """A connection to the token that is in this device."""

    def on_usb(self, token: Token) -> bool:
        """Whether a token is in a slot for USB devices, where its serial number does not say so."""
        return bool(token.slot_flags & REMOVABLE_DEVICE)

    def external(self, token: Token) -> bool:
        """Whether a token may be in a USB device at all, whatever serial number it tells; not all slots say so."""
        return True

    @contextmanager
    def open(self, attachment: Attachment) -> Iterator[Connection]:
        """Load the library and find the device's token in it.

        Raises `DeviceGone` when the device is not plugged in any more, `DeviceError` when no token of the library, or
        more than one, may be the one in it.
        """
        path, _ = self.library(attachment)
        self.plugged(attachment)
        with loaded(path) as library:
            tokens = library.tokens()
            devices = self.plugged(attachment)
            yield self.connect(library, self.tie(tokens, attachment, devices), attachment)

    def tie(self, tokens: Collection[Token], attachment: Attachment, devices: int) -> Token:
        """The token in this device, one of so many `devices` that may be the library's. Raises `DeviceError`."""
        told = self.normalise(attachment.usb_serial)
        candidates = [token for token in tokens if self.on_usb(token)]
        matches = [token for token in tokens if told and self.normalise(token.serial) == told and self.external(token)]
        match matches, candidates:
            case [token], _:
                return token
            case [], [token] if devices == 1:
                return token
            case [], []:
                raise DeviceError(f"the library shows no token on USB{_named(tokens)}")
        serials = {token.serial for token in candidates}
        if devices == 1 and len(candidates) > 1 and len(serials) == 1 and serials != {""}:
            raise DeviceError(f"the library shows one token in {len(candidates)} slots: it has to show each token once")
        raise DeviceError(
            f"which token is in which device is not certain: tokens on USB {len(candidates)}, devices {devices}, "
            f"with this device's serial number {len(matches)}; leave only this device plugged in"
        )

    def plugged(self, attachment: Attachment) -> int:
        """How many devices are plugged in whose token the library may show. Raises `DeviceGone` when this one is not.

        Those with its ids, and every smart card reader: a library that uses them shows whatever is in any of them.
        """
        _, usb_ids = self.library(attachment)
        addresses = self.bus.addresses(usb_ids, SMART_CARD)
        if (attachment.bus, attachment.address) not in addresses:
            raise DeviceGone("the device was unplugged")
        return len(addresses)


def present(library: Library, found: Token) -> Token:
    """What the token that was found says now. Raises `DeviceGone` when another, or none, is in its slot."""
    for token in library.tokens():
        if (token.slot, token.serial) == (found.slot, found.serial):
            return token
    raise DeviceGone("the token is not in its slot any more")


def details(token: Token, path: Path) -> tuple[tuple[str, str], ...]:
    """Where the token was found, for people."""
    return (("PKCS#11 Slot", f"{token.slot} ({token.slot_description})"), ("PKCS#11 Library", str(path)))


def _named(tokens: Collection[Token]) -> str:
    """The slots that there are, for whoever must find out why none of them counts."""
    names = sorted({token.slot_description for token in tokens})[:SLOTS_NAMED]
    return f", but slots named {', '.join(map(repr, names))}" if names else ""
