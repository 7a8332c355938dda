# SPDX-License-Identifier: Apache-2.0
"""Each driver resets its simulated token, and the next reset completes what any fault interrupted, at any step."""

import traceback
from pathlib import Path

import pytest

from appliance.errors import DeviceBusy, DeviceError, DeviceGone, SecretRefused
from appliance.hsm.model import HsmState, Secret
from appliance.simulator.descriptors import Level
from appliance.simulator.faults import Fault, Misdeed, When
from tests.support.families import AT_LEVELS, Kind, at_each_level

each_with_credential = pytest.mark.parametrize(
    ("kind", "level"),
    [pytest.param(kind, level, id=f"{kind.driver.family}-{level}") for kind, level in AT_LEVELS if kind.credential],
)

each_that_is_held = pytest.mark.parametrize(
    ("kind", "level"),
    [
        pytest.param(kind, level, id=f"{kind.driver.family}-{level}")
        for kind, level in AT_LEVELS
        if kind.busy is DeviceBusy  # a vendor's driver lets several programs in
    ],
)

SOON = 0.1  # seconds after which the tests take a silent device for hung


def commands_of_a_reset(kind: Kind, folder: Path) -> int:
    """How many commands a reset of a token in use sends to the card."""
    (folder / "measured").mkdir()
    bus = kind.bus(folder / "measured", 1)
    kind.reset(bus, bus.plug())
    return len(bus.commands)


@at_each_level
def test_a_token_with_keys_becomes_empty(kind: Kind, level: Level, tmp_path: Path) -> None:
    """Keys and their names are gone, also from the flash; the serial number stays."""
    bus = kind.bus(tmp_path, 3, level)
    attachment = bus.plug()
    before = kind.probe(bus, attachment)

    kind.reset(bus, attachment)
    after = kind.probe(bus, bus.here)

    assert (before.serial, before.state) == (kind.serial, HsmState.INITIALIZED)
    assert before.shortcomings
    assert (after.serial, after.state, after.shortcomings) == (kind.serial, HsmState.ZEROIZED, ())
    assert not bus.flash.keys


@at_each_level
def test_what_was_sealed_stays_sealed(kind: Kind, level: Level, tmp_path: Path) -> None:
    """The KEK is another one, and no ciphertext of an old key is in the file."""
    bus = kind.bus(tmp_path, 3, level)
    before = bus.flash
    kind.reset(bus, bus.plug())
    after = bus.path.read_text()

    assert bus.flash.kek != before.kek
    assert [key.sealed.hex() in after for key in before.keys.values()] == [False] * 3


@at_each_level
def test_a_probe_changes_nothing(kind: Kind, level: Level, tmp_path: Path) -> None:
    """However often a token is asked: no try is spent."""
    bus = kind.bus(tmp_path, 1, level)
    attachment = bus.plug()
    before = bus.flash
    for _ in range(3):
        kind.probe(bus, attachment)

    assert bus.flash == before


@at_each_level
def test_a_token_in_factory_state_can_be_reset(kind: Kind, level: Level, tmp_path: Path) -> None:
    """Twice is as good as once."""
    bus = kind.bus(tmp_path, level=level)
    attachment = bus.plug()
    kind.reset(bus, attachment)
    kind.reset(bus, bus.here)

    assert kind.probe(bus, bus.here).state is HsmState.ZEROIZED


