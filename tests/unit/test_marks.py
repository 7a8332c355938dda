# SPDX-License-Identifier: Apache-2.0
"""What PARMRK does to input is undone, however the bytes are split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.console.line import MarkDecoder

MARKED = [
    (b"abc", False, b"abc"),
    (b"a\xff\xffb", False, b"a\xffb"),
    (b"\xff\xff\xff\xff\x00\x00", False, b"\xff\xff\x00\x00"),
    (b"a\xff\x00\x00b", True, b"b"),
    (b"a\xff\x00\x00b\xff\x00\x00", True, b""),
    (b"a\xff\x00xb", False, b"ab"),
    (b"a\xff\x00\xffb", False, b"ab"),
    (b"a\xffzb", False, b"a\xffzb"),
    (b"a\xff", False, b"a"),
    (b"a\xff\x00", False, b"a"),
]


@pytest.mark.parametrize(("data", "broken", "plain"), MARKED)
def test_marks_are_undone(data: bytes, broken: bool, plain: bytes) -> None:
    """A doubled FF is one, FF 00 00 is a BREAK that discards what came before, a damaged byte is dropped."""
    assert MarkDecoder().feed(data) == (broken, plain)


@given(st.lists(st.sampled_from([b"\xff", b"\x00", b"a", b"\xff\xff", b"\xff\x00\x00"])).map(b"".join), st.data())
def test_marks_may_be_split(data: bytes, draw: st.DataObject) -> None:
    """However the bytes are split over reads, they mean the same."""
    cut = draw.draw(st.integers(0, len(data)))
    broken, plain = MarkDecoder().feed(data)
    pieces = MarkDecoder()
    first, second = pieces.feed(data[:cut]), pieces.feed(data[cut:])

    assert (first[0] or second[0]) == broken
    assert (b"" if second[0] else first[1]) + second[1] == plain
