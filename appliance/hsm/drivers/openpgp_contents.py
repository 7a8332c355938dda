# SPDX-License-Identifier: Apache-2.0
"""What an OpenPGP card holds, read out of its data objects; nothing here talks to a card.

Section numbers are those of the OpenPGP card specification, version 3.4.1.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from appliance.errors import ProtocolError

APPLICATION = bytes.fromhex("D27600012401")

KEYS = ("signature", "decryption", "authentication")  # in the order of every list of keys on the card
FULL_TRIES = 3

NO_LIFE_CYCLE = "it has no life-cycle management: a factory reset would leave it unusable"
MANUFACTURERS = {0x0005: "ZeitControl", 0x0006: "Yubico", 0x000F: "Nitrokey", 0xF517: "FSIJ"}


class Tag(IntEnum):
    """The data objects that are asked for (4.4)."""

    AID = 0x4F
    HISTORICAL_BYTES = 0x5F52
    CARDHOLDER_DATA = 0x65
    NAME = 0x5B
    LOGIN_DATA = 0x5E
    URL = 0x5F50
    APPLICATION_DATA = 0x6E
    PIN_STATUS = 0xC4
    FINGERPRINTS = 0xC5
    KEY_TIMES = 0xCD
    KEY_INFORMATION = 0xDE
    KEY_DERIVATION = 0xF9


@dataclass(frozen=True, slots=True)
class Contents:
    """What a card that is in use holds, as far as anybody may read it."""

    version: str
    manufacturer: int
    serial: str
    historical: bytes
    tries: tuple[int, int, int]  # PW1, resetting code, PW3
    keys: tuple[str, ...]
    dated_keys: tuple[str, ...]  # those whose time of making is recorded
    name: bytes
    login: bytes
    url: bytes

    @classmethod
    def parse(
        cls,
        *,
        aid: bytes,
        historical: bytes,
        pin_status: bytes,
        fingerprints: bytes,
        key_times: bytes,
        key_information: bytes,
        name: bytes,
        login: bytes,
        url: bytes,
    ) -> Self:
        """The values of the data objects. Raises `ProtocolError` for one that is missing or too short."""
        if len(aid) != 16 or not aid.startswith(APPLICATION):
            raise ProtocolError("the card's application identifier is not that of an OpenPGP card")
        if len(fingerprints) < 60 or len(key_times) < 12:
            raise ProtocolError("the card's list of keys is too short")
        states = dict(zip(key_information[::2], key_information[1::2], strict=False))
        first = 0 if 0 in states and len(KEYS) not in states else 1  # some count the keys from zero
        keys = (
            name
            for number, name in enumerate(KEYS)
            if any(fingerprints[20 * number : 20 * number + 20]) or states.get(first + number)
        )
        dated = (name for number, name in enumerate(KEYS) if any(key_times[4 * number : 4 * number + 4]))
        return cls(
            version=f"{aid[6]:x}.{aid[7]:x}",
            manufacturer=int.from_bytes(aid[8:10]),
            serial=aid[10:14].hex().upper(),
            historical=historical,
            tries=pin_tries(pin_status),
            keys=tuple(keys),
            dated_keys=tuple(dated),
            name=name,
            login=login,
            url=url,
        )

    def shortcomings(self) -> tuple[str, ...]:
        """What speaks against factory state, a sentence each."""
        pins = (("user PIN", self.tries[0]), ("admin PIN", self.tries[2]))
        texts = (("card holder's name", self.name), ("login name", self.login), ("URL of the public key", self.url))
        return (
            *(f"the {name} has {tries} tries left, not {FULL_TRIES}" for name, tries in pins if tries != FULL_TRIES),
            *(f"the {name} key is present" for name in self.keys),
            *(f"the time of the {name} key is recorded" for name in self.dated_keys),
            *(f"the {name} is set" for name, value in texts if value),
        )

    def details(self) -> tuple[tuple[str, str], ...]:
        """Further lines for people."""
        maker = MANUFACTURERS.get(self.manufacturer, "unmanaged" if self.manufacturer >= 0xFF00 else "unknown")
        user, code, admin = self.tries
        return (
            ("Manufacturer", f"{maker} ({self.manufacturer:04X})"),
            ("PIN tries left", f"user {user}, reset code {code}, admin {admin}"),
            ("Keys", ", ".join(self.keys) or "none"),
        )


def pin_tries(pin_status: bytes) -> tuple[int, int, int]:
    if len(pin_status) < 7:
        raise ProtocolError("the card does not tell how many tries are left")
    return pin_status[4], pin_status[5], pin_status[6]


def obstacle(historical: bytes) -> str:
    """Why TERMINATE DF would be fatal; "" when the life-cycle indicator (6.2) says that the card comes back."""
    return "" if len(historical) >= 3 and historical[-3] in (0x03, 0x05) else NO_LIFE_CYCLE
