# SPDX-License-Identifier: Apache-2.0
"""Yubico's own package takes the simulated device for a YubiHSM 2, and for a blank one once our driver has reset it.

It comes over its own USB backend, which finds the device through pyusb; our driver's transport has no part in it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from usb.backend import libusb1
from yubihsm.backends.usb import UsbBackend
from yubihsm.core import AuthSession, YubiHsm
from yubihsm.defs import ALGORITHM, CAPABILITY, COMMAND, ERROR, OBJECT
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


def test_what_is_said_comes_back(bus: TokenBus) -> None:
    """To anybody, and in a session, in messages of every length around a packet."""
    with device() as hsm, hsm.create_session_derived(1, PASSWORD_IN_USE) as opened:
        for size in (0, 1, 60, 61, 62, 125, 2000):
            text = bytes(range(256)) * 8
            assert hsm.send_cmd(COMMAND.ECHO, text[:size]) == text[:size]
            assert opened.send_secure_cmd(COMMAND.ECHO, text[:size]) == text[:size]


def test_objects_are_found_by_what_they_are(bus: TokenBus) -> None:
    """By id, by type, by both; the device has no other filters."""
    with session() as opened:
        found = [
            [(entry.id, entry.object_type) for entry in opened.list_objects(object_id=number, object_type=kind)]
            for number, kind in ((1, None), (None, OBJECT.ASYMMETRIC_KEY), (2, OBJECT.ASYMMETRIC_KEY), (3, None))
        ]
        with pytest.raises(YubiHsmDeviceError):
            opened.list_objects(label="key 1")

    assert found == [[(1, 2), (1, 3)], [(1, 3), (2, 3)], [(2, 3)], []]


def put(opened: AuthSession, number: int, may: CAPABILITY, delegated: CAPABILITY = CAPABILITY.NONE) -> None:
    """Another authentication key."""
    AuthenticationKey.put_derived(opened, number, "other", 0xFFFF, may, delegated, "another password")


Act = Callable[[AuthSession], object]


@pytest.mark.parametrize(
    "act",
    [
        lambda opened: opened.reset_device(),
        lambda opened: AsymmetricKey.generate(opened, 9, "x", 1, CAPABILITY.SIGN_ECDSA, ALGORITHM.EC_P256),
        lambda opened: AsymmetricKey(opened, 1).sign_ecdsa(MESSAGE),
        lambda opened: AsymmetricKey(opened, 1).delete(),
        lambda opened: AuthenticationKey(opened, 1).delete(),
        lambda opened: AuthenticationKey(opened, 1).change_password("mine"),
        lambda opened: put(opened, 10, CAPABILITY.NONE),
    ],
    ids=["reset", "generate", "sign", "delete key", "delete authentication", "change", "put"],
)
def test_a_session_may_what_its_key_may(bus: TokenBus, act: Act) -> None:
    """And nothing else; nothing changes."""
    with session() as opened:
        put(opened, 9, CAPABILITY.NONE)
    before = bus.flash
    with session("another password", 9) as opened, pytest.raises(YubiHsmDeviceError) as caught:
        act(opened)

    assert caught.value.code == ERROR.INSUFFICIENT_PERMISSIONS
    assert bus.flash == before


def test_nobody_gives_more_than_he_may_delegate(bus: TokenBus) -> None:
    """A key that may make keys makes none that may more."""
    with session() as opened:
        put(opened, 9, CAPABILITY.PUT_AUTHENTICATION_KEY, CAPABILITY.SIGN_ECDSA)
    with session("another password", 9) as opened:
        put(opened, 10, CAPABILITY.SIGN_ECDSA)
        with pytest.raises(YubiHsmDeviceError) as caught:
            put(opened, 11, CAPABILITY.RESET_DEVICE)

    assert caught.value.code == ERROR.INSUFFICIENT_PERMISSIONS


def test_an_id_is_taken_once(bus: TokenBus) -> None:
    """Of each type; with id 0 the device chooses."""
    with session() as opened:
        for make in (lambda: put(opened, 1, CAPABILITY.NONE), lambda: generate(opened, 2)):
            with pytest.raises(YubiHsmDeviceError) as caught:
                make()
            assert caught.value.code == ERROR.OBJECT_EXISTS
        assert generate(opened, 0).id == 3


def generate(opened: AuthSession, number: int) -> AsymmetricKey:
    """A key on P-256."""
    return AsymmetricKey.generate(opened, number, "x", 1, CAPABILITY.SIGN_ECDSA, ALGORITHM.EC_P256)


def test_what_it_does_not_have_is_refused(bus: TokenBus) -> None:
    """Keys of other kinds, hashes of other lengths, commands of other devices."""
    with session() as opened:
        tries: list[tuple[Act, ERROR]] = [
            (lambda at: at.get_pseudo_random(8), ERROR.INVALID_COMMAND),
            (lambda at: at.send_secure_cmd(COMMAND.CREATE_SESSION, bytes(10)), ERROR.INVALID_COMMAND),
            (lambda at: at.send_secure_cmd(COMMAND.GET_OBJECT_INFO, b"1"), ERROR.WRONG_LENGTH),
            (lambda at: at.send_secure_cmd(COMMAND.SIGN_ECDSA, b"\0\1" + bytes(31)), ERROR.INVALID_DATA),
            (lambda at: AsymmetricKey(at, 7).get_info(), ERROR.OBJECT_NOT_FOUND),
            (
                lambda at: AsymmetricKey.generate(at, 7, "x", 1, CAPABILITY.NONE, ALGORITHM.EC_ED25519),
                ERROR.INVALID_DATA,
            ),
        ]
        for act, code in tries:
            with pytest.raises(YubiHsmDeviceError) as caught:
                act(opened)
            assert caught.value.code == code


def test_a_message_that_was_tampered_with_ends_the_session(bus: TokenBus) -> None:
    """One bit is enough, and nothing is done."""
    with device() as hsm:
        opened = hsm.create_session_derived(1, PASSWORD_IN_USE)
        opened._mac_chain = bytes(16)
        with pytest.raises(YubiHsmDeviceError) as caught:
            opened.reset_device()
        with pytest.raises(YubiHsmDeviceError) as after:
            opened.list_objects()

    assert (caught.value.code, after.value.code) == (ERROR.SESSION_FAILED, ERROR.INVALID_SESSION)
    assert len(bus.flash.keys) == 2
