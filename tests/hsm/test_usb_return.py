# SPDX-License-Identifier: Apache-2.0
"""A device that restarts is found where it comes back, and only if nothing else could be it."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import DeviceError, DeviceGone
from appliance.hsm import usb
from appliance.hsm.model import Attachment
from appliance.hsm.usb import UsbBus
from appliance.simulator.device import SimulatedDevice
from appliance.simulator.families import OPENPGP, load
from appliance.simulator.pyusb_backend import Handle, Place, SimulatedBackend
from appliance.simulator.token_file import TokenFile
from tests.support.tokens import make_token

LONG, SOON, NOW = 30.0, 0.05, 0.0  # seconds


class Backend(SimulatedBackend):
    """A bus on which a test puts devices, some of which nobody may open."""

    def __init__(self, folder: Path) -> None:
        super().__init__(lambda: list(self.places))
        self.places: list[Place] = []
        self.closed: set[int] = set()  # addresses
        self.looks = 0  # how often it was looked for devices
        self._looked = threading.Condition()
        self._folder = folder

    def put(self, address: int, usb_serial: str = "A1", ports: tuple[int, ...] | None = None) -> Attachment:
        """Plug a device in."""
        file = TokenFile(make_token(self._folder / f"{address}.token", "667788"))
        device = SimulatedDevice(file, OPENPGP, load(file.read()), usb_serial, lambda *_: None)
        self.places.append(Place(device, 1, address, ports))
        looks = OPENPGP.looks
        return Attachment("/sys/1-1", 1, address, 77, looks.vendor_id, looks.product_id, usb_serial)

    def take(self, address: int) -> None:
        """Pull it out."""
        self.places = [place for place in self.places if place.address != address]

    def enumerate_devices(self) -> Iterator[Place]:
        """All that is plugged in."""
        with self._looked:
            self.looks += 1
            self._looked.notify_all()
        return super().enumerate_devices()

    def seen(self) -> None:
        """Return when what is there now has been seen."""
        with self._looked:
            enough = self.looks + 3
            assert self._looked.wait_for(lambda: self.looks >= enough, LONG)

    def open_device(self, place: Place) -> Handle:
        """Open it, where that is allowed."""
        if place.address in self.closed:
            from usb.core import USBError

            raise USBError(os.strerror(errno.EACCES), None, errno.EACCES)
        return super().open_device(place)


class Clock:
    """What stands in for `time`: each look at the bus takes a second, and nothing else does."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def monotonic(self) -> float:
        """How late it is."""
        return float(self._backend.looks)

    def sleep(self, _: float) -> None:
        """Return at once."""


class Waiting:
    """Somebody waits for a device, and has not found it on the bus as it is."""

    def __init__(self, backend: Backend, old: Attachment) -> None:
        self._found: list[Attachment] = []
        self._thread = threading.Thread(target=lambda: self._found.append(UsbBus(backend).returned(old, LONG, LONG)))
        self._thread.start()
        backend.seen()
        assert self._found == []

    def found(self) -> Attachment:
        """What he finds in the end."""
        self._thread.join(LONG)
        (found,) = self._found
        return found


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """An empty bus."""
    monkeypatch.setattr(usb, "GLANCE", 0.001)
    return Backend(tmp_path)


def test_it_is_found_at_its_new_address(backend: Backend) -> None:
    """With all else as it was."""
    old = backend.put(5)
    backend.take(5)
    new = backend.put(6)

    assert UsbBus(backend).returned(old, LONG, LONG) == new


def test_it_is_waited_for(backend: Backend) -> None:
    """While the bus is empty, and while something else is there."""
    old = backend.put(5)
    backend.take(5)
    backend.put(7, "B2")
    waiting = Waiting(backend, old)
    new = backend.put(6)

    assert waiting.found() == new


def test_one_that_has_not_left_in_time_is_where_it_was(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was told has not made it restart; it was looked for until the time was over."""
    monkeypatch.setattr(usb, "time", Clock(backend))
    old = backend.put(5)

    assert UsbBus(backend).returned(old, 4.0, LONG) == old
    assert backend.looks == 4


def test_one_that_has_not_left_yet_is_not_taken(backend: Backend) -> None:
    """It is about to go."""
    old = backend.put(5)
    waiting = Waiting(backend, old)
    backend.take(5)
    new = backend.put(6)

    assert waiting.found() == new


def test_one_that_stays_away_is_gone(backend: Backend) -> None:
    """The sentence says what to do; another device is no consolation."""
    old = backend.put(5)
    backend.take(5)
    backend.put(6, "B2")

    with pytest.raises(DeviceGone, match="unplug it and plug it in again"):
        UsbBus(backend).returned(old, SOON, SOON)


@pytest.mark.parametrize("addresses", [(6, 7), (5, 6)])
def test_two_that_look_alike_are_none(backend: Backend, addresses: tuple[int, int]) -> None:
    """Which of them was reset, nobody can tell."""
    old = backend.put(5)
    backend.take(5)
    for address in addresses:
        (backend._folder / f"{address}.token").unlink(missing_ok=True)
        backend.put(address)

    with pytest.raises(DeviceError, match="more than one device"):
        UsbBus(backend).returned(old, NOW, LONG)


@pytest.mark.parametrize("ports", [(2,), (1, 1), (4, 1)])
def test_what_comes_up_in_another_port_is_another_device(backend: Backend, ports: tuple[int, ...]) -> None:
    """It may tell the same number, and be blank: nothing is read from it. In its own port the device is found."""
    old = backend.put(5, ports=(1,))
    backend.take(5)
    backend.put(6, ports=ports)
    with pytest.raises(DeviceGone, match="did not come back"):
        UsbBus(backend).returned(old, SOON, SOON)

    new = backend.put(7, ports=(1,))
    assert UsbBus(backend).returned(old, LONG, LONG) == new


def test_permission_may_come_late(backend: Backend) -> None:
    """The device is on the bus before udev has given it to us."""
    old = backend.put(5)
    backend.take(5)
    new = backend.put(6)
    backend.closed = {6}
    waiting = Waiting(backend, old)
    backend.closed = set()

    assert waiting.found() == new


def test_permission_that_does_not_come_is_the_reason(backend: Backend) -> None:
    """Not that it had stayed away."""
    old = backend.put(5)
    backend.take(5)
    backend.put(6)
    backend.closed = {6}

    with pytest.raises(DeviceError, match="no permission"):
        UsbBus(backend).returned(old, SOON, SOON)


def test_nothing_is_claimed_in_looking(backend: Backend) -> None:
    """A device of somebody else's is not disturbed."""
    old = backend.put(5)
    backend.take(5)
    backend.put(6, "B2")
    with pytest.raises(DeviceGone):
        UsbBus(backend).returned(old, SOON, SOON)

    assert [place.device.holder for place in backend.places] == [None]  # type: ignore[attr-defined]  # simulated
