# SPDX-License-Identifier: Apache-2.0
"""The driver resets a device behind a USB/IP server, over every layer that there is."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import DeviceGone, DeviceTimeout
from appliance.hsm.drivers import openpgp
from appliance.hsm.drivers.openpgp import OpenPgpDriver
from appliance.hsm.model import HsmState
from appliance.hsm.usb import UsbBus
from appliance.simulator import descriptors
from appliance.simulator.descriptors import Level
from appliance.simulator.faults import Fault, Misdeed, When
from tests.support.families import Kind, each_family
from tests.support.token_bus import TokenBus
from tests.support.usbip_client import UsbIpBackend
from tests.support.usbip_server import UsbIpServer


@pytest.fixture
def token(tmp_path: Path) -> TokenBus:
    """A token with keys, plugged in at the server."""
    token = TokenBus(tmp_path, with_keys=3)
    token.plug()
    return token


@pytest.fixture
def client(token: TokenBus) -> Iterator[UsbIpBackend]:
    """A client of the server."""
    with UsbIpServer(token.backend).running() as server:
        client = UsbIpBackend(*server.address)
        yield client
        client.detach()


def test_descriptors_come_over_the_network(client: UsbIpBackend) -> None:
    """Ids, iSerial and the class descriptor are those of the device."""
    attachment = client.attach()

    assert (attachment.usb_id, attachment.usb_serial) == ("234b:0000", "SIM-0.1-00667788")
    with UsbBus(client).open(attachment, descriptors.CCID_CLASS) as pipe:
        assert pipe.class_descriptor == descriptors.CCID[Level.APDU]
        assert pipe.packet_size == 64


@each_family
def test_a_token_is_reset_over_the_network(kind: Kind, tmp_path: Path) -> None:
    """Ids and iSerial are the family's; probe and reset go over one connection, the read-back over another."""
    bus = kind.bus(tmp_path, with_keys=3)
    plugged = bus.plug()
    with UsbIpServer(bus.backend).running() as server:
        client = UsbIpBackend(*server.address)
        with kind.reaching(client) as driver:
            attachment = client.attach()
            with driver.open(attachment) as connection:
                before = connection.probe()
                connection.factory_reset(lambda _: None, kind.secret)
            client.detach()
            with driver.open(client.attach()) as connection:
                after = connection.probe()
            client.detach()

    assert (attachment.usb_id, attachment.usb_serial) == (plugged.usb_id, plugged.usb_serial)
    assert (before.state, after.serial, after.state) == (HsmState.INITIALIZED, kind.serial, HsmState.ZEROIZED)
    assert not bus.flash.keys


def test_a_connection_cut_in_the_middle_is_resumed(client: UsbIpBackend, token: TokenBus) -> None:
    """Closed between TERMINATE DF and ACTIVATE FILE, the next connection finishes the reset."""
    driver = OpenPgpDriver(UsbBus(client))

    def cut(step: str) -> None:
        if step == "activating":
            client.detach()

    with pytest.raises(DeviceGone), driver.open(client.attach()) as connection:
        connection.factory_reset(cut)

    with driver.open(client.attach()) as connection:
        assert connection.probe().state is HsmState.TERMINATED
        connection.factory_reset(lambda _: None)
        assert connection.probe().state is HsmState.ZEROIZED


def test_a_silent_device_is_a_timeout(client: UsbIpBackend, token: TokenBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The read is taken back, and the connection goes on."""
    monkeypatch.setattr(openpgp, "PROBE_TIMEOUT", 0.2)
    token.plug(Fault(Misdeed.HANG, at="SELECT", when=When.BEFORE))
    attachment = client.attach()

    with pytest.raises(DeviceTimeout), OpenPgpDriver(UsbBus(client)).open(attachment) as connection:
        connection.probe()

    assert client.get_configuration(None) == 1


def test_a_stalled_endpoint_is_cleared(client: UsbIpBackend, token: TokenBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The STALL, its clearing and the timeout behind it pass the network."""
    token.plug(Fault(Misdeed.STALL, at="SELECT", times=1))
    with OpenPgpDriver(UsbBus(client)).open(client.attach()) as connection:
        with monkeypatch.context() as patch:
            patch.setattr(openpgp, "PROBE_TIMEOUT", 0.2)
            with pytest.raises(DeviceTimeout):
                connection.probe()
        assert connection.probe().serial == "667788"


def test_a_device_pulled_at_the_server_is_gone(client: UsbIpBackend, token: TokenBus) -> None:
    """In the middle of anything."""
    with OpenPgpDriver(UsbBus(client)).open(client.attach()) as connection:
        token.unplug()
        with pytest.raises(DeviceGone):
            connection.probe()


def test_nothing_at_the_server_is_no_device(client: UsbIpBackend, token: TokenBus) -> None:
    """An empty list of devices."""
    token.unplug()

    with pytest.raises(OSError, match="No such device") as caught:
        client.attach()

    assert caught.value.errno == errno.ENODEV


def test_an_unconfigured_device_is_configured(tmp_path: Path) -> None:
    """A device that no kernel has configured, as behind a server without one."""
    token = TokenBus(tmp_path)
    token.plug()
    place = next(iter(token.backend.enumerate_devices()))
    place.device.configuration = 0
    with UsbIpServer(token.backend).running() as server:
        client = UsbIpBackend(*server.address)
        with UsbBus(client).open(client.attach(), descriptors.CCID_CLASS):
            assert place.device.configuration == 1
        client.detach()


def test_a_closed_connection_is_an_unplugging(client: UsbIpBackend) -> None:
    """The attachment is gone with it."""
    attachment = client.attach()
    client.detach()

    with pytest.raises(DeviceGone), UsbBus(client).open(attachment, descriptors.CCID_CLASS):
        pytest.fail("opened")
