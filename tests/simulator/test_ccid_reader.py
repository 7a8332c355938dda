# SPDX-License-Identifier: Apache-2.0
"""The reader answers each CCID message as the CCID specification 1.1 has it, the bad ones with the right error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.simulator.ccid_reader import DEFAULT_PARAMETERS, CardMute, CcidReader

ATR = b"\x3b\x80atr"
OK, EXTENSION, FAILED = 0x00, 0x80, 0x40
ACTIVE, INACTIVE, ABSENT = 0, 1, 2


class Echo:
    """A card that answers each command with itself, or not at all."""

    mute = False
    power = False

    def power_on(self) -> bytes:
        """The answer to reset."""
        if self.mute:
            raise CardMute
        self.power = True
        return ATR

    def power_off(self) -> None:
        """Take the power away."""
        self.power = False

    def transmit(self, apdu: bytes) -> bytes:
        """The same back."""
        if self.mute:
            raise CardMute
        return apdu


def message(kind: int, data: bytes = b"", *, slot: int = 0, header: bytes = b"\0\0\0", sequence: int = 9) -> bytes:
    """A message to the reader."""
    return bytes([kind]) + len(data).to_bytes(4, "little") + bytes([slot, sequence]) + header + data


def active(*, extended: bool = False) -> CcidReader:
    """A reader with a card that has power."""
    reader = CcidReader(Echo(), extended=extended)
    reader.handle(message(0x62))
    return reader


def part(reader: CcidReader, level: int, content: bytes = b"") -> tuple[bytes, int]:
    """Data and bChainParameter of the answer to a part of an APDU."""
    answer = reader.handle(message(0x6F, content, header=bytes([0, level, 0])))[-1]
    assert answer[7] == OK
    return answer[10:], answer[9]


def test_a_card_gets_power_and_loses_it() -> None:
    """IccPowerOn gives the answer to reset, and the status follows."""
    card = Echo()
    reader = CcidReader(card)

    assert reader.handle(message(0x65)) == [message(0x81, header=bytes([INACTIVE, 0, 0]))]
    assert reader.handle(message(0x62)) == [message(0x80, ATR, header=bytes([ACTIVE, 0, 0]))]
    assert card.power
    assert reader.handle(message(0x65)) == [message(0x81, header=bytes([ACTIVE, 0, 0]))]
    assert reader.handle(message(0x63)) == [message(0x81, header=bytes([INACTIVE, 0, 0]))]
    assert not card.power


def test_a_command_is_answered_after_a_time_extension() -> None:
    """As a real Gnuk does, before each answer of the card."""
    assert active().handle(message(0x6F, b"\0\xca\0\x4f")) == [
        message(0x80, header=bytes([ACTIVE | EXTENSION, 1, 0])),
        message(0x80, b"\0\xca\0\x4f", header=bytes([ACTIVE, 0, 0])),
    ]


@pytest.mark.parametrize("sequence", [0, 1, 255])
def test_the_answer_has_the_sequence_number_of_the_question(sequence: int) -> None:
    """In every kind of answer."""
    reader = active()

    for kind in range(0x60, 0x76):
        for answer in reader.handle(message(kind, sequence=sequence)):
            assert answer[6] == sequence


def test_parameters_are_kept_until_reset() -> None:
    """GetParameters, SetParameters and ResetParameters speak of T=1."""
    reader = active()
    other = bytes.fromhex("13 11 01 55 00 FE 00")
    header = bytes([ACTIVE, 0, 1])

    assert reader.handle(message(0x6C)) == [message(0x82, DEFAULT_PARAMETERS, header=header)]
    assert reader.handle(message(0x61, other, header=b"\1\0\0")) == [message(0x82, other, header=header)]
    assert reader.handle(message(0x6C)) == [message(0x82, other, header=header)]
    assert reader.handle(message(0x6D)) == [message(0x82, DEFAULT_PARAMETERS, header=header)]


@pytest.mark.parametrize(
    ("question", "answer", "error"),
    [
        (message(0x6B, b"escape"), 0x83, 0x00),
        (message(0x69), 0x80, 0x00),
        (message(0x6A), 0x81, 0x00),
        (message(0x6E), 0x81, 0x00),
        (message(0x71), 0x81, 0x00),
        (message(0x73), 0x84, 0x00),
        (message(0x00), 0x81, 0x00),
        (message(0xFF), 0x81, 0x00),
        (message(0x6F), 0x80, 1),
        (message(0x62, b"x"), 0x80, 1),
        (message(0x63, b"x"), 0x81, 1),
        (message(0x65, b"x"), 0x81, 1),
        (message(0x6C, b"x"), 0x82, 1),
        (message(0x61, b"x", header=b"\1\0\0"), 0x82, 1),
        (message(0x61, DEFAULT_PARAMETERS), 0x82, 7),
        (message(0x62, header=b"\4\0\0"), 0x80, 7),
        (message(0x6F, b"\0\xca\0\0", header=b"\0\1\0"), 0x80, 8),
        (message(0x6F, b"\0\xca\0\0")[:-1], 0x80, 1),
        (message(0x6F, b"\0\xca\0\0") + b"x", 0x80, 1),
        (message(0x6F, b"x" * 262), 0x80, 1),
        (message(0x65)[:9], 0x81, 1),
        (message(0x65)[:1], 0x81, 1),
    ],
)
def test_a_bad_message_is_answered_with_what_is_wrong_with_it(question: bytes, answer: int, error: int) -> None:
    """The field's offset, or that the command is not supported; and the card is none the worse for it."""
    reader = active()
    sequence = question[6] if len(question) > 6 else 0

    assert reader.handle(question) == [message(answer, sequence=sequence, header=bytes([ACTIVE | FAILED, error, 0]))]
    assert reader.handle(message(0x6F, b"next"))[-1][10:] == b"next"


