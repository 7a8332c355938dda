# SPDX-License-Identifier: Apache-2.0
"""The driver resets OpenPGP firmware that is none of ours. IT ERASES THE DEVICE.

Collected only with APPLIANCE_USBIP=HOST:PORT, a USB/IP server. APPLIANCE_USBIP_SERIAL must be the serial number that
the card tells; a device with another one is left alone.
"""

import os
from collections.abc import Iterator

import pytest

from appliance.errors import DeviceGone
from appliance.hsm.ccid import INTERFACE_CLASS, Card, Command
from appliance.hsm.drivers.openpgp import SELECT, OpenPgpDriver
from appliance.hsm.drivers.openpgp_contents import Tag
from appliance.hsm.model import HsmState, Probe
from appliance.hsm.usb import UsbBus
from tests.support.usbip_client import UsbIpBackend

OK = 0x9000
ADMIN_PIN = b"12345678"
# OpenPGP card specification, 4.3.2: iterated and salted SHA-256, with what the default PINs are to become.
KEY_DERIVATION = bytes.fromhex(
    "810103 820108 83040000FFFF 84080102030405060708 85081112131415161718 86082122232425262728"
) + b"".join(bytes([tag, 32, *range(tag, tag + 32)]) for tag in (0x87, 0x88))


class Firmware:
    """The device, which is unplugged and plugged in again for each use."""

    def __init__(self) -> None:
        host, _, port = os.environ.get("APPLIANCE_USBIP", "").rpartition(":")
        if not host:
            pytest.fail("APPLIANCE_USBIP must be HOST:PORT of a USB/IP server")
        self.client = UsbIpBackend(host, int(port))
        self.driver = OpenPgpDriver(UsbBus(self.client))

    def probe(self) -> Probe:
        """What the driver finds."""
        try:
            with self.driver.open(self.client.attach()) as connection:
                return connection.probe()
        finally:
            self.client.detach()

    def reset(self, cut_before: str = "") -> None:
        """What the driver does; the plug is pulled when the step of that name begins."""

        def progress(step: str) -> None:
            if step == cut_before:
                self.client.detach()

        try:
            with self.driver.open(self.client.attach()) as connection:
                connection.factory_reset(progress)
        finally:
            self.client.detach()

    def put(self, tag: int, value: bytes) -> int:
        """Write a data object with the admin PIN of the factory, and return the card's status for it."""
        try:
            with UsbBus(self.client).open(self.client.attach(), INTERFACE_CLASS) as pipe:
                card = Card(pipe)
                card.power_on()
                assert card.transmit(SELECT).status == OK
                assert card.transmit(Command(0x20, p2=0x83, data=ADMIN_PIN)).status == OK
                return card.transmit(Command(0xDA, p1=tag >> 8, p2=tag & 0xFF, data=value)).status
        finally:
            self.client.detach()


@pytest.fixture
def firmware() -> Iterator[Firmware]:
    """The device, in factory state; only if it is the one that was named."""
    firmware = Firmware()
    wanted = firmware.driver.normalise(os.environ.get("APPLIANCE_USBIP_SERIAL", ""))
    if not wanted:
        pytest.fail("APPLIANCE_USBIP_SERIAL must name the device that may be erased")
    probe = firmware.probe()
    # A terminated card cannot tell its number, and has nothing left that could be destroyed.
    if probe.serial not in (None, wanted):
        pytest.fail(f"the device's serial number is {probe.serial}, not {wanted}")
    firmware.reset()
    assert firmware.probe().serial == wanted
    yield firmware
    firmware.client.detach()


def test_a_reset_restores_the_factory_state(firmware: Firmware) -> None:
    """What was written is gone, the PIN of the factory holds, and the serial number stays."""
    serial = firmware.probe().serial
    assert firmware.put(Tag.NAME, b"Foreign<<Firmware") == OK
    used = firmware.probe()
    assert (used.state, used.label) == (HsmState.INITIALIZED, "Foreign Firmware")

    firmware.reset()

    fresh = firmware.probe()
    assert (fresh.serial, fresh.state, fresh.shortcomings, fresh.label) == (serial, HsmState.ZEROIZED, (), "")
    assert firmware.put(Tag.LOGIN_DATA, b"with the PIN of the factory") == OK


def test_a_reset_with_key_derivation(firmware: Firmware) -> None:
    """Where PINs are sent as hashes, hashes block them."""
    if firmware.put(Tag.KEY_DERIVATION, KEY_DERIVATION) != OK:
        pytest.skip("this card has no key derivation")

    firmware.reset()

    assert firmware.probe().state is HsmState.ZEROIZED
    assert firmware.put(Tag.LOGIN_DATA, b"with the plain PIN again") == OK


@pytest.mark.parametrize("step", ["blocking the admin PIN", "terminating"])
def test_a_reset_cut_before_the_end_of_use(firmware: Firmware, step: str) -> None:
    """With blocked PINs the card is still in use, and the next reset is complete."""
    with pytest.raises(DeviceGone):
        firmware.reset(cut_before=step)
    assert firmware.probe().state is HsmState.INITIALIZED

    firmware.reset()

    assert firmware.probe().state is HsmState.ZEROIZED


def test_a_reset_cut_between_the_halves(firmware: Firmware) -> None:
    """The card waits for ACTIVATE FILE, and the next reset gives it that."""
    with pytest.raises(DeviceGone):
        firmware.reset(cut_before="activating")
    half = firmware.probe()
    assert (half.state, half.serial) == (HsmState.TERMINATED, None)

    firmware.reset()

    assert firmware.probe().state is HsmState.ZEROIZED


def test_a_probe_spends_no_try(firmware: Firmware) -> None:
    """The counters stay full."""
    first = firmware.probe()

    assert firmware.probe().details == first.details
