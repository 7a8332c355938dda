# SPDX-License-Identifier: Apache-2.0
"""A card in a scripted reader, and a clock for it that nobody has to wait for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from appliance.hsm.ccid import Card, Command, Response
from appliance.hsm.usb import UsbBus
from tests.support.scripted_usb import Answer, ScriptedUsb

ASK = Command(0xCA, p2=0x4F, le=256)


class Clock:
    """Time that passes by a second, or another step, each time somebody looks."""

    def __init__(self, step: float = 1.0) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@contextmanager
def card_in(
    reader: Callable[[bytes], Sequence[Answer]], *, descriptor: bytes | None = None, clock: Clock | None = None
) -> Iterator[tuple[Card, ScriptedUsb]]:
    """A card, not yet powered, in the reader."""
    backend = ScriptedUsb(reader, descriptor=descriptor)
    with UsbBus(backend).open(backend.attachment, 0x0B) as pipe:
        yield (Card(pipe, clock) if clock else Card(pipe)), backend


def exchange(reader: Callable[[bytes], Sequence[Answer]], command: Command = ASK, **options: bytes) -> Response:
    """One command, on a card that is not powered first."""
    with card_in(reader, descriptor=options.get("descriptor")) as (card, _):
        return card.transmit(command)
