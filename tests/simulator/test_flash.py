# SPDX-License-Identifier: Apache-2.0
"""What a card remembers survives as JSON, and nothing else is believed."""

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.simulator.descriptors import Level
from appliance.simulator.families import OPENPGP, load, remnant
from appliance.simulator.faults import Fault, Misdeed, When
from appliance.simulator.memory import Key, Pin, Source, dump
from appliance.simulator.openpgp_flash import ADMIN_PIN, USER_PIN, OpenPgpFlash, Password, Slot

FULL = replace(
    OpenPgpFlash.new("00667788"),
    many_signatures=True,
    signatures=7,
    objects={0x5B: b"Backup", 0x27F21: b"certificate"},
    keys={Slot.SIGNATURE: Key(b"sealed", b"\4point", Source.IMPORTED)},
    remains=(b"noise", b"more"),
    level=Level.TPDU,
    faults=(Fault(Misdeed.VANISH, at="TERMINATE DF", when=When.BEFORE, times=1, back=0.5), Fault(Misdeed.BUSY)),
)


@pytest.mark.parametrize("flash", [OpenPgpFlash.new("00000001"), FULL, FULL.wiped(), FULL.wiped().activated()])
def test_everything_comes_back(flash: OpenPgpFlash) -> None:
    """`load` is the inverse of `dump`."""
    assert load(dump(flash)) == flash


def test_a_new_card_has_the_pins_that_all_new_cards_have() -> None:
    """123456 and 12345678, no resetting code, counters 3, 0, 3."""
    pins = OpenPgpFlash.new("00667788").pins

    assert pins[Password.USER].matches(USER_PIN)
    assert pins[Password.ADMIN].matches(ADMIN_PIN)
    assert not pins[Password.RESETTING].matches(b"")
    assert [pins[name].tries for name in Password] == [3, 0, 3]


def test_two_new_cards_share_no_secret() -> None:
    """Each has a KEK of its own, and its PINs are salted."""
    one, other = OpenPgpFlash.new("00000001"), OpenPgpFlash.new("00000001")

    assert one.kek != other.kek
    assert one.pins[Password.USER].digest != other.pins[Password.USER].digest


def test_no_pin_stands_in_the_file() -> None:
    """Neither as text nor in hexadecimal digits."""
    text = dump(OpenPgpFlash.new("00667788")).decode()

    assert USER_PIN.decode() not in text
    assert USER_PIN.hex() not in text


def test_wiping_leaves_only_noise() -> None:
    """The KEK, the PINs, the objects and the keys are gone; their ciphertext, serial, reader and faults stay."""
    wiped = FULL.wiped()

    assert (wiped.kek, wiped.objects, wiped.keys, wiped.terminated) == (b"", {}, {}, True)
    assert set(wiped.pins.values()) == {Pin()}
    assert wiped.remains == (b"noise", b"more", b"sealed")
    assert (wiped.serial, wiped.faults, wiped.level) == (FULL.serial, FULL.faults, FULL.level)


def damaged(**changes: Any) -> bytes:
    """The JSON of a full card with other entries; `None` takes one away."""
    entry = {**json.loads(dump(FULL)), **changes}
    return json.dumps({key: value for key, value in entry.items() if value is not None}).encode()


KEY = {"sealed": "00", "public": "04", "source": 1}
PIN = {"tries": 3, "length": 6, "salt": "00", "digest": "00"}
PINS = dict.fromkeys(["user", "resetting", "admin"], PIN)


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"\0" * 100,
        b"{}",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"\xff\xfe",
        dump(FULL)[:-20],
        damaged(format=2),
        damaged(serial=None),
        damaged(serial="667788"),
        damaged(serial="0066778G"),
        damaged(serial=667788),
        damaged(serial="00 66 77"),
        damaged(kek=""),
        damaged(kek="00"),
        damaged(kek=7),
        damaged(terminated=True),
        damaged(pins={}),
        damaged(pins=PINS | {"user": PIN | {"tries": 4}}),
        damaged(pins=PINS | {"admin": PIN | {"tries": -1}}),
        damaged(pins=PINS | {"admin": PIN | {"digest": "zz"}}),
        damaged(signatures=1 << 24),
        damaged(signatures="many"),
        damaged(objects=[]),
        damaged(objects={"name": "00"}),
        damaged(keys={"backup": KEY}),
        damaged(keys={"signature": KEY | {"source": 3}}),
        damaged(keys={"signature": {}}),
        damaged(remains="0"),
        damaged(remains=None),
        damaged(faults=[{}]),
        damaged(faults=[{"do": "explode"}]),
        damaged(faults=[{"do": "hang", "whenever": 1}]),
        damaged(faults=[{"do": "hang", "when": "later"}]),
        damaged(faults=[{"do": "hang", "at": 1.5}]),
        damaged(faults=[{"do": "serial"}]),
        damaged(faults=[{"do": "serial", "serial": "12"}]),
        damaged(faults=["hang"]),
        damaged(faults=[{"do": "shrink", "length": 255}]),
        damaged(reader="character"),
        damaged(faults={"do": "hang"}),
    ],
)
def test_nothing_else_is_believed(contents: bytes) -> None:
    """Damage of any kind is a ValueError, and no other exception."""
    with pytest.raises(ValueError, match=r"."):
        load(contents)


@given(st.integers(0, len(dump(FULL)) - 1), st.binary(min_size=1, max_size=1))
def test_no_single_byte_breaks_the_reader(position: int, byte: bytes) -> None:
    """One changed byte gives a card or a ValueError."""
    contents = bytearray(dump(FULL))
    contents[position : position + 1] = byte
    with contextlib.suppress(ValueError):
        assert isinstance(load(bytes(contents)), OpenPgpFlash)


@pytest.mark.parametrize(
    ("contents", "serial"),
    [
        (damaged(kek=""), "00667788"),
        (damaged(serial="abcdef01", pins={}), "ABCDEF01"),
        (b"", ""),
        (b"[]", ""),
        (b"7", ""),
    ],
)
def test_the_serial_number_of_a_damaged_token_is_saved_where_possible(contents: bytes, serial: str) -> None:
    """A device whose memory is damaged still says its serial number on USB, if that is intact."""
    assert remnant(contents) == (OPENPGP, serial)
