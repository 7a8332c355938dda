# SPDX-License-Identifier: Apache-2.0
"""The interface device's end of T=1 does what ISO/IEC 7816-3, 11.6 and Annex A say, and never repeats a command."""

from collections.abc import Callable
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import DeviceError, DeviceTimeout, ProtocolError
from appliance.hsm.t1 import Link, garbled, silent
from appliance.hsm.t1_block import Block
from appliance.simulator.ccid_reader import CardSilent
from appliance.simulator.t1_card import T1Card
from tests.support.t1_dialogue import ScriptedEnd, lines

NEVER = 0.0  # the deadline; nobody looks at a clock here
RESYNCHRONISED = """
    S(RESYNCH request) > S(RESYNCH response)
    S(IFS request) 08 > S(IFS response) 08
"""


def linked(script: str) -> tuple[Link, ScriptedEnd]:
    """A link to a card that follows the script; it takes 4 bytes in a block, the reader 8."""
    end = ScriptedEnd(lines(script))
    return Link(end, ifsc=4, room=8), end


# Without errors


@pytest.mark.parametrize(
    ("commands", "script"),
    [
        ("A1>B1 A2>B2 A3>B3", "I(0,0) A1 > I(0,0) B1\n I(1,0) A2 > I(1,0) B2\n I(0,0) A3 > I(0,0) B3"),
        ("A1>B1", "I(0,0) A1 > S(WTX request) 03\n S(WTX response) 03 > I(0,0) B1"),
        (
            "A1>B1",
            "I(0,0) A1 > S(WTX request) 03\n S(WTX response) 03 > S(WTX request) 01\n S(WTX response) 01 > I(0,0) B1",
        ),
        (
            "A1>B1 A1A2A3>B2",
            """I(0,0) A1 > S(IFS request) 02
            S(IFS response) 02 > I(0,0) B1
            I(1,1) A1A2 > R(0)
            I(0,0) A3 > I(1,0) B2""",
        ),
        ("A1A2A3A4A5>B1", "I(0,1) A1A2A3A4 > R(1)\n I(1,0) A5 > I(0,0) B1"),
        ("A1>B1B2B3 A2>B4", "I(0,0) A1 > I(0,1) B1\n R(1) > I(1,1) B2\n R(0) > I(0,0) B3\n I(1,0) A2 > I(1,0) B4"),
        (
            "A1A2A3A4A5A6A7A8A9>B1B2",
            """I(0,1) A1A2A3A4 > R(1)
            I(1,1) A5A6A7A8 > R(0)
            I(0,0) A9 > I(0,1) B1
            R(1) > I(1,0) B2""",
        ),
        (
            "A1A2A3A4A5A6>B1",
            """I(0,1) A1A2A3A4 > S(IFS request) 01
            S(IFS response) 01 > R(1)
            I(1,1) A5 > R(0)
            I(0,0) A6 > I(0,0) B1""",
        ),
        ("A1>B1B2", "I(0,0) A1 > I(0,1) B1\n R(1) > S(WTX request) 02\n S(WTX response) 02 > I(1,0) B2"),
    ],
)
def test_a_dialogue_without_errors(commands: str, script: str) -> None:
    """I-blocks, more time, other sizes, chains of either side and both."""
    link, end = linked(script)

    for pair in commands.split():
        command, response = map(bytes.fromhex, pair.split(">"))
        assert link.transmit(command, NEVER) == response

    assert end.left == []


def test_the_card_is_told_what_the_reader_takes() -> None:
    """By an IFS request before the first command, which takes three attempts."""
    link, end = linked("""
        S(IFS request) 08 > noise
        S(IFS request) 08 > silence
        S(IFS request) 08 > S(IFS response) 08
        I(0,0) A1 > I(0,0) B1B2B3B4B5B6B7B8
    """)
    link.announce_room(NEVER)

    assert len(link.transmit(b"\xa1", NEVER)) == 8
    assert end.left == []


@pytest.mark.parametrize("answer", ["S(IFS response) 07", "S(IFS request) 08", "R(0)", "I(0,0) 9000"])
def test_a_card_that_does_not_agree_is_an_error(answer: str) -> None:
    """Another size, or another block, three times; whoever goes on nevertheless begins anew."""
    link, end = linked(f"S(IFS request) 08 > {answer}\n" * 3 + RESYNCHRONISED.strip() + "\nI(0,0) A1 > I(0,0) B1")

    with pytest.raises(ProtocolError, match="IFS"):
        link.announce_room(NEVER)

    assert link.transmit(b"\xa1", NEVER) == b"\xb1"
    assert end.left == []


