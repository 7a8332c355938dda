# SPDX-License-Identifier: Apache-2.0
"""A card that connects as to pcscd's virtual reader sits in a USB reader of ours, at extended APDU level.

So firmware that is no USB device can be held against a driver. The reader's end of `vpcd.serve`.
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from appliance.simulator.ccid_reader import CcidReader
from appliance.simulator.descriptors import CCID, Level
from tests.support.scripted_usb import Answer, ScriptedUsb, usb_error
from tests.support.vpcd import GET_ATR, POWER_OFF, POWER_ON, send

BOUND = 100.0  # seconds to wait for the card, or for anything that it does


class VpcdCard:
    """The card at the other end of a connection."""

    def __init__(self, connection: socket.socket, stream: IO[bytes]) -> None:
        """`stream` is what comes over the connection."""
        self._connection = connection
        self._stream = stream

    def power_on(self) -> bytes:
        """The answer to reset."""
        send(self._connection, bytes([POWER_ON]))
        return self.transmit(bytes([GET_ATR]))

    def power_off(self) -> None:
        """Take the power away."""
        send(self._connection, bytes([POWER_OFF]))

    def transmit(self, apdu: bytes) -> bytes:
        """The response. Raises `OSError` when the card is gone."""
        send(self._connection, apdu)
        header = self._stream.read(2)
        answer = self._stream.read(int.from_bytes(header, "big"))
        if len(header) < 2 or len(answer) < int.from_bytes(header, "big"):
            raise ConnectionError
        return answer


@contextmanager
def listener(port: int = 0) -> Iterator[socket.socket]:
    """What the card connects to; a port of its own choice for 0."""
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(BOUND)
        yield server


@contextmanager
def card_in_reader(server: socket.socket, serial: str, usb_id: tuple[int, int]) -> Iterator[ScriptedUsb]:
    """The USB side of the card that connects; when it goes away, the reader is gone too."""
    connection, _ = server.accept()
    connection.settimeout(BOUND)
    with connection, connection.makefile("rb") as stream:
        reader = CcidReader(VpcdCard(connection, stream), extended=True)

        def handle(message: bytes) -> list[Answer]:
            try:
                return list(reader.handle(message))
            except OSError:
                return [usb_error(errno.ENODEV)]

        vendor, product = usb_id
        yield ScriptedUsb(handle, serial=serial, vendor=vendor, product=product, descriptor=CCID[Level.EXTENDED])
