# SPDX-License-Identifier: Apache-2.0
"""Conversations with an OpenPGP card, written in hex, and a driver that holds them with a scripted reader."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from appliance.hsm.drivers import Connection
from appliance.hsm.drivers.openpgp import OpenPgpDriver
from tests.support.scripted_driver import Script, talking
from tests.support.scripted_usb import ScriptedReader

SELECT = "00A4040006D27600012401"
TERMINATE, ACTIVATE = "00E60000", "00440000"
GUARDED, UNGUARDED = "0031C573C00140 059000", "0031C573C00140 009000"
FACTORY_PINS = "007F7F7F030303"
GNUK_AID = "D276000124010200FFFEF1420A7A0000"


def tlv(tag: str, value: str) -> str:
    """One data object."""
    size = len(bytes.fromhex(value))
    return f"{tag}{size:02X}{value}" if size < 0x80 else f"{tag}82{size:04X}{value}"


def application_data(
    *,
    aid: str = GNUK_AID,
    historical: str = GUARDED,
    pins: str = FACTORY_PINS,
    fingerprints: str = "00" * 60,
    times: str = "00" * 12,
    information: str = "",
) -> str:
    """The contents of data object 6E."""
    inner = tlv("C4", pins) + tlv("C5", fingerprints) + tlv("C6", "00" * 60) + tlv("CD", times)
    inner += tlv("DE", information) if information else ""
    return tlv("4F", aid) + tlv("5F52", historical) + tlv("73", inner)


def probing(
    application: str, *, cardholder: str = "6A88", login: str = "6A88", url: str = "6A88", select: str = "9000"
) -> Script:
    """What a probe asks, and these answers; those of the last three with their status word."""
    keys = [] if "DE" in application else [("00CA00DE00", "6A88")]
    return [
        (SELECT, select),
        ("00CA006E00", application + "9000"),
        *keys,
        ("00CA006500", cardholder),
        ("00CA005E00", login),
        ("00CA5F5000", url),
    ]


def verifying(reference: str, answers: Sequence[str], pin: str = "40" * 8) -> Script:
    """Attempts with a wrong PIN."""
    return [(f"002000{reference}{len(pin) // 2:02X}{pin}", answer) for answer in answers]


def resetting(
    *,
    user: Script | None = None,
    admin: Script | None = None,
    historical: str = GUARDED,
    derivation: str = "6A88",
    pins: str = FACTORY_PINS,
) -> Script:
    """What a reset asks before TERMINATE DF."""
    blocked = ["6982", "6982", "6982", "6983"]
    read = ("00CA006E00", application_data(historical=historical, pins=pins) + "9000")
    return [
        (SELECT, "9000"),
        read,
        ("00CA00F900", derivation),
        read,
        *(verifying("81", blocked) if user is None else user),
        read,
        *(verifying("83", blocked) if admin is None else admin),
    ]


def scripted(
    script: Script, *, serial: str = "FSIJ-1.2.19-EMULATED", vendor: int = 0x234B, product: int = 0
) -> AbstractContextManager[tuple[Connection, ScriptedReader]]:
    """The driver's connection to a card that plays the script."""
    return talking(OpenPgpDriver, script, serial=serial, vendor=vendor, product=product)