def test_a_reader_with_little_room_gets_short_blocks() -> None:
    """Though the card would take longer ones."""
    end = ScriptedEnd(lines("I(0,1) A1A2 > R(1)\n I(1,0) A3 > I(0,0) B1"))

    assert Link(end, ifsc=254, room=2).transmit(bytes.fromhex("A1A2A3"), NEVER) == b"\xb1"


def test_the_time_that_the_card_asks_for_is_passed_on() -> None:
    """With the block after which it counts, and no longer."""
    link, end = linked("""
        I(0,0) A1 > S(WTX request) 03
        S(WTX response) 03 > noise
        R(0) garbled > S(WTX request) 05
        S(WTX response) 05 > R(0)
        I(0,0) A1 > I(0,1) B1
        R(1) > I(1,0) B2
    """)
    link.transmit(b"\xa1", NEVER)

    assert end.waits == [3, 5]
    assert end.left == []


# With errors that pass


@pytest.mark.parametrize(
    "script",
    [
        # the command does not reach the card
        "I(0,0) A1 > R(0) garbled\n I(0,0) A1 > I(0,0) B1",
        "I(0,0) A1 > R(0) other\n I(0,0) A1 > R(0) garbled\n I(0,0) A1 > I(0,0) B1",
        "I(0,0) A1 > silence\n R(0) other > R(0) other\n I(0,0) A1 > I(0,0) B1",
        # the answer does not reach the reader
        "I(0,0) A1 > noise\n R(0) garbled > I(0,0) B1",
        "I(0,0) A1 > silence\n R(0) other > I(0,0) B1",
        "I(0,0) A1 > noise\n R(0) garbled > silence\n R(0) other > I(0,0) B1",
        # neither does
        "I(0,0) A1 > noise\n R(0) garbled > R(0) garbled\n I(0,0) A1 > I(0,0) B1",
        "I(0,0) A1 > R(0) garbled\n I(0,0) A1 > noise\n R(0) garbled > I(0,0) B1",
        # blocks that do not follow
        "I(0,0) A1 > I(1,0) B2\n R(0) other > I(0,0) B1",
        "I(0,0) A1 > R(1)\n R(0) other > I(0,0) B1",
        "I(0,0) A1 > S(RESYNCH request)\n R(0) other > I(0,0) B1",
        "I(0,0) A1 > S(WTX response) 01\n R(0) other > I(0,0) B1",
        "I(0,0) A1 > S(WTX request) 00\n R(0) other > I(0,0) B1",
        "I(0,0) A1 > S(WTX request)\n R(0) other > I(0,0) B1",
        "I(0,0) A1 > S(IFS request) 00\n R(0) other > I(0,0) B1",
        "I(0,0) A1 > S(IFS request) FF\n R(0) other > I(0,0) B1",
        # requests of the card, and the responses
        "I(0,0) A1 > noise\n R(0) garbled > S(WTX request) 02\n S(WTX response) 02 > I(0,0) B1",
        "I(0,0) A1 > S(WTX request) 02\n S(WTX response) 02 > S(WTX request) 02\n S(WTX response) 02 > I(0,0) B1",
        "I(0,0) A1 > S(WTX request) 02\n S(WTX response) 02 > noise\n R(0) garbled > I(0,0) B1",
        "I(0,0) A1 > S(IFS request) 03\n S(IFS response) 03 > silence\n R(0) other > I(0,0) B1",
    ],
)
def test_an_error_is_mended(script: str) -> None:
    """By asking for the block, or sending it, again; the commands after it go on as after any other."""
    link, end = linked(f"{script}\n I(1,0) A2 > I(1,0) B2")

    assert link.transmit(b"\xa1", NEVER) == b"\xb1"
    assert link.transmit(b"\xa2", NEVER) == b"\xb2"
    assert end.left == []


@pytest.mark.parametrize(
    "script",
    [
        "I(0,1) A1A2A3A4 > R(0) garbled\n I(0,1) A1A2A3A4 > R(1)\n I(1,0) A5 > I(0,1) B1\n R(1) > I(1,0) B2",
        "I(0,1) A1A2A3A4 > noise\n R(0) garbled > R(1)\n I(1,0) A5 > I(0,1) B1\n R(1) > I(1,0) B2",
        "I(0,1) A1A2A3A4 > silence\n R(0) other > R(0)\n I(0,1) A1A2A3A4 > R(1)\n"
        "I(1,0) A5 > I(0,1) B1\n R(1) > I(1,0) B2",
        "I(0,1) A1A2A3A4 > I(0,0) B1\n R(0) other > R(1)\n I(1,0) A5 > I(0,1) B1\n R(1) > I(1,0) B2",
        "I(0,1) A1A2A3A4 > R(1)\n I(1,0) A5 > R(1) garbled\n I(1,0) A5 > I(0,1) B1\n R(1) > I(1,0) B2",
        "I(0,1) A1A2A3A4 > R(1)\n I(1,0) A5 > I(0,1) B1\n R(1) > noise\n R(1) > I(1,0) B2",
        "I(0,1) A1A2A3A4 > R(1)\n I(1,0) A5 > I(0,1) B1\n R(1) > R(0) garbled\n R(1) > I(1,0) B2",
        "I(0,1) A1A2A3A4 > R(1)\n I(1,0) A5 > I(0,1) B1\n R(1) > I(0,1) B1\n R(1) > I(1,0) B2",
    ],
)
def test_an_error_in_a_chain_is_mended(script: str) -> None:
    """No part is lost, and none is taken twice."""
    link, end = linked(script)

    assert link.transmit(bytes.fromhex("A1A2A3A4A5"), NEVER) == b"\xb1\xb2"
    assert end.left == []


