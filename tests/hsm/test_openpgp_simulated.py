# SPDX-License-Identifier: Apache-2.0
"""What the OpenPGP driver does with a simulated token that no other family has to."""

from pathlib import Path

import pytest

from appliance.errors import DeviceGone, ProtocolError, ResetUnsupported
from appliance.hsm.drivers.openpgp_contents import Tag
from appliance.hsm.model import HsmState
from appliance.simulator import openpgp_data
from appliance.simulator.descriptors import Level
from appliance.simulator.faults import Fault, Misdeed, When
from tests.support.families import OPENPGP

VERIFY, ACTIVATE, TERMINATE = 0x20, 0x44, 0xE6


@pytest.mark.parametrize(
    ("usb_serial", "alias"), [("FSIJ-1.2.19-EMULATED", "FSIJ-1.2.19-EMULATED"), ("FSIJ-1.2.10-00667788", ""), ("", "")]
)
def test_an_empty_token_tells_its_name_on_usb(tmp_path: Path, usb_serial: str, alias: str) -> None:
    """Where that does not contain its number; a token in use does not, for no reset of it can have come that far."""
    bus = OPENPGP.bus(tmp_path, with_keys=1)
    attachment = bus.plug(usb_serial=usb_serial)
    used = OPENPGP.probe(bus, attachment)
    OPENPGP.reset(bus, attachment)

    assert (used.alias, OPENPGP.probe(bus, attachment).alias) == ("", alias)


def test_without_life_cycle_management_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No try is spent and nothing is terminated on a card that would not come back."""
    monkeypatch.setitem(openpgp_data._FIXED, Tag.HISTORICAL_BYTES, bytes.fromhex("0031C573C00180009000"))
    bus = OPENPGP.bus(tmp_path, with_keys=1)
    attachment = bus.plug()

    assert "life-cycle" in OPENPGP.probe(bus, attachment).obstacle
    with pytest.raises(ResetUnsupported):
        OPENPGP.reset(bus, attachment)

    assert (bus.count(VERIFY), bus.count(TERMINATE), bus.count(ACTIVATE)) == (0, 0, 0)


def test_a_reset_cut_in_the_middle_is_finished(tmp_path: Path) -> None:
    """Pulled between TERMINATE DF and ACTIVATE FILE, the card waits for the second half and gets only that."""
    bus = OPENPGP.bus(tmp_path, with_keys=2)
    with pytest.raises(DeviceGone):
        OPENPGP.reset(bus, bus.plug(Fault(Misdeed.VANISH, at="ACTIVATE", when=When.BEFORE)))

    attachment = bus.plug()
    half = OPENPGP.probe(bus, attachment)
    assert (half.serial, half.state) == (None, HsmState.TERMINATED)

    bus.commands.clear()
    OPENPGP.reset(bus, attachment)
    assert (bus.count(VERIFY), bus.count(TERMINATE), bus.count(ACTIVATE)) == (0, 0, 1)
    assert (OPENPGP.probe(bus, attachment).serial, OPENPGP.probe(bus, attachment).state) == (
        "667788",
        HsmState.ZEROIZED,
    )


def test_a_card_with_another_serial_is_shown_as_such(tmp_path: Path) -> None:
    """A card that tells another number than USB does has its own, and both are told."""
    bus = OPENPGP.bus(tmp_path)

    probe = OPENPGP.probe(bus, bus.plug(Fault(Misdeed.SERIAL, serial="00112233")))

    assert (probe.serial, probe.conflict) == ("112233", "USB says 667788, the card says 112233")


@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("do", [Misdeed.GARBLE, Misdeed.LOSE, Misdeed.SHRINK], ids=str)
def test_a_bad_line_is_no_obstacle(do: Misdeed, when: When, tmp_path: Path) -> None:
    """Blocks of T=1 that are garbled or lost come again, and the card may ask for shorter ones, at every command."""
    bus = OPENPGP.bus(tmp_path, 1, Level.TPDU)
    attachment = bus.plug(Fault(do, when=when, times=1), *(Fault(do, at=at, when=when) for at in range(2, 60, 2)))

    OPENPGP.reset(bus, attachment)

    assert OPENPGP.probe(bus, attachment).state is HsmState.ZEROIZED
    assert bus.count(TERMINATE) == (2 if when is When.BEFORE and do is not Misdeed.SHRINK else 1)


@pytest.mark.parametrize("when", list(When))
def test_a_line_that_breaks_down_costs_no_command_twice(when: When, tmp_path: Path) -> None:
    """T=1 begins anew, but what the card may have had is not sent again: the reset fails, and the next is complete."""
    bus = OPENPGP.bus(tmp_path, level=Level.TPDU)
    attachment = bus.plug(Fault(Misdeed.DEAFEN, at="TERMINATE", when=when, times=1))
    with pytest.raises(ProtocolError):
        OPENPGP.reset(bus, attachment)
    assert bus.count(TERMINATE) == 1

    OPENPGP.reset(bus, attachment)
    assert OPENPGP.probe(bus, attachment).state is HsmState.ZEROIZED
