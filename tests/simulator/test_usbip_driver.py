# SPDX-License-Identifier: Apache-2.0
"""The OpenPGP driver resets a device over USB/IP whatever happens to the device or to the connection meanwhile."""

import errno
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.errors import DeviceBusy, DeviceGone, DeviceTimeout
from appliance.hsm.drivers import openpgp
from appliance.hsm.drivers.openpgp import OpenPgpDriver
from appliance.hsm.model import Attachment, HsmState
from appliance.hsm.usb import UsbBus
from appliance.simulator import usbip_import
from appliance.simulator.device import SimulatedDevice
from appliance.simulator.faults import Fault, Misdeed, When
from tests.support.token_bus import TokenBus
from tests.support.usbip_client import UsbIpBackend
from tests.support.usbip_server import UsbIpServer, of_backend


class PulledAt(UsbIpBackend):
    """A client at whose n-th transfer, counted from its plug-in, the device is unplugged at the server."""

    def __init__(self, address: tuple[str, int], token: TokenBus, number: int) -> None:
        super().__init__(*address)
        self.transfers = 0
        self._token = token
        self._number = number

    def _submit(self, endpoint: int, direction: int, data: "array[int]", timeout: int, setup: bytes = bytes(8)) -> int:
        self.transfers += 1
        if self.transfers == self._number:
            self._token.unplug()
        return super()._submit(endpoint, direction, data, timeout, setup)


@pytest.fixture
def token(tmp_path: Path) -> TokenBus:
    """A token with keys, plugged in at the server."""
    token = TokenBus(tmp_path, with_keys=3)
    token.plug()
    return token


@pytest.fixture
def server(token: TokenBus) -> Iterator[UsbIpServer]:
    """The server with that token."""
    with UsbIpServer(token.backend).running() as server:
        yield server


def reset(client: UsbIpBackend) -> HsmState:
    """Attach, reset, read back, detach."""
    try:
        with OpenPgpDriver(UsbBus(client)).open(client.attach()) as connection:
            connection.factory_reset(lambda _: None)
            return connection.probe().state
    finally:
        client.detach()


def test_a_device_pulled_at_any_transfer_is_gone_and_can_be_reset(token: TokenBus, server: UsbIpServer) -> None:
    """From the first descriptor to the last answer of the read-back; the next plug-in completes the reset."""
    full = token.path.read_bytes()
    counting = PulledAt(server.address, token, 0)
    assert reset(counting) is HsmState.ZEROIZED
    assert counting.transfers > 20

    for number in range(1, counting.transfers + 1):
        token.path.write_bytes(full)
        token.plug()
        with pytest.raises((DeviceGone, OSError)) as caught:
            reset(PulledAt(server.address, token, number))
        assert isinstance(caught.value, DeviceGone) or getattr(caught.value, "errno", 0) == errno.ENODEV, number

        token.plug()
        assert reset(UsbIpBackend(*server.address)) is HsmState.ZEROIZED, number
        assert not token.flash.keys


def test_a_read_that_times_out_is_taken_back(
    token: TokenBus, server: UsbIpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device stays usable on the same connection, for its port can be reset: what hung is over."""
    token.plug(Fault(Misdeed.HANG, at="SELECT", when=When.BEFORE, times=1))
    client = UsbIpBackend(*server.address)
    driver, attachment = OpenPgpDriver(UsbBus(client)), client.attach()
    with monkeypatch.context() as patch:
        patch.setattr(openpgp, "PROBE_TIMEOUT", 0.2)
        with pytest.raises(DeviceTimeout), driver.open(attachment) as connection:
            connection.probe()

    client.set_configuration(None, 1)

    with driver.open(attachment) as connection:
        assert connection.probe().state is HsmState.INITIALIZED
    client.detach()


def test_two_clients_want_one_device(token: TokenBus, server: UsbIpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is told no, disturbs nothing, and gets the device when the first has left."""
    first, second = UsbIpBackend(*server.address), UsbIpBackend(*server.address)
    with OpenPgpDriver(UsbBus(first)).open(first.attach()) as connection:
        with monkeypatch.context() as patch:
            patch.setattr(usbip_import, "_BUSY_TIMEOUT", 0.05)
            with pytest.raises(OSError, match="No such device"):
                second.attach()
        second.detach()
        assert connection.probe().state is HsmState.INITIALIZED
    first.detach()

    assert reset(second) is HsmState.ZEROIZED


def test_a_local_program_and_a_client_want_one_device(
    token: TokenBus, server: UsbIpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program on the simulated bus itself finds the device busy while a client has it."""
    local = OpenPgpDriver(UsbBus(token.backend))
    client = UsbIpBackend(*server.address)
    attachment = token.plug()
    client.attach()
    with pytest.raises(DeviceBusy), local.open(attachment):
        pytest.fail("opened")
    client.detach()

    assert reset(client) is HsmState.ZEROIZED


def test_twenty_devices_are_reset_at_once(tmp_path: Path) -> None:
    """Each by a client of its own; every one is the right one, and blank."""
    tokens = []
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        tokens.append(TokenBus(folder, serial=f"{number:08}", with_keys=1))
    plugged: list[tuple[Attachment, SimulatedDevice]] = []
    for address, token in enumerate(tokens, start=2):
        token.plug(usb_serial=f"SIM-0.1-{address - 2:08}")
        ((found, device),) = of_backend(token.backend)()
        plugged.append((replace(found, address=address), device))

    with UsbIpServer(lambda: plugged).running() as server, ThreadPoolExecutor(20) as pool:
        clients = [UsbIpBackend(*server.address, bus_id=f"1-{address}") for address in range(2, 22)]
        assert list(pool.map(reset, clients)) == [HsmState.ZEROIZED] * 20

    assert all(not token.flash.keys for token in tokens)