def test_attempts_are_counted_from_the_last_block_that_was_good() -> None:
    """A slow card on a bad line, that asks for time often enough, is understood."""
    link, _ = linked("""
        I(0,0) A1 > noise
        R(0) garbled > noise
        R(0) garbled > S(WTX request) 01
        S(WTX response) 01 > noise
        R(0) garbled > noise
        R(0) garbled > I(0,0) B1
    """)

    assert link.transmit(b"\xa1", NEVER) == b"\xb1"


# With errors that do not pass


@pytest.mark.parametrize(
    ("script", "error", "sentence"),
    [
        ("I(0,0) A1 > silence\n R(0) other > silence\n R(0) other > silence", DeviceTimeout, "does not answer"),
        ("I(0,0) A1 > noise\n R(0) garbled > noise\n R(0) garbled > noise", ProtocolError, "garbled"),
        ("I(0,0) A1 > R(1)\n R(0) other > R(1)\n R(0) other > R(1)", ProtocolError, "wrong number"),
        ("I(0,0) A1 > R(0)\n I(0,0) A1 > R(0)\n I(0,0) A1 > R(0)", ProtocolError, "not understand"),
    ],
)
def test_a_command_that_the_card_may_have_had_is_not_repeated(
    script: str, error: type[DeviceError], sentence: str
) -> None:
    """It ends in an error, and a resynchronisation comes before the next one."""
    link, end = linked(f"{script} {RESYNCHRONISED} I(0,0) A2 > I(0,0) B2")

    with pytest.raises(error, match=sentence):
        link.transmit(b"\xa1", NEVER)

    assert link.transmit(b"\xa2", NEVER) == b"\xb2"
    assert end.left == []


def test_a_command_that_the_card_cannot_have_had_is_repeated() -> None:
    """When contact is lost before its last part was sent; sizes of blocks are as in the beginning."""
    link, end = linked(f"""
        I(0,1) A1A2A3A4 > S(IFS request) 01
        S(IFS response) 01 > silence
        R(0) other > silence
        R(0) other > silence
        {RESYNCHRONISED.strip()}
        I(0,1) A1A2A3A4 > R(1)
        I(1,0) A5 > I(0,0) B1
    """)

    assert link.transmit(bytes.fromhex("A1A2A3A4A5"), NEVER) == b"\xb1"
    assert end.left == []


def test_a_command_is_not_repeated_for_ever() -> None:
    """After three attempts contact counts as lost."""
    lost = "I(0,1) A1A2A3A4 > noise\n R(0) garbled > noise\n R(0) garbled > noise\n"
    link, end = linked(lost + RESYNCHRONISED.strip() + "\n" + lost + RESYNCHRONISED.strip() + "\n" + lost)

    with pytest.raises(ProtocolError):
        link.transmit(bytes.fromhex("A1A2A3A4A5"), NEVER)

    assert end.left == []


@pytest.mark.parametrize(
    ("answer", "error"), [("silence", DeviceTimeout), ("noise", ProtocolError), ("R(0)", ProtocolError)]
)
def test_a_card_that_cannot_be_resynchronised_is_an_error(answer: str, error: type[DeviceError]) -> None:
    """After three attempts, each time that it is tried."""
    lost = "I(0,0) A1 > silence\n R(0) other > silence\n R(0) other > silence\n"
    link, end = linked(lost + f"S(RESYNCH request) > {answer}\n" * 6)
    with pytest.raises(DeviceTimeout):
        link.transmit(b"\xa1", NEVER)

    for _ in range(2):
        with pytest.raises(error):
            link.transmit(b"\xa2", NEVER)

    assert end.left == []


