# SPDX-License-Identifier: Apache-2.0
"""Commands and answers of any length pass through the reader, at short and at extended APDU level."""

from collections.abc import Callable, Sequence

import pytest

from appliance.errors import DeviceError, ProtocolError
from appliance.hsm.ccid import Command, Response
from tests.support.scripted_card import exchange
from tests.support.scripted_usb import (
    EXTENDED_APDU,
    Answer,
    ScriptedCard,
    ScriptedReader,
    ccid_descriptor,
    message,
)


def answering(*statuses: str) -> ScriptedReader:
    """A reader whose card gives these answers, whatever it is asked."""
    left = list(statuses)
    return ScriptedReader(lambda _: bytes.fromhex(left.pop(0)))


@pytest.mark.parametrize(
    ("command", "apdu"),
    [
        (Command(0xE6), "00E60000"),
        (Command(0xCA, p2=0x4F, le=256), "00CA004F00"),
        (Command(0xCA, p1=0x5F, p2=0x52, le=10), "00CA5F520A"),
        (Command(0xA4, p1=4, data=b"\xd2\x76"), "00A4040002D276"),
        (Command(0xDB, cla=0x0C, data=b"\x01", le=1), "0CDB0000010101"),
        (Command(0x58, cla=0x80, le=65536), "80580000000000"),
        (Command(0xB1, p1=0x2F, p2=0x02, data=b"\x54\x02\x00\x00", le=65536), "00B12F02000004540200000000"),
        (Command(0xCA, le=257), "00CA0000000101"),
    ],
)
def test_commands_are_encoded(command: Command, apdu: str) -> None:
    """Cases 1 to 4 of ISO 7816-4, 5.1, in short form, and 2 and 4 in extended form."""
    assert command.encode().hex().upper() == apdu


def test_a_pin_is_not_in_the_text_of_a_command() -> None:
    """What is shown of a command leaves its data out."""
    assert "123456" not in repr(Command(0x20, p2=0x81, data=b"123456"))


@pytest.mark.parametrize(
    ("size", "heads"),
    [
        (255, ["00DA0000FF"]),
        (256, ["10DA0000FF", "00DA000001"]),
        (510, ["10DA0000FF", "00DA0000FF"]),
        (600, ["10DA0000FF", "10DA0000FF", "00DA00005A"]),
    ],
)
def test_long_commands_are_chained(size: int, heads: list[str]) -> None:
    """All but the last APDU carry the chaining bit, and together they carry the data."""
    apdus: list[bytes] = []

    def card(apdu: bytes) -> bytes:
        apdus.append(apdu)
        return b"\x90\x00"

    payload = bytes(index % 251 for index in range(size))
    exchange(ScriptedReader(card), Command(0xDA, data=payload))

    assert [apdu[:5].hex().upper() for apdu in apdus] == heads
    assert b"".join(apdu[5:] for apdu in apdus) == payload


def test_an_extended_command_is_no_chain() -> None:
    """Its data go in one, at most 65535 bytes."""
    (link,) = Command(0xDA, data=bytes(600), le=65536).links()

    assert link.encode() == bytes.fromhex("00DA0000 00 0258") + bytes(600) + b"\0\0"


def test_a_reader_for_short_commands_gets_no_others() -> None:
    """It would take the length for another one."""
    reader = answering()

    with pytest.raises(DeviceError, match="short"):
        exchange(reader, Command(0x58, le=65536))
    assert reader.commands == []