@pytest.mark.parametrize("kind", [0x62, 0x65, 0x6F])
def test_there_is_one_slot(kind: int) -> None:
    """Another one does not exist: no card there, and bSlot is wrong."""
    (answer,) = active().handle(message(kind, slot=1))

    assert answer[5:9] == bytes([1, 9, ABSENT | FAILED, 5])


def test_a_card_without_power_is_mute() -> None:
    """XfrBlock fails until the card was given power."""
    (answer,) = CcidReader(Echo()).handle(message(0x6F, b"\0\xca\0\0"))

    assert answer == message(0x80, header=bytes([INACTIVE | FAILED, 0xFE, 0]))


@pytest.mark.parametrize("kind", [0x62, 0x6F])
def test_a_mute_card_is_reported(kind: int) -> None:
    """At power-up, or in the middle of everything; then it counts as without power."""
    card = Echo()
    reader = CcidReader(card)
    reader.handle(message(0x62))
    card.mute = True

    assert reader.handle(message(kind, b"" if kind == 0x62 else b"x")) == [
        message(0x80, header=bytes([INACTIVE | FAILED, 0xFE, 0]))
    ]


def test_unplugging_forgets_everything() -> None:
    """The card's power, the parameters, an abortion that was begun."""
    reader = active()
    reader.handle(message(0x61, bytes(7), header=b"\1\0\0"))
    reader.abort(3)

    reader.power_off()

    assert reader.handle(message(0x65)) == [message(0x81, header=bytes([INACTIVE, 0, 0]))]
    assert reader.handle(message(0x6C))[0][10:] == DEFAULT_PARAMETERS


def test_an_abortion_has_two_halves() -> None:
    """After the ABORT request everything fails until the message with the same sequence number has come."""
    reader = active()
    reader.abort(7)

    assert reader.handle(message(0x65, sequence=6)) == [
        message(0x81, sequence=6, header=bytes([ACTIVE | FAILED, 0xFF, 0]))
    ]
    assert reader.handle(message(0x72, sequence=6))[0][8] == 0xFF
    assert reader.handle(message(0x72, sequence=7)) == [message(0x81, sequence=7, header=bytes([ACTIVE, 0, 0]))]
    assert reader.handle(message(0x65, sequence=8))[0][8] == 0


def test_an_apdu_in_parts_is_put_together() -> None:
    """At extended APDU level: each part of the command is acknowledged, and the answer is fetched in parts."""
    reader = active(extended=True)

    assert part(reader, 1, b"a" * 261) == (b"", 0x10)
    assert part(reader, 3, b"b" * 261) == (b"", 0x10)
    assert part(reader, 2, b"c") == (b"a" * 261, 1)
    assert part(reader, 0x10) == (b"b" * 261, 3)
    assert part(reader, 0x10) == (b"c", 2)
    assert part(reader, 0, b"next") == (b"next", 0)


@pytest.mark.parametrize(
    ("level", "content", "error"),
    [(2, b"x", 8), (3, b"x", 8), (0x10, b"", 8), (4, b"x", 8), (0, b"", 1), (1, b"", 1), (0x10, b"x", 1)],
)
def test_a_part_that_does_not_follow_fails(level: int, content: bytes, error: int) -> None:
    """With the field that is wrong: there was no part before, or none is left, or there is too little or too much."""
    reader = active(extended=True)
    (failed,) = reader.handle(message(0x6F, content, header=bytes([0, level, 0])))

    assert failed[7:9] == bytes([ACTIVE | FAILED, error])
    assert part(reader, 0, b"next") == (b"next", 0)


@pytest.mark.parametrize("between", [message(0x63), message(0x62), message(0x72, sequence=3)])
@pytest.mark.parametrize(("begun", "then"), [((1, b"x"), (2, b"y")), ((1, b"x" * 200), (0x10, b""))])
def test_parts_do_not_outlive_the_exchange(begun: tuple[int, bytes], then: tuple[int, bytes], between: bytes) -> None:
    """After power off, power on or an abortion, nothing is continued: neither the command nor its answer."""
    reader = active(extended=True)
    part(reader, *begun)
    if then[0] == 0x10:
        part(reader, 2, b"y" * 200)

    reader.handle(between)
    reader.handle(message(0x62))
    (failed,) = reader.handle(message(0x6F, then[1], header=bytes([0, then[0], 0])))

    assert failed[7:9] == bytes([ACTIVE | FAILED, 8])


def test_a_command_has_an_end() -> None:
    """One that is longer than any extended APDU is refused, and forgotten."""
    reader = active(extended=True)
    part(reader, 1, b"x" * 261)
    for _ in range(250):
        part(reader, 3, b"x" * 261)

    assert reader.handle(message(0x6F, b"x" * 261, header=b"\0\3\0"))[0][8] == 1
    assert reader.handle(message(0x6F, b"x", header=b"\0\2\0"))[0][8] == 8


@pytest.mark.parametrize("extended", [False, True])
@given(st.binary(min_size=1, max_size=300))
def test_no_bytes_break_the_reader(extended: bool, data: bytes) -> None:
    """Every message has an answer, which is well-formed."""
    for answer in active(extended=extended).handle(data):
        assert 0x80 <= answer[0] <= 0x84
        assert int.from_bytes(answer[1:5], "little") == len(answer) - 10
