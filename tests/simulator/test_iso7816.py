# SPDX-License-Identifier: Apache-2.0
"""Short APDUs are read, joined and answered in parts as ISO/IEC 7816-4 has it."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.simulator.iso7816 import Command, CommandLayer, Refused, headers, objects, parse, parse_extended, tlv


@pytest.mark.parametrize(
    ("apdu", "command"),
    [
        ("00A40400", Command(0, 0xA4, 4, 0)),
        ("00CA004F00", Command(0, 0xCA, 0, 0x4F, le=256)),
        ("00CA004F10", Command(0, 0xCA, 0, 0x4F, le=16)),
        ("00A4040002AABB", Command(0, 0xA4, 4, 0, b"\xaa\xbb")),
        ("00A4040002AABB00", Command(0, 0xA4, 4, 0, b"\xaa\xbb", 256)),
        ("10DB3FFF01AA05", Command(0x10, 0xDB, 0x3F, 0xFF, b"\xaa", 5)),
    ],
)
def test_each_case_of_a_short_apdu_is_read(apdu: str, command: Command) -> None:
    """With and without data, with and without Le, where 00 means 256."""
    assert parse(bytes.fromhex(apdu)) == command


@pytest.mark.parametrize(
    "apdu",
    ["", "00", "00A404", "00A4040002AA", "00A4040001AABBCC", "00A404000000", "00A40400000002AABB", "00CA0000000000"],
)
def test_no_other_length_is_accepted(apdu: str) -> None:
    """Cut off, too long, or of the extended form: 6700."""
    with pytest.raises(Refused) as refused:
        parse(bytes.fromhex(apdu))

    assert refused.value.status == 0x6700


@pytest.mark.parametrize(
    ("apdu", "command"),
    [
        ("00A40400", Command(0, 0xA4, 4, 0)),
        ("00A4040002AABB00", Command(0, 0xA4, 4, 0, b"\xaa\xbb", 256)),
        ("80580000000000", Command(0x80, 0x58, 0, 0, le=65536)),
        ("80580000000102", Command(0x80, 0x58, 0, 0, le=258)),
        ("00B12F02000002AABB", Command(0, 0xB1, 0x2F, 2, b"\xaa\xbb")),
        ("00B12F02000002AABB0000", Command(0, 0xB1, 0x2F, 2, b"\xaa\xbb", 65536)),
    ],
)
def test_a_card_may_know_extended_apdus(apdu: str, command: Command) -> None:
    """In both forms; lengths take two bytes behind a zero, where 0000 means 65536."""
    assert parse_extended(bytes.fromhex(apdu)) == command


@pytest.mark.parametrize(
    "apdu", ["00B12F02000002AA", "00B12F02000002AABB00", "00B12F020000010000", "00B12F020000000000"]
)
def test_no_other_extended_length_is_accepted(apdu: str) -> None:
    """Cut off, too long, or with an empty field of data: 6700."""
    with pytest.raises(Refused) as refused:
        parse_extended(bytes.fromhex(apdu))

    assert refused.value.status == 0x6700


def layer(answer: Callable[[Command], bytes]) -> Callable[[str], str]:
    """Responses of a layer, in upper-case hexadecimal digits."""
    under_test = CommandLayer(answer)
    return lambda apdu: under_test.transmit(bytes.fromhex(apdu)).hex().upper()


def test_a_chain_arrives_as_one_command() -> None:
    """The parts are confirmed, and executed as one at the last."""
    seen: list[Command] = []

    def execute(command: Command) -> bytes:
        seen.append(command)
        return b"\x01"

    send = layer(execute)

    assert send("10DB3FFF02AABB") == "9000"
    assert send("10DB3FFF01CC") == "9000"
    assert seen == []
    assert send("00DB3FFF01DD00") == "019000"
    assert seen == [Command(0, 0xDB, 0x3F, 0xFF, b"\xaa\xbb\xcc\xdd", 256)]


def test_a_broken_chain_is_refused_and_forgotten() -> None:
    """Another command inside a chain is refused, and the next one begins anew."""
    send = layer(lambda command: command.data)

    assert send("10DB3FFF02AABB") == "9000"
    assert send("00CA004F00") == "6883"
    assert send("00DB3FFF01CC") == "CC9000"


def test_a_chain_has_an_end() -> None:
    """Not more is remembered than a card would."""
    send = layer(lambda command: b"")
    part = "10DB3FFFFF" + "AA" * 255

    assert [send(part) for _ in range(9)] == ["9000"] * 8 + ["6700"]


def test_a_long_answer_comes_in_parts() -> None:
    """61 and what is left, 00 for 256 and more, until 9000."""
    content = bytes(range(256)) * 2 + b"end"
    send = layer(lambda _: content)

    answers = [send("00CA7F2100"), send("00C0000000"), send("00C0000000")]

    assert [answer[-4:] for answer in answers] == ["6100", "6103", "9000"]
    assert bytes.fromhex("".join(answer[:-4] for answer in answers)) == content


def test_a_short_le_is_honoured() -> None:
    """No more than Le bytes come at once."""
    send = layer(lambda _: b"\1\2\3\4\5")

    assert [send("00CA7F2102"), send("00C0000002"), send("00C0000002")] == ["01026103", "03046101", "059000"]


def test_an_answer_is_forgotten_at_the_next_command() -> None:
    """GET RESPONSE continues the last answer only."""
    send = layer(lambda command: b"\1\2" if command.p2 else b"")

    assert [send("00CA000101"), send("00CA000000"), send("00C0000000")] == ["016101", "9000", "6985"]


@pytest.mark.parametrize("apdu", ["80CA004F00", "01CA004F00", "0CCA004F00", "90C0000000"])
def test_other_classes_are_refused(apdu: str) -> None:
    """No secure messaging, no logical channels, nothing proprietary: 6E00."""
    assert layer(lambda _: b"")(apdu) == "6E00"


@given(st.binary(max_size=300), st.integers(1, 255))
def test_what_was_put_in_a_data_object_comes_out(value: bytes, tag: int) -> None:
    """`tlv` and `objects` are inverse to each other, at each length of a length."""
    tag = tag if tag & 0x1F != 0x1F else 0x7F00 | (tag & 0x7F)

    assert list(objects(tlv(tag, value) + tlv(0x5F52, b"x"))) == [(tag, value), (0x5F52, b"x")]


def test_the_entries_of_a_header_list_are_read() -> None:
    """Tags and lengths without values, as in 7F48."""
    assert list(headers(bytes.fromhex("9220 9941 5F488120"))) == [(0x92, 0x20), (0x99, 0x41), (0x5F48, 0x20)]


@given(st.binary(max_size=40))
def test_no_bytes_break_the_readers(data: bytes) -> None:
    """Whatever comes is read, or refused with a status word."""
    for read in (objects, headers):
        with contextlib.suppress(Refused):
            list(read(data))
