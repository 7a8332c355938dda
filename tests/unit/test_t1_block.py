# SPDX-License-Identifier: Apache-2.0
"""Blocks of T=1 are the bytes of ISO/IEC 7816-3, 11.3, and nothing else passes for one."""

import binascii

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.hsm.t1_block import Block, BlockFault, Request, Trouble


@pytest.mark.parametrize(
    ("block", "raw"),
    [
        (Block.information(0, False, b""), "00000000"),
        (Block.information(0, False, b"\xa4"), "000001A4A5"),
        (Block.information(1, False, b"\x01\x02"), "004002010241"),
        (Block.information(0, True, b"\xff"), "002001FFDE"),
        (Block.information(1, True, b"\xff"), "006001FF9E"),
        (Block.ready(0), "00800080"),
        (Block.ready(1), "00900090"),
        (Block.ready(0, Trouble.GARBLED), "00810081"),
        (Block.ready(1, Trouble.OTHER), "00920092"),
        (Block(Request.RESYNCH), "00C000C0"),
        (Block.response(Request.RESYNCH), "00E000E0"),
        (Block(Request.IFS, b"\xfe"), "00C101FE3E"),
        (Block.response(Request.IFS, b"\xfe"), "00E101FE1E"),
        (Block(Request.ABORT), "00C200C2"),
        (Block.response(Request.ABORT), "00E200E2"),
        (Block(Request.WTX, b"\x02"), "00C30102C0"),
        (Block.response(Request.WTX, b"\x02"), "00E30102E0"),
    ],
)
def test_a_block_has_its_bytes(block: Block, raw: str) -> None:
    """Prologue, information, and the exclusive-or of both."""
    assert block.encode().hex().upper() == raw
    assert Block.decode(bytes.fromhex(raw)) == block


def mirrored(number: int, bits: int) -> int:
    """The same bits from the other end."""
    return int(f"{number:0{bits}b}"[::-1], 2)


@settings(deadline=None)
@given(st.binary(max_size=254))
def test_the_other_redundancy_code_is_a_crc(data: bytes) -> None:
    """That of Python's library, with the bits of each byte in the order in which a card sends them."""
    raw = Block.information(1, False, data).encode(crc=True)
    library = binascii.crc_hqx(bytes(mirrored(byte, 8) for byte in raw[:-2]), 0xFFFF)

    assert int.from_bytes(raw[-2:]) == mirrored(library, 16)
    assert Block.decode(raw, crc=True).data == data


@pytest.mark.parametrize(
    ("raw", "trouble"),
    [
        ("", Trouble.OTHER),
        ("000000", Trouble.OTHER),
        ("0000000000", Trouble.OTHER),
        ("000002A4A5", Trouble.OTHER),
        ("000001A4A4", Trouble.GARBLED),
        ("00800081", Trouble.GARBLED),
        ("01800081", Trouble.OTHER),  # another node
        ("00100010", Trouble.OTHER),  # an I-block with a bit that has no meaning
        ("00A000A0", Trouble.OTHER),  # an R-block with such a bit
        ("00830083", Trouble.OTHER),  # an R-block with an unknown error
        ("0080010081", Trouble.OTHER),  # an R-block with information
        ("0000FF" + "00" * 255 + "FF", Trouble.OTHER),  # a length that is reserved
    ],
)
def test_what_is_no_block_is_told(raw: str, trouble: Trouble) -> None:
    """Cut, garbled, or with fields that mean nothing; the R-block that follows says which."""
    with pytest.raises(BlockFault) as caught:
        Block.decode(bytes.fromhex(raw))

    assert caught.value.trouble is trouble


@settings(deadline=None)
@given(st.integers(0, 1), st.booleans(), st.binary(max_size=254), st.booleans(), st.data())
def test_one_wrong_byte_is_seen(sequence: int, more: bool, data: bytes, crc: bool, draw: st.DataObject) -> None:
    """Wherever it is, under both redundancy codes."""
    raw = bytearray(Block.information(sequence, more, data).encode(crc))
    raw[draw.draw(st.integers(0, len(raw) - 1))] ^= draw.draw(st.integers(1, 255))

    with pytest.raises(BlockFault):
        Block.decode(bytes(raw), crc)
