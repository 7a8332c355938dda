# SPDX-License-Identifier: Apache-2.0
"""The simulated card's end of T=1 does what ISO/IEC 7816-3, 11.6 says of a card."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.hsm.t1_block import Block
from appliance.simulator.ccid_reader import CardSilent
from appliance.simulator.faults import Fault, Misdeed, When
from appliance.simulator.t1_card import T1Card
from tests.support.t1_dialogue import NOISE, SILENCE, encoded, lines, shown


class Doubling:
    """A card that answers each command with its bytes twice, and does wrong what it is told to."""

    fault: Fault | None = None

    def __init__(self) -> None:
        self.end = T1Card(self)
        self.had: list[str] = []

    def power_on(self) -> bytes:
        """The answer to reset."""
        return b"ATR"

    def power_off(self) -> None:
        """Take the power away."""

    def transmit(self, apdu: bytes) -> bytes:
        """The same twice."""
        if self.fault and self.fault.when is When.BEFORE:
            self._misbehave(self.fault)
        self.had.append(apdu.hex().upper())
        if self.fault:
            self._misbehave(self.fault)
        return apdu * 2

    def _misbehave(self, fault: Fault) -> None:
        self.fault = None
        self.end.misbehave(fault)


def hold(end: T1Card, script: str) -> None:
    """Have the dialogue, in which the reader speaks first."""
    for sent, expected in lines(script):
        try:
            answer = shown_or_noise(end.transmit(encoded(sent)))
        except CardSilent:
            answer = SILENCE
        assert (sent, answer) == (sent, expected)


def shown_or_noise(raw: bytes) -> str:
    """What the reader makes of it."""
    redundancy = 0
    for byte in raw:
        redundancy ^= byte
    return NOISE if redundancy else shown(raw)


@pytest.mark.parametrize(
    ("script", "had"),
    [
        ("I(0,0) A1 > I(0,0) A1A1\n I(1,0) A2 > I(1,0) A2A2\n I(0,0) A3 > I(0,0) A3A3", "A1 A2 A3"),
        ("I(0,1) A1 > R(1)\n I(1,1) A2 > R(0)\n I(0,0) A3 > I(0,0) A1A2A3A1A2A3", "A1A2A3"),
        ("S(IFS request) 02 > S(IFS response) 02\n I(0,0) A1A2 > I(0,1) A1A2\n R(1) > I(1,0) A1A2", "A1A2"),
        # asked again
        ("I(0,0) A1 > I(0,0) A1A1\n R(0) garbled > I(0,0) A1A1\n I(1,0) A2 > I(1,0) A2A2", "A1 A2"),
        (
            "S(IFS request) 03 > S(IFS response) 03\n I(0,0) A1A2 > I(0,1) A1A2A1\n R(0) > I(0,1) A1A2A1\n"
            "R(1) > I(1,0) A2\n R(1) > I(1,0) A2",
            "A1A2",
        ),
        ("I(0,1) A1 > R(1)\n R(0) > R(1)\n I(1,0) A2 > I(0,0) A1A2A1A2", "A1A2"),
        # what cannot be used
        ("noise > R(0) garbled\n I(0,0) A1 > I(0,0) A1A1\n noise > R(1) garbled\n R(1) > R(1) garbled", "A1"),
        ("R(0) > R(0) other\n I(0,0) A1 > I(0,0) A1A1", "A1"),
        ("S(IFS request) 20 > S(IFS response) 20\n R(0) > R(0) other\n I(0,0) A1 > I(0,0) A1A1", "A1"),
        ("I(1,0) A1 > R(0) other\n I(0,0) A1 > I(0,0) A1A1", "A1"),
        ("I(0,0) A1 > I(0,0) A1A1\n R(1) > R(1) other\n I(0,0) A1 > R(1) other", "A1"),
        ("S(IFS request) 00 > R(0) other\n S(IFS request) FF > R(0) other\n S(IFS request) > R(0) other", ""),
        ("S(WTX request) 01 > R(0) other\n S(WTX response) 01 > R(0) other\n S(RESYNCH response) > R(0) other", ""),
        # a chain that the reader breaks off; the end of everything
        ("I(0,1) A1 > R(1)\n S(ABORT request) > S(ABORT response)\n I(1,0) A2 > I(0,0) A2A2", "A2"),
        (
            "I(0,0) A1 > I(0,0) A1A1\n I(1,1) A2 > R(0)\n S(RESYNCH request) > S(RESYNCH response)\n"
            "I(0,0) A3 > I(0,0) A3A3",
            "A1 A3",
        ),
    ],
)
def test_a_card_answers(script: str, had: str) -> None:
    """Each block as the rules have it; no command is done twice."""
    card = Doubling()

    hold(card.end, script)

    assert card.had == had.split()


@pytest.mark.parametrize(
    ("fault", "script", "had"),
    [
        (Fault(Misdeed.GARBLE), "I(0,0) A1 > noise\n R(0) > I(0,0) A1A1\n I(1,0) A2 > I(1,0) A2A2", "A1 A2"),
        (Fault(Misdeed.GARBLE, when=When.BEFORE), "I(0,0) A1 > R(0) garbled\n I(0,0) A1 > I(0,0) A1A1", "A1"),
        (Fault(Misdeed.LOSE), "I(0,0) A1 > silence\n R(0) > I(0,0) A1A1", "A1"),
        (
            Fault(Misdeed.LOSE, when=When.BEFORE),
            "I(0,0) A1 > silence\n R(0) > R(0) other\n I(0,0) A1 > I(0,0) A1A1",
            "A1",
        ),
        (
            Fault(Misdeed.LOSE, when=When.BEFORE),
            "I(0,1) A1 > R(1)\n I(1,0) A2 > silence\n R(0) > R(1)\n I(1,0) A2 > I(0,0) A1A2A1A2",
            "A1A2",
        ),
        (
            Fault(Misdeed.DEAFEN),
            "I(0,0) A1 > noise\n R(0) > noise\n R(0) > noise\n S(RESYNCH request) > S(RESYNCH response)\n"
            "I(0,0) A2 > I(0,0) A2A2",
            "A1 A2",
        ),
        (
            Fault(Misdeed.SHRINK, length=9),
            "I(0,0) A1 > S(IFS request) 09\n R(0) > S(IFS request) 09\n S(IFS response) 08 > R(1) other\n"
            "S(IFS response) 09 > I(0,0) A1A1",
            "A1",
        ),
        (
            Fault(Misdeed.SLOW),
            "I(0,0) A1 > S(WTX request) 02\n I(1,0) A2 > R(1) other\n S(WTX response) 02 > I(0,0) A1A1",
            "A1",
        ),
        (Fault(Misdeed.BUSY), "I(0,0) A1 > I(0,0) A1A1", "A1"),
    ],
)
def test_a_card_misbehaves(fault: Fault, script: str, had: str) -> None:
    """Once, and as it was told to; a command that did not reach it was not done."""
    card = Doubling()
    card.fault = fault

    hold(card.end, script)

    assert card.had == had.split()


def test_without_power_everything_is_forgotten() -> None:
    """Numbers, sizes, and the part of a chain that had come."""
    card = Doubling()
    hold(card.end, "S(IFS request) 02 > S(IFS response) 02\n I(0,0) A1 > I(0,0) A1A1\n I(1,1) A2 > R(0)")

    card.end.power_off()

    assert card.end.power_on() == b"ATR"
    hold(card.end, "I(0,0) A1A2 > I(0,0) A1A2A1A2")


@settings(deadline=None)
@given(st.lists(st.binary(max_size=12), max_size=8))
def test_no_bytes_break_the_card(blocks: list[bytes]) -> None:
    """Whatever comes is answered with a block."""
    end = Doubling().end
    for block in blocks:
        Block.decode(end.transmit(block))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=3)), max_size=8))
def test_no_blocks_break_the_card(blocks: list[tuple[int, bytes]]) -> None:
    """So are blocks in an order without sense."""
    end = Doubling().end
    for block in blocks:
        Block.decode(end.transmit(Block(*block).encode()))
