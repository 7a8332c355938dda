# SPDX-License-Identifier: Apache-2.0
"""The frames between the network door and its client survive any cutting of the stream, and nothing else passes."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.console.frames import (
    LARGEST_PAYLOAD,
    Decoder,
    Frame,
    FrameError,
    Kind,
    decode_open,
    encode,
    encode_open,
)

FRAMES = st.one_of(
    st.tuples(st.sampled_from([Kind.OPEN, Kind.DATA]), st.binary(min_size=1, max_size=300)),
    st.just((Kind.END, b"")),
    st.tuples(st.just(Kind.EXIT), st.binary(min_size=1, max_size=1)),
)


def _cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces, cut at `places`."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


def _decode(*pieces: bytes) -> list[Frame]:
    decoder = Decoder()
    return [frame for piece in pieces for frame in decoder.feed(piece)]


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(min_value=0), max_size=12))
def test_any_cutting_gives_the_same_frames(frames: list[Frame], places: list[int]) -> None:
    """However the network cuts the stream, the frames that were sent come out, whole and in order."""
    stream = b"".join(encode(kind, payload) for kind, payload in frames)
    assert _decode(*_cut(stream, places)) == frames


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_random_bytes_give_frames_or_an_error(pieces: list[bytes]) -> None:
    """No sequence of bytes gets anything out of the decoder but well-formed frames and `FrameError`."""
    decoder = Decoder()
    try:
        for piece in pieces:
            for kind, payload in decoder.feed(piece):
                assert encode(kind, payload) in b"".join(pieces)
    except FrameError:
        return


def test_largest_payload_passes() -> None:
    """A payload of exactly the limit is a frame."""
    payload = b"x" * LARGEST_PAYLOAD
    assert _decode(encode(Kind.DATA, payload)) == [(Kind.DATA, payload)]


def test_larger_payload_is_not_encoded() -> None:
    """A payload of one byte more than the limit is never sent."""
    with pytest.raises(ValueError, match="16385 bytes"):
        encode(Kind.DATA, b"x" * (LARGEST_PAYLOAD + 1))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"\x00\x00\x01", id="type 0"),
        pytest.param(b"\x05\x00\x01", id="unknown type"),
        pytest.param(b"\xff\x00\x00", id="highest type"),
        pytest.param(b"\x01\x00\x00", id="empty opening"),
        pytest.param(b"\x02\x00\x00", id="empty data"),
        pytest.param(b"\x02\x40\x01", id="data of 16385 bytes"),
        pytest.param(b"\x01\xff\xff", id="opening of 65535 bytes"),
        pytest.param(b"\x03\x00\x01", id="end with a payload"),
        pytest.param(b"\x04\x00\x00", id="exit without a status"),
        pytest.param(b"\x04\x00\x02", id="exit with two bytes"),
    ],
)
def test_wrong_header_is_an_error_at_once(header: bytes) -> None:
    """A header that no frame has is refused before any of its payload has come."""
    with pytest.raises(FrameError):
        _decode(header)


def test_frames_before_a_wrong_one_are_given() -> None:
    """What came before the wrong frame is not lost with it."""
    frames = Decoder().feed(encode(Kind.DATA, b"good") + b"\x99\x00\x00")
    assert next(frames) == (Kind.DATA, b"good")
    with pytest.raises(FrameError):
        next(frames)


@pytest.mark.parametrize(
    ("command", "source"),
    [
        (None, ""),
        (None, "192.0.2.7 40847"),
        ("token backup list", "2001:db8::7 22"),
        ("", ""),
        ('say "ü" \\ \n\x00', "x"),
        ("bytes that are no UTF-8: \udcff", ""),
    ],
)
def test_opening_says_the_same_at_the_other_end(command: str | None, source: str) -> None:
    """Command and source arrive as they were given."""
    [(kind, payload)] = _decode(encode_open(command, source))
    assert (kind, decode_open(payload)) == (Kind.OPEN, (command, source))


def test_command_that_fits_no_frame_is_not_encoded() -> None:
    """A command larger than a frame is refused where it is typed."""
    with pytest.raises(ValueError, match="payload"):
        encode_open("x" * LARGEST_PAYLOAD, "")


GOOD = {"mode": "command", "command": "help", "from": ""}


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"\xff\xfe{\x00}\x00", id="not UTF-8"),
        pytest.param(b"[" * LARGEST_PAYLOAD, id="nested too deeply"),
        pytest.param(b"9" * LARGEST_PAYLOAD, id="a number too large for Python"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="nothing said"),
        *(
            pytest.param(json.dumps({k: v for k, v in GOOD.items() if k != key}).encode(), id=f"without {key}")
            for key in GOOD
        ),
        *(pytest.param(json.dumps(GOOD | {key: 1}).encode(), id=f"{key} is a number") for key in GOOD),
        *(pytest.param(json.dumps(GOOD | {key: None}).encode(), id=f"{key} is null") for key in GOOD),
        pytest.param(json.dumps(GOOD | {"mode": "console"}).encode(), id="unknown mode"),
        pytest.param(json.dumps(GOOD | {"mode": "interactive"}).encode(), id="interactive with a command"),
        pytest.param(json.dumps(GOOD | {"origin": "local console"}).encode(), id="one member more"),
    ],
)
def test_wrong_opening_is_an_error(payload: bytes) -> None:
    """An opening that says less, more or other than an opening says is refused."""
    with pytest.raises(FrameError):
        decode_open(payload)


@given(st.binary(max_size=200))
def test_random_opening_is_an_error(payload: bytes) -> None:
    """Random bytes are no opening, and raise nothing but `FrameError`."""
    with pytest.raises(FrameError):
        decode_open(payload)
