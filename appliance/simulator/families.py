# SPDX-License-Identifier: Apache-2.0
"""The table of simulated families: which card is in a token, what it keeps, and what the device says on USB.

A token file names its family; one that names none is an OpenPGP card.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from appliance.errors import ApplianceError
from appliance.simulator.descriptors import Level, Looks
from appliance.simulator.memory import FORMAT, Flash, Memory, serial_in
from appliance.simulator.openpgp_card import OpenPgpCard
from appliance.simulator.openpgp_flash import OpenPgpFlash
from appliance.simulator.pkcs11_card import LunaCard, Pkcs11Card
from appliance.simulator.pkcs11_flash import LunaFlash, Pkcs11Flash, padded
from appliance.simulator.smartcard_hsm_card import SmartcardHsmCard
from appliance.simulator.smartcard_hsm_flash import SmartcardHsmFlash
from appliance.simulator.smartcard_hsm_flash import usb_serial as filled
from appliance.simulator.token_file import create
from appliance.simulator.yubihsm_card import YubiHsmCard
from appliance.simulator.yubihsm_flash import YubiHsmFlash
from appliance.simulator.yubihsm_flash import usb_serial as zero_padded

MOST_KEYS = 3  # that a new token can be given


class Card(Protocol):
    """A card: commands in, answers out. `serial` is what it says; a fault can make it lie."""

    serial: str

    @property
    def restarts(self) -> bool:
        """Whether it is about to leave the bus, to come back as if it had been plugged in anew."""

    def name_of(self, command: bytes) -> str:
        """What faults call the command; "" for one that is not known."""

    @property
    def memory(self) -> Memory[Any]: ...
    def power_on(self) -> bytes: ...
    def power_off(self) -> None: ...
    def transmit(self, apdu: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Family:
    """One device family."""

    flash: type[Flash]
    card: Callable[[Any, Callable[[Flash], None]], Card]
    looks: Looks
    usb_serial: Callable[[str], str]  # iSerial of the device with a serial number
    level: Level = Level.APDU  # what is exchanged with one that has forgotten everything

    @property
    def name(self) -> str:
        """The word for it in token files and on the command line."""
        return self.flash.FAMILY


# USB ids that the drivers know; those of the last two they are told.
OPENPGP = Family(OpenPgpFlash, OpenPgpCard, Looks(0x234B, 0x0000, "Simulated OpenPGP token"), "SIM-0.1-{}".format)
SMARTCARD_HSM = Family(
    SmartcardHsmFlash, SmartcardHsmCard, Looks(0x20A0, 0x4230, "Simulated SmartCard-HSM token"), filled
)
YUBIHSM = Family(YubiHsmFlash, YubiHsmCard, Looks(0x1050, 0x0030, "Simulated YubiHSM"), zero_padded, Level.VENDOR)
# Luna's USB ids are not public, and other PKCS#11 tokens have any. These are for tests (https://pid.codes/1209/).
LUNA = Family(LunaFlash, LunaCard, Looks(0x1209, 0x0001, "Simulated Luna Backup HSM"), padded, Level.VENDOR)
PKCS11 = Family(Pkcs11Flash, Pkcs11Card, Looks(0x1209, 0x0002, "Simulated PKCS#11 token"), str, Level.VENDOR)

FAMILIES = {family.name: family for family in (OPENPGP, SMARTCARD_HSM, YUBIHSM, LUNA, PKCS11)}


def load(contents: bytes) -> Flash:
    """What was dumped into a token file. Raises `ValueError` for what no `dump` can have written, but other faults."""
    try:
        entry = json.loads(contents)
        if entry["format"] != FORMAT:
            raise ValueError("a token of another format")
        return _family(entry).flash.parse(entry)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a token: {error!r}") from error


def remnant(contents: bytes) -> tuple[Family, str]:
    """Family and serial number of a token that is damaged elsewhere; "" when the number is lost too."""
    try:
        entry = json.loads(contents)
        family = _family(entry)
        return family, serial_in(family.flash, entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return OPENPGP, ""


def _family(entry: Any) -> Family:
    return FAMILIES[entry.get("family", OPENPGP.name)]


def new_token(path: Path, serial: str, with_keys: int = 0, family: str = OPENPGP.name) -> None:
    """Make the file of a new token, with that many keys. Raises `ApplianceError`; replaces no file."""
    if not path.name:
        raise ApplianceError(f"{path}: not the name of a file.")
    if not 0 <= with_keys <= MOST_KEYS:
        raise ApplianceError(f"A token has {MOST_KEYS} keys at most.")
    kind = FAMILIES[family].flash
    try:
        number = kind.serial_of(serial)
    except ValueError as error:
        raise ApplianceError(f"The serial number must be {error}.") from error
    try:
        create(path, kind.new(number).with_keys(with_keys) if with_keys else kind.new(number))
    except ModuleNotFoundError as error:
        raise ApplianceError("Keys need the package 'cryptography': install the extra 'demo'.") from error