@at_each_level
@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize(
    "fault",
    [Fault(Misdeed.VANISH), Fault(Misdeed.STALL), Fault(Misdeed.SHORT), Fault(Misdeed.HANG)],
    ids=lambda fault: fault.do,
)
def test_a_fault_at_any_step_is_survived(
    kind: Kind, level: Level, fault: Fault, when: When, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fault at each command of a reset ends in a device error, and the next reset is complete."""
    steps = commands_of_a_reset(kind, tmp_path)
    assert steps >= kind.commands
    for step in range(1, steps + 1):
        folder = tmp_path / str(step)
        folder.mkdir()
        bus = kind.bus(folder, 1, level)
        attachment = bus.plug(Fault(fault.do, at=step, when=when, length=kind.shortest - 1))

        with monkeypatch.context() as patched:
            kind.impatient(patched, SOON)
            with pytest.raises(DeviceError) as caught:
                kind.reset(bus, attachment)
            assert not isinstance(caught.value, SecretRefused)

        attachment = bus.plug()
        kind.reset(bus, attachment)
        assert kind.probe(bus, bus.here).state is HsmState.ZEROIZED


@at_each_level
def test_a_slow_card_is_waited_for(kind: Kind, level: Level, tmp_path: Path) -> None:
    """Time extensions are no failure."""
    bus = kind.bus(tmp_path, 1, level)
    attachment = bus.plug(Fault(Misdeed.SLOW, at=kind.decisive, seconds=0.6))

    kind.reset(bus, attachment)

    assert kind.probe(bus, bus.here).state is HsmState.ZEROIZED


@at_each_level
def test_a_busy_device_is_said_to_be(kind: Kind, level: Level, tmp_path: Path) -> None:
    """Somebody else holds the interface; nobody is thrown out."""
    bus = kind.bus(tmp_path, level=level)

    with pytest.raises(kind.busy):
        kind.probe(bus, bus.plug(Fault(Misdeed.BUSY)))


@each_that_is_held
def test_one_device_has_one_user(kind: Kind, level: Level, tmp_path: Path) -> None:
    """While it is open, another opening is refused; afterwards it is free."""
    bus = kind.bus(tmp_path, level=level)
    attachment = bus.plug()

    with kind.open(bus, attachment), pytest.raises(DeviceBusy), kind.open(bus, attachment):
        pytest.fail("opened twice")

    assert kind.probe(bus, attachment).serial == kind.serial


@at_each_level
def test_a_device_plugged_in_again_is_another_attachment(kind: Kind, level: Level, tmp_path: Path) -> None:
    """The old one is gone for good."""
    bus = kind.bus(tmp_path, level=level)
    old = bus.plug()
    bus.plug()

    with pytest.raises(DeviceGone):
        kind.probe(bus, old)


@at_each_level
def test_it_asks_for_what_a_reset_takes(kind: Kind, level: Level, tmp_path: Path) -> None:
    """For nothing, or for its PIN or password, with the tries that it has left."""
    bus = kind.bus(tmp_path, 1, level)
    credential = kind.probe(bus, bus.plug()).credential

    assert (credential is not None) == bool(kind.credential)
    assert credential is None or credential.tries_left == kind.tries


@each_with_credential
def test_a_wrong_credential_costs_one_try(kind: Kind, level: Level, tmp_path: Path) -> None:
    """Where they are counted, and nothing else; the device says what is left, and the right one still resets it."""
    bus = kind.bus(tmp_path, 2, level)
    attachment = bus.plug()
    before = bus.flash
    with kind.open(bus, attachment) as connection:
        with pytest.raises(SecretRefused) as caught:
            connection.factory_reset(lambda _: None, Secret(kind.wrong_credential))
        after = connection.probe().credential

    assert after is not None
    assert after.tries_left == (kind.tries - 1 if kind.tries else None)
    assert bus.flash.keys == before.keys
    assert kind.wrong_credential not in str(caught.value)
    kind.reset(bus, attachment)
    assert kind.probe(bus, bus.here).state is HsmState.ZEROIZED


@each_with_credential
@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("misdeed", [Misdeed.VANISH, Misdeed.STALL, Misdeed.SHORT, Misdeed.HANG])
def test_no_error_tells_a_credential(
    kind: Kind, level: Level, misdeed: Misdeed, when: When, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong with it under way: neither the error nor what led to it has it, as typed or as sent."""
    kind.impatient(monkeypatch, SOON)
    bus = kind.bus(tmp_path, 1, level)
    with pytest.raises(DeviceError) as caught:
        kind.reset(bus, bus.plug(Fault(misdeed, at=kind.decisive, when=when, length=kind.shortest - 1)))

    told = "".join(traceback.TracebackException.from_exception(caught.value).format()) + repr(caught.value)
    assert ", in reset\n" in told
    assert [form for form in kind.forms if form in told] == []
