# SPDX-License-Identifier: Apache-2.0
"""Yubico's own package takes the simulated device for a YubiHSM 2, and for a blank one once our driver has reset it.

It comes over its own USB backend, which finds the device through pyusb; our driver's transport has no part in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from usb.backend import libusb1
from yubihsm.backends.usb import UsbBackend
from yubihsm.core import AuthSession, YubiHsm
from yubihsm.defs import ALGORITHM, CAPABILITY, ERROR, OBJECT
from yubihsm.exceptions import YubiHsmAuthenticationError, YubiHsmDeviceError
from yubihsm.objects import AsymmetricKey, AuthenticationKey

from appliance.hsm.drivers.yubihsm2 import YubiHsmDriver
from appliance.hsm.model import HsmState, Secret
from appliance.hsm.usb import UsbBus
from appliance.simulator.yubihsm_flash import PASSWORD_IN_USE
from tests.support.families import YUBIHSM
from tests.support.token_bus import TokenBus

SERIAL = 7550054
MESSAGE = b"a backup"


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokenBus:
    """A device with two keys, plugged in where Yubico's package looks."""
    bus = YUBIHSM.bus(tmp_path, with_keys=2)
    bus.plug()
    monkeypatch.setattr(libusb1, "get_backend", lambda *_, **__: bus.backend)
    return bus


@contextmanager
def device() -> Iterator[YubiHsm]:
    """The device, as the package finds it by its serial number."""
    with YubiHsm(UsbBackend(serial=SERIAL, timeout=10)) as hsm:
        yield hsm


@contextmanager
def session(password: str = PASSWORD_IN_USE, key: int = 1) -> Iterator[AuthSession]:
    """A session of the package's."""
    with device() as hsm, hsm.create_session_derived(key, password) as opened:
        yield opened


def sees() -> list[tuple[int, int]]:
    """The objects of a device in factory state."""
    with session("password") as opened:
        return [(found.id, found.object_type) for found in opened.list_objects()]


def test_it_reads_the_device(bus: TokenBus) -> None:
    """Serial number, version and part number; what is said to it comes back; its objects have names."""
    with device() as hsm:
        info = hsm.get_device_info()
    with session() as opened:
        labels = [found.get_info().label for found in opened.list_objects()]

    assert (info.serial, info.version, info.part_number) == (SERIAL, (2, 4, 1), "SIMULATED")
    assert labels == ["Operator", "key 1", "key 2"]


def test_a_wrong_password_opens_nothing(bus: TokenBus) -> None:
    """The package sees by the device's cryptogram that the password is wrong."""
    with pytest.raises(YubiHsmAuthenticationError), session("password"):
        pytest.fail("opened")


def test_a_key_that_is_not_there_opens_nothing(bus: TokenBus) -> None:
    """The device says so."""
    with pytest.raises(YubiHsmDeviceError) as caught, session(key=7):
        pytest.fail("opened")

    assert caught.value.code == ERROR.OBJECT_NOT_FOUND


def test_it_makes_a_key_and_signs_until_our_reset(bus: TokenBus) -> None:
    """Then the key is gone, exactly one object is left, the factory's password opens it and the old one does not."""
    with session() as opened:
        key = AsymmetricKey.generate(opened, 0, "mine", 1, CAPABILITY.SIGN_ECDSA, ALGORITHM.EC_P256)
        public: ec.EllipticCurvePublicKey = key.get_public_key()  # type: ignore[no-untyped-call]  # theirs
        public.verify(key.sign_ecdsa(MESSAGE), MESSAGE, ec.ECDSA(SHA256()))
        assert len(opened.list_objects()) == 4

    YUBIHSM.reset(bus, bus.here)

    assert sees() == [(1, OBJECT.AUTHENTICATION_KEY)]
    with pytest.raises(YubiHsmAuthenticationError), session():
        pytest.fail("opened")
    with session("password") as opened, pytest.raises(YubiHsmDeviceError) as caught:
        opened.get_object(key.id, OBJECT.ASYMMETRIC_KEY).get_info()
    assert caught.value.code == ERROR.OBJECT_NOT_FOUND


def test_what_it_resets_is_blank_to_us(bus: TokenBus) -> None:
    """After the package's own reset the device has come back, and our driver finds it in factory state."""
    before = bus.here
    with session() as opened:
        opened.reset_device()

    assert bus.here != before
    assert sees() == [(1, OBJECT.AUTHENTICATION_KEY)]
    assert YUBIHSM.probe(bus, bus.here).state is HsmState.ZEROIZED


def test_an_authentication_key_that_it_makes_resets_in_our_driver(bus: TokenBus) -> None:
    """The one that is configured is used, whichever it is."""
    may = CAPABILITY.RESET_DEVICE
    with session() as opened:
        AuthenticationKey.put_derived(opened, 9, "resetter", 0xFFFF, may, CAPABILITY.NONE, "a long password")

    driver = YubiHsmDriver(UsbBus(bus.backend), authentication_key=9)
    with driver.open(bus.here) as connection:
        connection.factory_reset(lambda _: None, Secret("a long password"))

    assert sees() == [(1, OBJECT.AUTHENTICATION_KEY)]


def test_a_password_that_it_changes_is_the_new_one(bus: TokenBus) -> None:
    """Also when it is changed back to the factory's: then the key is another nevertheless, and our driver says so."""
    with session() as opened:
        AuthenticationKey(opened, 1).change_password("password")

    assert len(sees()) == 3
    probe = YUBIHSM.probe(bus, bus.here)
    assert probe.state is HsmState.INITIALIZED
    assert probe.shortcomings == (
        "the factory's authentication key was replaced",
        "3 objects are present, not one",
    )
    assert probe.credential is None


def test_it_deletes_a_key(bus: TokenBus) -> None:
    """One object fewer."""
    with session() as opened:
        opened.get_object(2, OBJECT.ASYMMETRIC_KEY).delete()

        assert len(opened.list_objects()) == 2
    assert list(bus.flash.keys) == [1]
