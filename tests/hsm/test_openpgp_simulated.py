# SPDX-License-Identifier: Apache-2.0
"""The driver resets a simulated token, and finishes whatever fault interrupted it, at any step."""

from pathlib import Path

import pytest

from appliance.errors import DeviceBusy, DeviceError, DeviceGone, ProtocolError, ResetUnsupported, SerialMismatch
from appliance.hsm.drivers import openpgp
from appliance.hsm.drivers.openpgp import OpenPgpDriver
from appliance.hsm.drivers.openpgp_contents import Tag
from appliance.hsm.model import Attachment, HsmState, Probe
from appliance.hsm.usb import UsbBus
from appliance.simulator import openpgp_data
from appliance.simulator.descriptors import Level
from appliance.simulator.faults import Fault, Misdeed, When
from tests.support.token_bus import TokenBus

VERIFY, ACTIVATE, TERMINATE = 0x20, 0x44, 0xE6
SOON = 0.1  # seconds after which the tests take a silent device for hung


def probe(bus: TokenBus, attachment: Attachment) -> Probe:
    """What the driver finds."""
    with OpenPgpDriver(UsbBus(bus.backend)).open(attachment) as connection:
        return connection.probe()


def reset(bus: TokenBus, attachment: Attachment) -> None:
    """What the driver does."""
    with OpenPgpDriver(UsbBus(bus.backend)).open(attachment) as connection:
        connection.factory_reset(lambda _: None)


@pytest.fixture(params=list(Level))
def level(request: pytest.FixtureRequest) -> Level:
    """What is exchanged with the reader: every test here holds at each level."""
    chosen: Level = request.param
    return chosen


@pytest.fixture
def commands_of_a_reset(tmp_path: Path, level: Level) -> int:
    """How many commands a reset of a token in use sends to the card."""
    (tmp_path / "measured").mkdir()
    bus = TokenBus(tmp_path / "measured", level=level)
    reset(bus, bus.plug())
    return len(bus.commands)


def test_a_token_with_keys_becomes_empty(tmp_path: Path, level: Level) -> None:
    """Keys and their names are gone, also from the flash; the serial number stays."""
    bus = TokenBus(tmp_path, with_keys=3, level=level)
    attachment = bus.plug()
    before = probe(bus, attachment)

    with OpenPgpDriver(UsbBus(bus.backend)).open(attachment) as connection:
        connection.factory_reset(lambda _: None)
        after = connection.probe()

    assert (before.serial, before.state) == ("667788", HsmState.INITIALIZED)
    assert len(before.shortcomings) >= 3
    assert (after.serial, after.state, after.shortcomings) == ("667788", HsmState.ZEROIZED, ())
    assert not bus.flash.keys
    assert not bus.flash.remains


@pytest.mark.parametrize(
    ("usb_serial", "alias"), [("FSIJ-1.2.19-EMULATED", "FSIJ-1.2.19-EMULATED"), ("FSIJ-1.2.10-00667788", ""), ("", "")]
)
def test_an_empty_token_tells_its_name_on_usb(tmp_path: Path, level: Level, usb_serial: str, alias: str) -> None:
    """Where that does not contain its number; a token in use does not, for no reset of it can have come that far."""
    bus = TokenBus(tmp_path, with_keys=1, level=level)
    attachment = bus.plug(usb_serial=usb_serial)
    used = probe(bus, attachment)
    reset(bus, attachment)

    assert (used.alias, probe(bus, attachment).alias) == ("", alias)


def test_a_probe_spends_no_try(tmp_path: Path, level: Level) -> None:
    """However often a token is asked."""
    bus = TokenBus(tmp_path, with_keys=1, level=level)
    before = bus.flash.pins
    for _ in range(3):
        probe(bus, bus.plug())

    assert bus.count(VERIFY) == 0
    assert bus.flash.pins == before


def test_a_token_in_factory_state_can_be_reset(tmp_path: Path, level: Level) -> None:
    """Twice is as good as once."""
    bus = TokenBus(tmp_path, level=level)
    attachment = bus.plug()
    reset(bus, attachment)
    reset(bus, attachment)

    assert probe(bus, attachment).state is HsmState.ZEROIZED


