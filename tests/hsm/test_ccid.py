# SPDX-License-Identifier: Apache-2.0
"""A CCID reader is spoken to by the book, and whatever it answers, the wait ends and only our errors come out."""

import errno
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import (
    DeviceBusy,
    DeviceError,
    DeviceGone,
    DeviceStall,
    DeviceTimeout,
    ProtocolError,
)
from appliance.hsm.ccid import Command, Response
from appliance.hsm.ccid_messages import MOST_EMPTY, MOST_STALE
from tests.support.scripted_card import ASK, Clock, card_in, exchange
from tests.support.scripted_usb import (
    EXTENDED_APDU,
    SHORT_APDU,
    Answer,
    Fault,
    ScriptedReader,
    ccid_descriptor,
    message,
    usb_error,
)


def test_an_answer_is_matched_to_its_command() -> None:
    """Answers to earlier commands are thrown away, of whatever kind they are."""

    def reader(command: bytes) -> list[Answer]:
        old = [message(0x81, command[6] - back & 0xFF, status=0x42) for back in range(1, MOST_STALE + 1)]
        return [*old, message(0x80, command[6], b"new\x90\x00")]

    assert exchange(reader) == Response(b"new", 0x9000)


def test_old_answers_without_end_are_a_protocol_error() -> None:
    """A reader that answers anything but what it is asked is left."""
    with pytest.raises(ProtocolError, match="not sent"):
        exchange(lambda command: [message(0x80, command[6] ^ 1, b"\x90\x00")] * (MOST_STALE + 1))


def test_sequence_numbers_go_round() -> None:
    """After 255 comes 0, and each command has its own."""
    reader = ScriptedReader()

    with card_in(reader) as (card, _):
        for _ in range(300):
            assert card.transmit(ASK).status == 0x9000

    numbers = [command[6] for command in reader.commands]
    assert all((later - earlier) % 256 == 1 for earlier, later in pairwise(numbers))


def test_time_extensions_are_waited_out() -> None:
    """A card that asks for more time gets it."""
    assert exchange(ScriptedReader(lambda _: b"done\x90\x00", extensions=50)) == Response(b"done", 0x9000)


def test_time_extensions_end_at_the_deadline() -> None:
    """A card that asks for ever does not hold its caller for ever."""
    with card_in(ScriptedReader(extensions=1000), clock=Clock()) as (card, backend), pytest.raises(DeviceTimeout):
        card.transmit(ASK, timeout=60)

    assert backend.calls.count("bulk_read") < 60


def test_the_deadline_spans_a_whole_command() -> None:
    """A long answer that comes in pieces is bounded as one."""
    endless = ScriptedReader(lambda _: b"x\x61\x00")

    with card_in(endless, clock=Clock()) as (card, _), pytest.raises(DeviceTimeout):
        card.transmit(ASK, timeout=60)


@pytest.mark.parametrize("size", [0, 1, 51, 52, 53, 54, 116, 118, 255, 256])
@pytest.mark.parametrize("ended", [True, False])
def test_messages_of_any_length_are_put_together(size: int, ended: bool) -> None:
    """With and without the empty packet behind a message of whole packets."""
    data = bytes(range(256))[:size]

    def reader(command: bytes) -> list[Answer]:
        raw = message(0x80, command[6], data + b"\x90\x00")
        return [raw, b""] if ended and len(raw) % 64 == 0 else [raw]

    with card_in(reader) as (card, _):
        for _ in range(3):
            assert card.transmit(ASK) == Response(data, 0x9000)


@pytest.mark.parametrize(("longest", "asked"), [(271, 320), (319, 320), (320, 384), (0, 320)])
def test_a_read_leaves_room_for_the_empty_packet(longest: int, asked: int) -> None:
    """Behind a message of whole packets it has to be fetched before the reader takes the next command."""
    with card_in(ScriptedReader(), descriptor=ccid_descriptor(longest=longest)) as (card, backend):
        card.transmit(ASK)
        assert backend.read_sizes == [asked]


@pytest.mark.parametrize("size", [1, 51])
def test_bytes_behind_a_message_are_a_protocol_error(size: int) -> None:
    """Also where they fill the packet."""
    with pytest.raises(ProtocolError, match="announces"):
        exchange(lambda command: [message(0x80, command[6], bytes(size) + b"\x90\x00") + b"x"])


def test_a_message_in_many_reads_is_put_together() -> None:
    """A transport may hand on each packet by itself."""

    def reader(command: bytes) -> list[Answer]:
        raw = message(0x80, command[6], bytes(254) + b"\x90\x00")
        return [raw[start : start + 64] for start in range(0, len(raw), 64)]

    assert exchange(reader) == Response(bytes(254), 0x9000)


