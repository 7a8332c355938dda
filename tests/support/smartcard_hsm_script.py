# SPDX-License-Identifier: Apache-2.0
"""Conversations with a SmartCard-HSM, written in hex, and a driver that holds them with a scripted reader."""

from contextlib import AbstractContextManager

from appliance.hsm.drivers import Connection
from appliance.hsm.drivers.smartcard_hsm import SmartcardHsmDriver
from tests.support.scripted_driver import Script, talking
from tests.support.scripted_usb import AUTOMATIC_VOLTAGE, EXTENDED_APDU, ScriptedReader, ccid_descriptor

SELECT = "00A404000BE82B0601040181C31F020100"
FCP = "6F0785050000000305"
READ_CERTIFICATE, READ_LABEL = ("00B12F020000045402 0000 0000", "00B12F030000045402 0000 0000")
ENUMERATE = "80580000000000"
SO_TRIES, USER_TRIES = "00200088", "00200081"
DKEK = "8052000000"
SO_PIN = "3537363231383830"
INITIALIZE = f"8050000019 80020001 8106363438323139 8208{SO_PIN} 910103"

NITROKEY, STICK, PICO, OTHER_PICO = (0x20A0, 0x4230), (0x04E6, 0x5816), (0x2E8A, 0x10FD), (0xFEFF, 0xFCFD)
GNUK = (0x234B, 0x0000)  # of another family, under whose id a board may be, too
NITROKEY_SERIAL = "DENK04035140000         "


def certificate(holder: str = "DENK040351400001") -> str:
    """A card-verifiable certificate for that holder, as much as is read of it, and its issuer's behind it."""
    return _certificate(holder) + _certificate("DESRCACC100001")


def _certificate(holder: str) -> str:
    name = holder.encode().hex().upper()
    body = f"5F290100 4208{'44' * 8} 7F490206005F20{len(holder):02X}{name}".replace(" ", "")
    body = f"7F4E{len(body) // 2:02X}{body}5F370102"
    return f"7F21{len(body) // 2:02X}{body}"


def probing(
    *,
    select: str = FCP + "9000",
    cvc: str = certificate() + "6282",
    objects: str = "CC00" + "9000",
    so: str = "63CF",
    user: str = "63C3",
    dkek: str = "6D00",
    label: str = "6A82",
) -> Script:
    """What a probe asks, and these answers, each with its status word."""
    return [
        (SELECT, select),
        (READ_CERTIFICATE, cvc),
        (ENUMERATE, objects),
        (SO_TRIES, so),
        (USER_TRIES, user),
        (DKEK, dkek),
        (READ_LABEL, label),
    ]


def resetting(answer: str = "9000", *, so: str = "63CF", initialize: str = INITIALIZE) -> Script:
    """What a reset sends, up to INITIALIZE DEVICE."""
    return [
        (SELECT, FCP + "9000"),
        (ENUMERATE, "CC00" + "9000"),
        (SO_TRIES, so),
        (USER_TRIES, "63C3"),
        (initialize, answer),
    ]


def scripted(
    script: Script,
    *,
    usb_id: tuple[int, int] = NITROKEY,
    serial: str = NITROKEY_SERIAL,
    features: int = EXTENDED_APDU | AUTOMATIC_VOLTAGE,
) -> AbstractContextManager[tuple[Connection, ScriptedReader]]:
    """The driver's connection to a card that plays the script."""
    descriptor = ccid_descriptor(features, longest=65544)
    vendor, product = usb_id
    return talking(SmartcardHsmDriver, script, serial=serial, vendor=vendor, product=product, descriptor=descriptor)