def test_a_refused_chain_is_not_continued() -> None:
    """The refusal of one link is the answer to the command."""
    reader = answering("6A84")

    assert exchange(reader, Command(0xDA, data=bytes(600))) == Response(b"", 0x6A84)
    assert len(reader.commands) == 1


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([("00CA004F00", "AABB9000")], "AABB 9000"),
        ([("00CA004F00", "AA6102"), ("00C0000002", "BBCC9000")], "AABBCC 9000"),
        ([("00CA004F00", "AA6100"), ("00C0000000", "BB6101"), ("00C0000001", "CC9000")], "AABBCC 9000"),
        ([("00CA004F00", "6C02"), ("00CA004F02", "AABB9000")], "AABB 9000"),
        ([("00CA004F00", "6C02"), ("00CA004F02", "6C02")], " 6C02"),
        ([("00CA004F00", "6102"), ("00C0000002", "6C01"), ("00C0000001", "AA9000")], "AA 9000"),
        ([("00CA004F00", "AA6102"), ("00C0000002", "6F00")], "AA 6F00"),
        ([("00CA004F00", "6A88")], " 6A88"),
        ([("00CA004F00", "6285")], " 6285"),
    ],
)
def test_status_words_that_ask_for_more(script: list[tuple[str, str]], expected: str) -> None:
    """61xx is followed by GET RESPONSE, 6Cxx by the same command with that length, once; all else is an answer."""
    card = ScriptedCard(script)

    response = exchange(ScriptedReader(card))

    assert f"{response.data.hex().upper()} {response.status:04X}" == expected
    assert card.all_asked()


@pytest.mark.parametrize("answer", ["61 00", "61 05", "00 61 01"])
def test_an_endless_answer_is_a_protocol_error(answer: str) -> None:
    """GET RESPONSE that brings little or nothing and promises more again and again."""
    with pytest.raises(ProtocolError, match="does not end"):
        exchange(ScriptedReader(lambda _: bytes.fromhex(answer)))


@pytest.mark.parametrize("answer", ["", "90"])
def test_an_answer_without_status_is_a_protocol_error(answer: str) -> None:
    """A response APDU has at least its status word."""
    with pytest.raises(ProtocolError, match="status word"):
        exchange(answering(answer))


# The extended APDU level


def chained(answers: Sequence[tuple[int, str]], seen: list[tuple[int, str]]) -> Callable[[bytes], list[Answer]]:
    """A reader at extended APDU level: bChainParameter and data of each answer, the last for ever.

    `seen` gets what it was sent.
    """
    left = list(answers)

    def reader(command: bytes) -> list[Answer]:
        seen.append((int.from_bytes(command[8:10], "little"), command[10:].hex().upper()))
        chain, data = left.pop(0) if len(left) > 1 else left[0]
        raw = message(0x80, command[6], bytes.fromhex(data))
        return [raw[:9] + bytes([chain]) + raw[10:]]

    return reader


@pytest.mark.parametrize(
    ("longest", "answers", "sent"),
    [
        (271, [(0, "AA9000")], [(0, "00CA004F00")]),
        (271, [(1, "AA"), (2, "9000")], [(0, "00CA004F00"), (0x10, "")]),
        (271, [(1, "AA"), (3, "90"), (2, "00")], [(0, "00CA004F00"), (0x10, ""), (0x10, "")]),
        (13, [(0x10, ""), (0, "AA9000")], [(1, "00CA00"), (2, "4F00")]),
        (12, [(0x10, ""), (0x10, ""), (0, "AA9000")], [(1, "00CA"), (3, "004F"), (2, "00")]),
    ],
)
def test_an_apdu_in_several_messages(longest: int, answers: list[tuple[int, str]], sent: list[tuple[int, str]]) -> None:
    """Commands too long for a message are sent in parts, and answers collected, as the parameters say."""
    seen: list[tuple[int, str]] = []

    response = exchange(chained(answers, seen), descriptor=ccid_descriptor(EXTENDED_APDU, longest))

    assert response == Response(b"\xaa", 0x9000)
    assert seen == sent


@pytest.mark.parametrize(
    ("longest", "answers"),
    [
        (13, [(0, "9000")]),
        (13, [(0x10, "AA")]),
        (271, [(1, "AA"), (3, "")]),
        (271, [(3, "AA")]),
        (10, []),
        (0, []),
    ],
)
def test_a_broken_chain_of_messages_is_a_protocol_error(longest: int, answers: list[tuple[int, str]]) -> None:
    """An answer too early, data where none may be, a chain that does not go on, no room at all."""
    with pytest.raises(ProtocolError):
        exchange(chained(answers, []), descriptor=ccid_descriptor(EXTENDED_APDU, longest))
