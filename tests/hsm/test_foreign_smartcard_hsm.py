# SPDX-License-Identifier: Apache-2.0
"""The driver resets SmartCard-HSM firmware that is none of ours. IT ERASES THE DEVICE.

With APPLIANCE_VPCD=PORT the firmware connects there as to pcscd's virtual reader; APPLIANCE_VPCD_SERIAL must be the
serial number of its holder, and APPLIANCE_VPCD_SO_PIN the SO PIN if that is not the makers'. Without them it is our own
simulated card that connects.
"""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from appliance.errors import DeviceGone, SecretRefused
from appliance.hsm.ccid import INTERFACE_CLASS, Card, Command
from appliance.hsm.drivers.smartcard_hsm import (
    FACTORY_SO_PIN,
    FACTORY_USER_PIN,
    NITROKEY,
    PICO,
    SELECT,
    SmartcardHsmDriver,
)
from appliance.hsm.model import HsmState, Probe, Secret
from appliance.hsm.usb import UsbBus
from appliance.simulator import cvc
from appliance.simulator.iso7816 import tlv
from appliance.simulator.smartcard_hsm_card import SmartcardHsmCard
from appliance.simulator.smartcard_hsm_flash import SmartcardHsmFlash
from tests.support.scripted_usb import ScriptedUsb
from tests.support.vpcd import serve
from tests.support.vpcd_reader import BOUND, card_in_reader, listener

SERIAL = os.environ.get("APPLIANCE_VPCD_SERIAL", "DENK0403514")
SO_PIN = Secret(os.environ.get("APPLIANCE_VPCD_SO_PIN", FACTORY_SO_PIN))
WRONG = Secret("0123456789ABCDEF")
USB_ID = NITROKEY.vendor, NITROKEY.product
OK = 0x9000


class Firmware:
    """The device, opened for each use."""

    def __init__(self, usb: ScriptedUsb) -> None:
        self._bus = UsbBus(usb)
        self._driver = SmartcardHsmDriver(self._bus)
        self._attachment = usb.attachment

    def probe(self) -> Probe:
        """What the driver finds."""
        with self._driver.open(self._attachment) as connection:
            return connection.probe()

    def reset(self, so_pin: Secret = SO_PIN) -> None:
        """What the driver does."""
        with self._driver.open(self._attachment) as connection:
            connection.factory_reset(lambda _: None, so_pin)

    def generate_key(self) -> int:
        """Have it make a key with the user PIN of the factory, and return its status for that."""
        key = tlv(cvc.PUBLIC_KEY, cvc.ECDSA_WITH_SHA256 + tlv(0x81, cvc.PRIME))
        data = tlv(cvc.PROFILE, b"\0") + tlv(cvc.AUTHORITY, b"UTCA00001") + key + tlv(cvc.HOLDER, b"UTCDUMMY00001")
        with self._bus.open(self._attachment, INTERFACE_CLASS) as pipe:
            card = Card(pipe)
            card.power_on()
            assert card.transmit(SELECT).status == OK
            assert card.transmit(Command(0x20, p2=0x81, data=FACTORY_USER_PIN)).status == OK
            return card.transmit(Command(0x46, p1=1, data=data, le=65536)).status

    def await_dkek(self) -> int:
        """Have it initialised for a DKEK of one share, and return its status for that."""
        pins = tlv(0x81, FACTORY_USER_PIN) + tlv(0x82, bytes.fromhex(SO_PIN.text))
        data = tlv(0x80, b"\0\1") + pins + tlv(0x91, b"\3") + tlv(0x92, b"\1")
        with self._bus.open(self._attachment, INTERFACE_CLASS) as pipe:
            card = Card(pipe)
            card.power_on()
            assert card.transmit(SELECT).status == OK
            return card.transmit(Command(0x50, cla=0x80, data=data), 90.0).status


@pytest.fixture(scope="module")
def connected() -> Iterator[ScriptedUsb]:
    """The device in a reader that has its serial number, as the board of a pico-hsm has."""
    port = int(os.environ.get("APPLIANCE_VPCD", "0"))
    with listener(port) as server:
        if not port:
            ours = SmartcardHsmCard(SmartcardHsmFlash.new(SERIAL), lambda _: None)
            end = socket.create_connection(server.getsockname(), BOUND)
            threading.Thread(target=serve, args=(ours, end, lambda: None), daemon=True).start()
        with card_in_reader(server, SERIAL, USB_ID) as usb:
            yield usb


@pytest.fixture
def firmware(connected: ScriptedUsb) -> Firmware:
    """The device in factory state; only if it is the one that was named."""
    firmware = Firmware(connected)
    probe = firmware.probe()
    if probe.serial != SERIAL:
        pytest.fail(f"the device's serial number is {probe.serial}, not {SERIAL}")
    firmware.reset()
    assert firmware.probe().state is HsmState.ZEROIZED
    return firmware


def test_a_reset_restores_the_factory_state(firmware: Firmware) -> None:
    """The key is gone, the user PIN of the factory holds, and the serial number stays."""
    assert firmware.generate_key() == OK
    used = firmware.probe()
    firmware.reset()
    fresh = firmware.probe()

    assert (used.serial, used.state, dict(used.details)["Keys"]) == (SERIAL, HsmState.INITIALIZED, "1")
    assert (fresh.serial, fresh.state, fresh.shortcomings) == (SERIAL, HsmState.ZEROIZED, ())
    assert fresh.credential is not None
    assert fresh.credential.tries_left == 15
    assert firmware.generate_key() == OK


def test_a_reset_leaves_no_dkek(firmware: Firmware) -> None:
    """A device that awaits the shares of one is no longer in factory state, and tells so to everybody."""
    assert firmware.await_dkek() == OK
    awaiting = firmware.probe()
    firmware.reset()
    fresh = firmware.probe()

    assert (awaiting.state, dict(awaiting.details)["DKEK"]) == (HsmState.INITIALIZED, "1 share, 1 missing")
    assert (fresh.state, dict(fresh.details)["DKEK"]) == (HsmState.ZEROIZED, "none")


def test_a_wrong_so_pin_resets_only_what_takes_any(firmware: Firmware) -> None:
    """A genuine device counts a try and keeps its key; a pico-hsm takes it for its new one."""
    assert firmware.generate_key() == OK
    try:
        firmware.reset(WRONG)
    except SecretRefused:
        kept = firmware.probe()
        assert (kept.state, kept.credential and kept.credential.tries_left) == (HsmState.INITIALIZED, 14)
    else:
        assert firmware.probe().model == PICO.name
        assert firmware.probe().state is HsmState.ZEROIZED
    firmware.reset()


def test_a_probe_spends_no_try(firmware: Firmware) -> None:
    """The counters stay full."""
    first = firmware.probe()

    assert firmware.probe().details == first.details


def test_firmware_that_ends_is_gone() -> None:
    """When its connection breaks off, it was unplugged."""
    with listener() as server:
        end = socket.create_connection(server.getsockname(), BOUND)
        with card_in_reader(server, SERIAL, USB_ID) as usb:
            end.close()
            with pytest.raises(DeviceGone):
                Firmware(usb).probe()
