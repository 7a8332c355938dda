# SPDX-License-Identifier: Apache-2.0
"""The device's side of an interface of the maker's own: a command in, its answer out, each with its length in front.

The messages are those of the YubiHSM 2: a byte for the command, two for the length of what follows.
"""

from typing import Protocol

from appliance.simulator.ccid_reader import CardMute

HEADER = 3  # bytes
LONGEST_MESSAGE = 3136  # bytes


class Card(Protocol):
    """What is behind the interface."""

    def power_off(self) -> None:
        """Take the power away."""

    def transmit(self, message: bytes) -> bytes:
        """The answer to a command. Raises `CardMute`."""


class VendorInterface:
    """The interface: it is ready as soon as it has power."""

    def __init__(self, card: Card) -> None:
        self._card = card

    def power_off(self) -> None:
        """Be without power, as after unplugging."""
        self._card.power_off()

    def is_whole(self, message: bytes) -> bool:
        """Whether a message has come to the end that its header tells."""
        return len(message) >= HEADER + int.from_bytes(message[1:3], "big")

    def handle(self, message: bytes) -> list[bytes]:
        """The answer; none to what is longer than the device's buffer, or comes to one that is damaged."""
        if len(message) > LONGEST_MESSAGE:
            return []
        try:
            return [self._card.transmit(message)]
        except CardMute:
            return []