@pytest.mark.parametrize(
    "script",
    [
        "I(0,1) A1A2A3A4 > S(ABORT request)\n S(ABORT response) > R(1)",
        "I(0,1) A1A2A3A4 > S(ABORT request)\n S(ABORT response) > silence",
        "I(0,1) A1A2A3A4 > R(1)\n I(1,0) A5 > I(0,1) B1\n R(1) > S(ABORT request)\n S(ABORT response) > noise",
    ],
)
def test_a_chain_that_the_card_breaks_off_is_an_error(script: str) -> None:
    """The card gets its response; what it had is not known, so both ends begin anew."""
    link, end = linked(f"{script} {RESYNCHRONISED} I(0,0) A2 > I(0,0) B2")

    with pytest.raises(DeviceError, match="broke off"):
        link.transmit(bytes.fromhex("A1A2A3A4A5"), NEVER)

    assert link.transmit(b"\xa2", NEVER) == b"\xb2"
    assert end.left == []


def test_an_answer_without_end_is_left() -> None:
    """No response is longer than an extended APDU."""
    parts = (Block.information(number % 2, True, bytes(254)).encode() for number in range(1000))

    with pytest.raises(ProtocolError, match="end"):
        Link(lambda *_: next(parts)).transmit(b"\xa1", NEVER)


# With everything


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 254), max_size=20), st.integers(0, 65538), st.binary(min_size=4, max_size=600))
def test_an_answer_comes_whole_however_it_is_split(sizes: list[int], size: int, command: bytes) -> None:
    """Up to the longest, in parts of any length, empty ones too."""
    response = bytes(index % 251 for index in range(size))
    ends = [end for end in accumulate(sizes) if end < size]
    ends += range(ends[-1] if ends else 0, size, 254)
    parts = [response[start:end] for start, end in zip([0, *ends], [*ends, size], strict=True)]
    blocks = [Block.information(number % 2, True, part) for number, part in enumerate(parts)]
    blocks[-1] = Block.information((len(blocks) - 1) % 2, False, parts[-1])
    got = b""

    def card(raw: bytes, waits: int, deadline: float) -> bytes:
        nonlocal got
        block = Block.decode(raw)
        if block.is_information:
            got += block.data
        if block.more:
            return Block.ready(1 - block.number).encode()
        return blocks.pop(0).encode()

    assert Link(card).transmit(command, NEVER) == response
    assert got == command


class Counting:
    """A card that answers every command with something of its own, and counts how often it had each."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.had: list[bytes] = []

    def power_on(self) -> bytes:
        """The answer to reset."""
        return b""

    def power_off(self) -> None:
        """Take the power away."""

    def transmit(self, apdu: bytes) -> bytes:
        """As long as it was told to be, and unlike that to any other command."""
        self.had.append(apdu)
        return self.expected(apdu)

    def expected(self, apdu: bytes) -> bytes:
        """What it answers."""
        return (apdu * (self.length // len(apdu) + 1))[: self.length] + b"\x90\x00"


def bad_line(card: T1Card, fate: Callable[[bytes], bytes | None]) -> Callable[[bytes, int, float], bytes]:
    """The way to the card and back; `fate` is what becomes of each block, None when it is lost."""

    def swap(block: bytes, waits: int, deadline: float) -> bytes:
        arrived = fate(block)
        if arrived is None:
            raise silent()
        try:
            answer = fate(card.transmit(arrived))
        except CardSilent as silence:
            raise silent() from silence
        if answer is None:
            raise garbled()
        return answer

    return swap


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 254), st.integers(1, 254), st.integers(0, 700), st.integers(0, 9))
def test_on_a_bad_line_an_answer_is_right_or_an_error(
    data: st.DataObject, ifsc: int, room: int, length: int, faults: int
) -> None:
    """Blocks are garbled, cut and lost either way: no command runs twice, none gets a wrong answer, and it ends."""
    left = faults

    def fate(block: bytes) -> bytes | None:
        nonlocal left
        match data.draw(st.integers(0, 5)) if left else 0:
            case 1:
                left -= 1
                return None
            case 2:
                left -= 1
                place = data.draw(st.integers(0, len(block) - 1))
                return block[:place] + bytes([block[place] ^ data.draw(st.integers(1, 255))]) + block[place + 1 :]
            case 3:
                left -= 1
                return block[: data.draw(st.integers(0, len(block) - 1))]
        return block

    counting = Counting(min(length, 8 * room))
    link = Link(bad_line(T1Card(counting), fate), ifsc=ifsc, room=room)
    commands = [bytes([number]) * data.draw(st.integers(4, min(300, 8 * ifsc + 4))) for number in range(1, 5)]
    for command in commands:
        try:
            response = link.transmit(command, NEVER)
        except DeviceError:
            continue
        assert response == counting.expected(command)
    left = 0

    assert all(counting.had.count(command) <= 1 for command in commands)
    assert link.transmit(b"last", NEVER) == counting.expected(b"last")
