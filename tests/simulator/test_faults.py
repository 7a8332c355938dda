# SPDX-License-Identifier: Apache-2.0
"""A fault strikes the command that it names, as often as it says."""

from typing import Any

import pytest

from appliance.simulator.faults import Fault, Misdeed, When, name_of

SELECT, TERMINATE = bytes.fromhex("00A40400"), bytes.fromhex("00E60000")


@pytest.mark.parametrize(
    ("at", "number", "command", "strikes"),
    [
        (None, 1, SELECT, True),
        (2, 1, SELECT, False),
        (2, 2, SELECT, True),
        (2, 3, SELECT, False),
        ("SELECT", 9, SELECT, True),
        ("select", 9, SELECT, True),
        ("TERMINATE", 9, TERMINATE, True),
        ("TERMINATE DF", 9, TERMINATE, True),
        ("TERMINATE DF", 9, SELECT, False),
        ("TERMINATE", 9, b"", False),
        ("TERMINATE", 9, bytes.fromhex("00FF0000"), False),
    ],
)
def test_a_fault_strikes_where_it_should(at: int | str | None, number: int, command: bytes, strikes: bool) -> None:
    """By number, by name, by the beginning of a name, or always."""
    assert Fault(Misdeed.HANG, at=at).strikes(number, name_of(command)) is strikes


def test_a_fault_that_is_used_up_does_not_strike() -> None:
    """`times` of 0 is never, and busy is no matter of commands."""
    assert not Fault(Misdeed.HANG, times=0).strikes(1, "SELECT")
    assert not Fault(Misdeed.BUSY).strikes(1, "SELECT")


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"do": "hang"}, Fault(Misdeed.HANG)),
        ({"do": "vanish", "at": "ACTIVATE FILE"}, Fault(Misdeed.VANISH, at="ACTIVATE FILE")),
        ({"do": "vanish", "at": 4, "when": "before", "back": 1}, Fault(Misdeed.VANISH, 4, When.BEFORE, back=1)),
        ({"do": "short", "length": 3, "times": 2}, Fault(Misdeed.SHORT, times=2, length=3)),
        ({"do": "shrink", "length": 20, "times": 1}, Fault(Misdeed.SHRINK, times=1, length=20)),
        ({"do": "slow", "seconds": 0.5}, Fault(Misdeed.SLOW, seconds=0.5)),
        ({"do": "serial", "serial": "00000001"}, Fault(Misdeed.SERIAL, serial="00000001")),
    ],
)
def test_an_entry_means_what_it_says(entry: dict[str, Any], fault: Fault) -> None:
    """An entry is read, and written as it was."""
    assert Fault.parse(entry) == fault
    assert fault.as_json() == entry


@pytest.mark.parametrize(
    ("command", "name"), [(SELECT, "SELECT"), (TERMINATE, "TERMINATE DF"), (b"\0", ""), (b"\0\1\0\0", "")]
)
def test_commands_have_their_standard_names(command: bytes, name: str) -> None:
    """As the specifications write them."""
    assert name_of(command) == name
