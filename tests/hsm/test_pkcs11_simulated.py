# SPDX-License-Identifier: Apache-2.0
"""What is particular to simulated devices behind a PKCS#11 library: slots used again, numbers that differ."""

from pathlib import Path

import pytest

from appliance.errors import DeviceError, DeviceGone, DeviceRefused, SerialMismatch
from appliance.hsm.model import HsmState, Secret
from appliance.hsm.pkcs11.client import loaded
from appliance.simulator.faults import Fault, Misdeed, When
from appliance.simulator.vendor_library import compiler
from tests.support.families import LUNA, PKCS11, Kind

pytestmark = pytest.mark.skipif(compiler() is None, reason="not installed: cc")
each = pytest.mark.parametrize("kind", [LUNA, PKCS11], ids=["luna", "pkcs11"])


@each
def test_a_token_plugged_in_again_is_not_the_one_that_was_opened(kind: Kind, tmp_path: Path) -> None:
    """It has the same number and is in the same slot of the library; nothing is reset."""
    bus = kind.bus(tmp_path, 2)
    with kind.open(bus, bus.plug()) as connection:
        connection.probe()
        bus.plug()
        with pytest.raises(DeviceGone):
            connection.factory_reset(lambda _: None, kind.secret)

    assert len(bus.flash.keys) == 2
    assert kind.probe(bus, bus.here).state is HsmState.INITIALIZED


@each
def test_a_token_that_is_pulled_out_is_gone(kind: Kind, tmp_path: Path) -> None:
    """Its slot is there, and empty."""
    bus = kind.bus(tmp_path, 1)
    with kind.open(bus, bus.plug()) as connection:
        bus.unplug()
        with pytest.raises(DeviceGone):
            connection.probe()


def test_a_slot_that_is_not_there_is_nobody_elses(tmp_path: Path) -> None:
    """The library takes no number for a smaller one."""
    bus = LUNA.bus(tmp_path, 1)
    bus.plug()
    with LUNA.served(bus.backend) as path, loaded(path) as library:
        assert [token.slot for token in library.tokens()] == [0]
        for slot in (1, 256, 1 << 32):
            with pytest.raises(DeviceGone):
                library.factory_reset(slot)

    assert bus.flash.keys


def test_a_luna_with_two_numbers_is_not_reset(tmp_path: Path) -> None:
    """One that USB tells and one that the HSM tells."""
    bus = LUNA.bus(tmp_path, 1)
    here = bus.plug(Fault(Misdeed.SERIAL, when=When.BEFORE, serial="00112233"))
    with LUNA.open(bus, here) as connection, pytest.raises(SerialMismatch, match="112233"):
        connection.probe()


def test_a_token_with_two_numbers_says_so(tmp_path: Path) -> None:
    """Both, in a conflict that does not hinder a reset."""
    bus = PKCS11.bus(tmp_path, 1)
    probe = PKCS11.probe(bus, bus.plug(Fault(Misdeed.SERIAL, when=When.BEFORE, serial="00112233")))

    assert (probe.serial, probe.conflict) == ("00112233", "USB says A4711, the token says 00112233")


def test_a_locked_so_pin_is_an_obstacle(tmp_path: Path) -> None:
    """The last try is announced before; then the right PIN is refused, too."""
    bus = PKCS11.bus(tmp_path, 1)
    here = bus.plug()
    for _ in range(bus.flash.SO_TRIES):
        credential = PKCS11.probe(bus, here).credential
        with PKCS11.open(bus, here) as connection, pytest.raises(DeviceError):
            connection.factory_reset(lambda _: None, Secret("wrong-pin"))
    assert credential is not None
    assert credential.tries_left == 1
    assert PKCS11.probe(bus, here).obstacle == "its SO PIN is locked"
    with pytest.raises(DeviceRefused, match="the SO PIN is locked"):
        PKCS11.reset(bus, here)
    assert len(bus.flash.keys) == 1