def test_empty_packets_are_counted() -> None:
    """A reader that sends nothing else is left."""
    with pytest.raises(ProtocolError, match="too early"):
        exchange(lambda _: [b""] * (MOST_EMPTY + 1))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.TIMEOUT, DeviceTimeout),
        (Fault.STALL, DeviceStall),
        (Fault.GONE, DeviceGone),
        (Fault.BROKEN, DeviceGone),
        (Fault.OVERFLOW, ProtocolError),
        (Fault.SHORT, ProtocolError),
        (Fault.EMPTY, DeviceTimeout),
        (Fault.SEQUENCE, DeviceTimeout),
        (Fault.SLOT, ProtocolError),
        (Fault.KIND, ProtocolError),
        (Fault.LENGTH, ProtocolError),
        (Fault.RUBBISH, ProtocolError),
        (Fault.FAILED, DeviceError),
        (Fault.ABSENT, DeviceError),
    ],
)
def test_a_bad_answer_is_named(fault: Fault, expected: type[DeviceError]) -> None:
    """Each way to answer badly has its error."""
    with pytest.raises(DeviceError) as caught:
        exchange(ScriptedReader(faults={0: fault}))

    assert type(caught.value) is expected


@pytest.mark.parametrize("extra", [b"", b"x"])
def test_a_length_that_no_message_has_is_a_protocol_error(extra: bytes) -> None:
    """A header that announces four gigabytes is not waited for."""
    with pytest.raises(ProtocolError, match="announces"):
        exchange(lambda command: [b"\x80\xff\xff\xff\xff" + message(0x80, command[6])[5:] + extra])


@pytest.mark.parametrize(
    ("error", "expected", "sentence"),
    [
        (0xFE, DeviceError, "does not answer"),
        (0xFB, DeviceError, "hardware"),
        (0xF6, DeviceError, "protocol"),
        (0xE0, DeviceBusy, "busy"),
        (0xF2, DeviceBusy, "busy"),
        (0x00, DeviceError, "does not know"),
        (0x05, DeviceError, "error 05"),
    ],
)
def test_a_failed_command_is_explained(error: int, expected: type[DeviceError], sentence: str) -> None:
    """The reader's error code becomes a sentence, whatever the type of its answer."""
    with pytest.raises(expected, match=sentence):
        exchange(lambda command: [message(0x81, command[6], status=0x40, error=error)])


def test_a_stalled_read_is_cleared_and_tried_once_more() -> None:
    """The answer may stand behind the STALL."""
    reader = ScriptedReader(lambda _: b"ok\x90\x00")

    def stalling(command: bytes) -> list[Answer]:
        return [usb_error(errno.EPIPE), *reader(command)]

    with card_in(stalling) as (card, backend):
        assert card.transmit(ASK) == Response(b"ok", 0x9000)
        assert backend.calls.count("clear_halt") == 2  # once, on both endpoints


def test_a_stalled_command_is_not_sent_again() -> None:
    """It may have been taken, and a VERIFY sent twice costs two tries; the endpoints work again for the next."""
    reader = ScriptedReader()

    with card_in(reader) as (card, backend):
        backend.errors["bulk_write"] = errno.EPIPE
        with pytest.raises(DeviceStall):
            card.transmit(ASK)
        assert backend.calls.count("bulk_write") == 1
        assert backend.calls.count("clear_halt") == 2
        backend.errors.clear()
        assert card.transmit(ASK).status == 0x9000


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=6), st.sampled_from([SHORT_APDU, EXTENDED_APDU]))
def test_random_answers_raise_only_our_errors(answers: list[bytes], features: int) -> None:
    """Bytes without sense end in a response or a device error, after a bounded number of reads."""
    with card_in(lambda _: list(answers), descriptor=ccid_descriptor(features)) as (card, backend):
        for _ in range(3):
            try:
                card.power_on()
                card.transmit(ASK)
            except DeviceError:
                pass
        assert backend.calls.count("bulk_read") < 500


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_random_fields_raise_only_our_errors(data: st.DataObject) -> None:
    """So do well-formed messages with random contents."""

    def reader(command: bytes) -> list[Answer]:
        kind = data.draw(st.sampled_from([0x80, 0x80, 0x80, 0x81, 0x82]))
        status = data.draw(st.sampled_from([0, 0, 0, 0, 0x40, 0x80, 0xC0, 0x42]))
        raw = message(
            kind, command[6], data.draw(st.binary(max_size=70)), status=status, error=data.draw(st.integers(0, 255))
        )
        return [raw[:9] + bytes([data.draw(st.sampled_from([0, 0, 1, 2, 3, 0x10]))]) + raw[10:]]

    level = data.draw(st.sampled_from([SHORT_APDU, EXTENDED_APDU]))
    with card_in(reader, descriptor=ccid_descriptor(level), clock=Clock()) as (card, _):
        try:
            card.power_on()
            card.transmit(Command(0xDA, data=bytes(data.draw(st.integers(0, 600)))), timeout=200)
        except DeviceError:
            pass