def test_without_life_cycle_management_nothing_happens(
    tmp_path: Path, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No try is spent and nothing is terminated on a card that would not come back."""
    monkeypatch.setitem(openpgp_data._FIXED, Tag.HISTORICAL_BYTES, bytes.fromhex("0031C573C00180009000"))
    bus = TokenBus(tmp_path, with_keys=1, level=level)
    attachment = bus.plug()

    assert "life-cycle" in probe(bus, attachment).obstacle
    with pytest.raises(ResetUnsupported):
        reset(bus, attachment)

    assert (bus.count(VERIFY), bus.count(TERMINATE), bus.count(ACTIVATE)) == (0, 0, 0)


def test_a_reset_cut_in_the_middle_is_finished(tmp_path: Path, level: Level) -> None:
    """Pulled between TERMINATE DF and ACTIVATE FILE, the card waits for the second half and gets only that."""
    bus = TokenBus(tmp_path, with_keys=2, level=level)
    with pytest.raises(DeviceGone):
        reset(bus, bus.plug(Fault(Misdeed.VANISH, at="ACTIVATE", when=When.BEFORE)))

    attachment = bus.plug()
    half = probe(bus, attachment)
    assert (half.serial, half.state) == (None, HsmState.TERMINATED)

    bus.commands.clear()
    reset(bus, attachment)
    assert (bus.count(VERIFY), bus.count(TERMINATE), bus.count(ACTIVATE)) == (0, 0, 1)
    assert (probe(bus, attachment).serial, probe(bus, attachment).state) == ("667788", HsmState.ZEROIZED)


@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize(
    "fault",
    [Fault(Misdeed.VANISH), Fault(Misdeed.STALL), Fault(Misdeed.SHORT, length=11), Fault(Misdeed.HANG)],
    ids=lambda fault: fault.do,
)
def test_a_fault_at_any_step_is_survived(
    fault: Fault, when: When, tmp_path: Path, level: Level, monkeypatch: pytest.MonkeyPatch, commands_of_a_reset: int
) -> None:
    """Each fault at each command of a reset ends in a device error, and the next reset is complete."""
    assert commands_of_a_reset > 10
    for step in range(1, commands_of_a_reset + 1):
        folder = tmp_path / str(step)
        folder.mkdir()
        bus = TokenBus(folder, level=level)
        attachment = bus.plug(Fault(fault.do, at=step, when=when, length=fault.length))

        with monkeypatch.context() as patched:
            patched.setattr(openpgp, "PROBE_TIMEOUT", SOON)
            patched.setattr(openpgp, "RESET_TIMEOUT", SOON)
            with pytest.raises(DeviceError):
                reset(bus, attachment)

        attachment = bus.plug()
        reset(bus, attachment)
        assert probe(bus, attachment).state is HsmState.ZEROIZED


def test_a_slow_card_is_waited_for(tmp_path: Path, level: Level) -> None:
    """Time extensions are no failure."""
    bus = TokenBus(tmp_path, level=level)
    attachment = bus.plug(Fault(Misdeed.SLOW, at="TERMINATE", seconds=0.6))

    reset(bus, attachment)

    assert probe(bus, attachment).state is HsmState.ZEROIZED


@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("do", [Misdeed.GARBLE, Misdeed.LOSE, Misdeed.SHRINK], ids=str)
def test_a_bad_line_is_no_obstacle(do: Misdeed, when: When, tmp_path: Path) -> None:
    """Blocks of T=1 that are garbled or lost come again, and the card may ask for shorter ones, at every command."""
    bus = TokenBus(tmp_path, with_keys=1, level=Level.TPDU)
    attachment = bus.plug(Fault(do, when=when, times=1), *(Fault(do, at=at, when=when) for at in range(2, 60, 2)))

    reset(bus, attachment)

    assert probe(bus, attachment).state is HsmState.ZEROIZED
    assert bus.count(TERMINATE) == (2 if when is When.BEFORE and do is not Misdeed.SHRINK else 1)


@pytest.mark.parametrize("when", list(When))
def test_a_line_that_breaks_down_costs_no_command_twice(when: When, tmp_path: Path) -> None:
    """T=1 begins anew, but what the card may have had is not sent again: the reset fails, and the next is complete."""
    bus = TokenBus(tmp_path, level=Level.TPDU)
    attachment = bus.plug(Fault(Misdeed.DEAFEN, at="TERMINATE", when=when, times=1))
    with pytest.raises(ProtocolError):
        reset(bus, attachment)
    assert bus.count(TERMINATE) == 1

    reset(bus, attachment)
    assert probe(bus, attachment).state is HsmState.ZEROIZED


def test_a_busy_device_is_said_to_be(tmp_path: Path, level: Level) -> None:
    """Somebody else holds the interface; nobody is thrown out."""
    bus = TokenBus(tmp_path, level=level)

    with pytest.raises(DeviceBusy):
        probe(bus, bus.plug(Fault(Misdeed.BUSY)))


def test_one_device_has_one_user(tmp_path: Path, level: Level) -> None:
    """While it is open, another opening is refused; afterwards it is free."""
    bus = TokenBus(tmp_path, level=level)
    attachment = bus.plug()
    driver = OpenPgpDriver(UsbBus(bus.backend))

    with driver.open(attachment), pytest.raises(DeviceBusy), driver.open(attachment):
        pytest.fail("opened twice")

    assert probe(bus, attachment).serial == "667788"


def test_a_device_plugged_in_again_is_another_attachment(tmp_path: Path, level: Level) -> None:
    """The old one is gone for good."""
    bus = TokenBus(tmp_path, level=level)
    old = bus.plug()
    bus.plug()

    with pytest.raises(DeviceGone):
        probe(bus, old)


def test_a_card_with_another_serial_is_a_mismatch(tmp_path: Path, level: Level) -> None:
    """A card that tells another number than USB does is not taken for either."""
    bus = TokenBus(tmp_path, level=level)

    with pytest.raises(SerialMismatch) as caught:
        probe(bus, bus.plug(Fault(Misdeed.SERIAL, serial="00112233")))

    assert (caught.value.expected, caught.value.found) == ("667788", "112233")
