# SPDX-License-Identifier: Apache-2.0
"""An answer to reset says how T=1 is spoken with the card, or that it is not."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import ProtocolError
from appliance.hsm.atr import AnswerToReset


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        # SmartCard-HSM: the first two generations, the third, one in specific mode
        (
            "3BFE1800008131FE458031815448534D31738021408107FA",
            AnswerToReset((1,), rate=0x18, guard_time=0, ifsc=254, waiting=0x45),
        ),
        (
            "3BDE18FF8191FE1FC38031815448534D317380214081071C",
            AnswerToReset((1,), rate=0x18, guard_time=0xFF, ifsc=254),
        ),
        # Gnuk
        (
            "3BDA11FF81B1FE551F0300318473800180009000E4",
            AnswerToReset((1,), rate=0x11, guard_time=0xFF, ifsc=254, waiting=0x55),
        ),
        ("3B80819121114045", AnswerToReset((1,), ifsc=33)),
        ("3B00", AnswerToReset((0,))),
        ("3B021450", AnswerToReset((0,))),
        ("3F8080311020B1", AnswerToReset((0, 1), inverse=True, ifsc=16, waiting=0x20)),
        ("3B8081710102010072", AnswerToReset((1,), ifsc=1, waiting=0x02, crc=True)),
        ("3B9095918131400A", AnswerToReset((1,), specific=1, rate=0x95, ifsc=64, waiting=0x0A)),
    ],
)
def test_interface_bytes_are_read(raw: str, expected: AnswerToReset) -> None:
    """Those for T=1, the first of each kind; what is not said has its default."""
    assert AnswerToReset.parse(bytes.fromhex(raw)) == expected


@pytest.mark.parametrize(
    ("raw", "speaks"),
    [("3B00", False), ("3B8001", True), ("3B800181", True), ("3B90111001", True), ("3B801000", False)],
)
def test_a_card_offers_t1_or_not(raw: str, speaks: bool) -> None:
    """Among others, or as the only protocol of a card that lets nobody choose."""
    assert AnswerToReset.parse(bytes.fromhex(raw)).speaks_t1 is speaks


@pytest.mark.parametrize("raw", ["", "3B", "3B80", "3BFE1800", "3B808131", "3B80811100", "3B808111FF"])
def test_a_cut_or_impossible_answer_is_a_protocol_error(raw: str) -> None:
    """Bytes that were announced are missing, or blocks could have no or too much information."""
    with pytest.raises(ProtocolError):
        AnswerToReset.parse(bytes.fromhex(raw))


@settings(deadline=None)
@given(st.binary(max_size=33))
def test_any_answer_is_survived(raw: bytes) -> None:
    """Random bytes are an answer to reset or a protocol error."""
    with suppress(ProtocolError):
        assert 1 <= AnswerToReset.parse(raw).ifsc <= 254
