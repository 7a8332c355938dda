# SPDX-License-Identifier: Apache-2.0
"""A driver that holds a conversation, written in hex, with a scripted reader."""

from collections.abc import Iterator
from contextlib import contextmanager

from appliance.hsm.drivers import Connection, Driver
from appliance.hsm.usb import UsbBus
from tests.support.scripted_usb import ScriptedCard, ScriptedReader, ScriptedUsb

Script = list[tuple[str, str]]  # commands and answers


@contextmanager
def talking(
    driver: type[Driver], script: Script, *, serial: str, vendor: int, product: int, descriptor: bytes | None = None
) -> Iterator[tuple[Connection, ScriptedReader]]:
    """The driver's connection to a card that plays the script; it must have come to its end with the block."""
    card = ScriptedCard(script)
    reader = ScriptedReader(card, extensions=1)
    backend = ScriptedUsb(reader, serial=serial, vendor=vendor, product=product, descriptor=descriptor)
    with driver(UsbBus(backend)).open(backend.attachment) as connection:
        yield connection, reader
    assert card.all_asked(), card.asked
