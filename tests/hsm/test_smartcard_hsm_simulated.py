# SPDX-License-Identifier: Apache-2.0
"""What the SmartCard-HSM driver does with a simulated token that no other family has to."""

from dataclasses import replace
from pathlib import Path

import pytest

from appliance.errors import DeviceError, ResetUnsupported
from appliance.hsm.ccid import INTERFACE_CLASS, Card, Command
from appliance.hsm.model import HsmState
from appliance.hsm.usb import UsbBus
from appliance.simulator.descriptors import Level
from appliance.simulator.faults import Fault, Misdeed, When
from appliance.simulator.iso7816 import tlv
from appliance.simulator.memory import dump
from appliance.simulator.smartcard_hsm_card import APPLICATION
from appliance.simulator.smartcard_hsm_dkek import Dkek
from appliance.simulator.smartcard_hsm_flash import USER_PIN
from tests.support.families import SMARTCARD_HSM

INITIALIZE = 0x50


def test_two_serials_are_a_conflict(tmp_path: Path) -> None:
    """A card that tells another number than USB does is shown with both, and cannot be reset."""
    bus = SMARTCARD_HSM.bus(tmp_path)
    probe = SMARTCARD_HSM.probe(bus, bus.plug(Fault(Misdeed.SERIAL, serial="00112233")))

    assert probe.serial == "00112233"
    assert probe.conflict == "USB says DENK0403514, the card says 00112233"
    assert probe.obstacle


def test_a_device_that_was_never_initialised_is_made_as_delivered(tmp_path: Path) -> None:
    """Without a PIN being asked for; from then on it has one."""
    bus = SMARTCARD_HSM.bus(tmp_path)
    bus.path.write_bytes(dump(replace(bus.flash, so=None, user=None)))
    attachment = bus.plug()
    before = SMARTCARD_HSM.probe(bus, attachment)
    with SMARTCARD_HSM.open(bus, attachment) as connection:
        connection.factory_reset(lambda _: None)
        after = connection.probe()

    assert (before.state, before.credential) == (HsmState.ZEROIZED, None)
    assert (after.state, dict(after.details)["PIN tries left"]) == (HsmState.ZEROIZED, "user 3, SO 15")
    SMARTCARD_HSM.reset(bus, attachment)


def test_a_reset_destroys_the_dkek(tmp_path: Path) -> None:
    """A device without keys that has one is in use. Afterwards it says that it has none, and its file has none."""
    bus = SMARTCARD_HSM.bus(tmp_path)
    dkek = Dkek.awaited(bus.flash.kek, 1).with_share(bus.flash.kek, bytes(range(32)))
    bus.path.write_bytes(dump(replace(bus.flash, dkek=dkek)))
    attachment = bus.plug()
    before = SMARTCARD_HSM.probe(bus, attachment)
    SMARTCARD_HSM.reset(bus, attachment)
    after = SMARTCARD_HSM.probe(bus, attachment)

    told = "1 share, key check value 630DCD2966C43366"
    assert (before.state, before.shortcomings) == (HsmState.INITIALIZED, (f"a DKEK is set up ({told})",))
    assert (after.state, after.shortcomings) == (HsmState.ZEROIZED, ())
    assert (dict(before.details)["DKEK"], dict(after.details)["DKEK"]) == (told, "none")
    assert dkek.sealed.hex() not in bus.path.read_text()


def test_the_last_tries_are_left_alone(tmp_path: Path) -> None:
    """With three of them, not even the right SO PIN is sent."""
    bus = SMARTCARD_HSM.bus(tmp_path, with_keys=1)
    bus.path.write_bytes(dump(replace(bus.flash, so=replace(bus.flash.so, tries=3))))
    attachment = bus.plug()

    assert "3 of 15 tries left" in SMARTCARD_HSM.probe(bus, attachment).obstacle
    with pytest.raises(ResetUnsupported):
        SMARTCARD_HSM.reset(bus, attachment)
    assert bus.count(INITIALIZE) == 0


@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("misdeed", [Misdeed.HANG, Misdeed.STALL, Misdeed.SHORT])
def test_the_command_is_sent_once(
    tmp_path: Path, misdeed: Misdeed, when: When, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when its answer is lost: each time could cost a try."""
    monkeypatch.setattr(SMARTCARD_HSM.module, "RESET_TIMEOUT", 0.1)
    bus = SMARTCARD_HSM.bus(tmp_path)
    attachment = bus.plug(Fault(misdeed, at="INITIALIZE", when=when, length=11))
    with pytest.raises(DeviceError):
        SMARTCARD_HSM.reset(bus, attachment)

    assert bus.count(INITIALIZE) == 1


@pytest.mark.parametrize("level", [Level.EXTENDED, Level.TPDU])
def test_long_commands_and_answers_pass(tmp_path: Path, level: Level) -> None:
    """A file that fits into no message is written with one command and read with another, in parts of either kind."""
    bus = SMARTCARD_HSM.bus(tmp_path, level=level)
    contents = bytes(range(256)) * 5
    file = tlv(0x54, b"\0\0") + tlv(0x53, contents)
    with UsbBus(bus.backend).open(bus.plug(), INTERFACE_CLASS) as pipe:
        card = Card(pipe)
        card.power_on()
        answers = [
            card.transmit(command)
            for command in (
                Command(0xA4, 0x04, data=APPLICATION, le=256),
                Command(0x20, p2=0x81, data=USER_PIN),
                Command(0xD7, 0xCF, 0x01, data=file, le=65536),
                Command(0xB1, 0xCF, 0x01, data=tlv(0x54, b"\0\0"), le=65536),
            )
        ]

    assert [answer.status for answer in answers] == [0x9000, 0x9000, 0x9000, 0x6282]
    assert answers[-1].data == contents
