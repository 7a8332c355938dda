# SPDX-License-Identifier: Apache-2.0
"""The YubiHSM 2 driver believes nothing that a device says of itself but in its own protocol."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import util

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import HsmSettings, YubiHsmSettings
from appliance.errors import DeviceError, DeviceRefused, NotThisFamily, ProtocolError, SecretRefused
from appliance.hsm.drivers import yubihsm2
from appliance.hsm.drivers.yubihsm2 import YubiHsmConnection, YubiHsmDriver
from appliance.hsm.model import Attachment, HsmState, Secret
from appliance.hsm.usb import UsbBus
from appliance.simulator.yubihsm_card import MOST_SESSIONS, Code, Session, YubiHsmCard
from appliance.simulator.yubihsm_flash import YubiHsmFlash
from appliance.simulator.yubihsm_objects import Failed, Failure
from tests.support.scripted_usb import ScriptedReader, ScriptedUsb

PLACE = Attachment("/sys/1-1", 1, 5, 77, 0x1050, 0x0030, "0007550054")
DEVICE_INFO, PART_NUMBER = "86 000C 020401 00733466 3E 00 0C262B", "86 0001 41"


class Wire:
    """What answers instead of a device."""

    packet_size = 64

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer
        self._answers: list[bytes] = []

    def write(self, data: bytes, _timeout: float) -> None:
        """A message comes."""
        self._answers = [self._answer(data)]

    def read(self, _size: int, timeout: float) -> bytes:
        """Its answer goes."""
        return self._answers.pop() if self._answers else b""


def connection(answer: Callable[[bytes], bytes]) -> YubiHsmConnection:
    """The driver's connection to it."""
    backend = yubihsm2._Backend(Wire(answer))  # type: ignore[arg-type]  # all of a pipe that is used
    return YubiHsmConnection(backend, YubiHsmDriver(UsbBus()), PLACE)


@pytest.mark.parametrize(
    ("given_as", "serial"),
    [
        ("0007550054", "7550054"),
        ("7550054", "7550054"),
        (" 7550054 ", "7550054"),
        ("0000000000", "0"),
        ("", ""),
        ("  ", ""),
        ("E6609103C32B7A2A", "E6609103C32B7A2A"),
        ("\u0667\u0665", "\u0667\u0665"),
    ],
)
def test_serials_are_numbers(given_as: str, serial: str) -> None:
    """Zeros in front do not count; what is no number is compared as it is, and is no YubiHSM's."""
    driver = YubiHsmDriver(UsbBus())

    assert driver.normalise(given_as) == serial
    assert driver.serial_from_usb(replace(PLACE, usb_serial=given_as)) == serial


def test_its_id_nominates_it() -> None:
    """And no other id does."""
    driver = YubiHsmDriver(UsbBus())

    assert driver.nominated(PLACE)
    assert not driver.nominated(replace(PLACE, product_id=0x0407))


def test_a_card_reader_with_its_id_is_something_else() -> None:
    """There are boards that can be given any id; this one has no interface of a YubiHSM."""
    backend = ScriptedUsb(ScriptedReader(), vendor=0x1050, product=0x0030)

    with pytest.raises(NotThisFamily), YubiHsmDriver(UsbBus(backend)).open(backend.attachment):
        pytest.fail("opened")


@pytest.mark.parametrize(
    "answer",
    [b"", b"\x7f\x00\x01\x01", b"\x7f\x00\x01\xee", b"\x7f\x00\x00", b"\x86\x00\x00", b"\x86\xff\xff\x02", b"HTTP/1.1"],
)
def test_what_does_not_answer_device_info_is_something_else(answer: bytes) -> None:
    """An error, an empty or a torn answer, another protocol."""
    with pytest.raises(NotThisFamily):
        connection(lambda _: answer).probe()


@pytest.mark.parametrize("code", [0x01, 0x06, 0x07, 0x0A])
def test_what_refuses_a_session_for_another_reason_is_in_no_known_state(code: int) -> None:
    """Only that the factory's key is wrong or gone says that a device is in use."""

    def answer(message: bytes) -> bytes:
        if message[0] == 0x06:
            return bytes.fromhex(PART_NUMBER if len(message) > 3 else DEVICE_INFO)
        return bytes([0x7F, 0, 1, code])

    with pytest.raises(DeviceRefused):
        connection(answer).probe()


class Refusing(YubiHsmCard):
    """A device that fails in every session, unless told otherwise because its log is full and nobody has read it."""

    failure = Failure.LOG_FULL

    def _command(self, code: int, data: bytes, session: Session, place: int) -> bytes:
        if code == Code.CLOSE_SESSION:
            return super()._command(code, data, session, place)
        raise Failed(self.failure)


def test_a_device_whose_log_is_full_says_so() -> None:
    """However often it is asked; its reset is tried, and refused with what has to be done first."""
    card = Refusing(YubiHsmFlash.new("7550054"), lambda _: pytest.fail("changed"))
    for _ in range(MOST_SESSIONS + 1):
        probe = connection(card.transmit).probe()
        with pytest.raises(DeviceRefused, match="its log is full, and has to be read first"):
            connection(card.transmit).factory_reset(lambda _: None)

    assert (probe.state, probe.credential, probe.obstacle) == (HsmState.INITIALIZED, None, "")
    assert probe.shortcomings == ("its log is full, and it tells nothing before that is read",)
    assert dict(probe.details)["Objects"] == "not told before its log is read"


def test_a_refusal_leaves_no_session_open() -> None:
    """A device has few, and would be busy otherwise."""
    card = Refusing(YubiHsmFlash.new("7550054"), lambda _: pytest.fail("changed"))
    card.failure = Failure.STORAGE_FAILED
    for _ in range(MOST_SESSIONS + 1):
        with pytest.raises(DeviceRefused):
            connection(card.transmit).probe()


def test_a_wrong_password_costs_one_session() -> None:
    """The one that it did not open, which ends by itself; that of a factory's key that may not reset is closed."""
    flash = YubiHsmFlash.new("7550054")
    key = flash.authentication[1]
    limited = replace(key, attributes=replace(key.attributes, capabilities=0))
    card = YubiHsmCard(replace(flash, authentication={1: limited}), lambda _: pytest.fail("changed"))
    for _ in range(MOST_SESSIONS // 2 + 1):
        with pytest.raises(SecretRefused):
            connection(card.transmit).factory_reset(lambda _: None, Secret("wrong"))


class Clinging(YubiHsmCard):
    """A device that does not end a session."""

    def _command(self, code: int, data: bytes, session: Session, place: int) -> bytes:
        if code == Code.CLOSE_SESSION:
            raise Failed(Failure.INVALID_SESSION)
        return super()._command(code, data, session, place)


def test_what_was_told_in_a_session_counts_however_it_ends() -> None:
    """The device frees it by itself, and what it holds is known."""
    card = Clinging(YubiHsmFlash.new("7550054"), lambda _: pytest.fail("changed"))

    assert connection(card.transmit).probe().state is HsmState.ZEROIZED


FLASH = YubiHsmFlash.new("7550054")


@given(step=st.integers(0, 10), rubbish=st.binary(max_size=80), secret=st.booleans())
def test_rubbish_at_any_step_is_a_device_error(step: int, rubbish: bytes, secret: bool) -> None:
    """Whatever comes instead of an answer, in a question or a reset; nothing else is raised, and no reset missed."""
    changes: list[YubiHsmFlash] = []
    card = YubiHsmCard(FLASH, changes.append)
    messages: list[bytes] = []

    def answer(message: bytes) -> bytes:
        messages.append(message)
        true = card.transmit(message)
        return rubbish if len(messages) - 1 == step else true

    asked = connection(answer)
    try:
        asked.probe()
        asked.factory_reset(lambda _: None, Secret("anything") if secret else None)
    except DeviceError:
        pass
    else:
        assert len(messages) <= step or changes


@given(step=st.integers(0, 10), at=st.integers(0, 60), bit=st.integers(0, 7))
def test_a_bit_that_flips_destroys_nothing_unasked(step: int, at: int, bit: int) -> None:
    """Nor does it make of the answer to a question anything but an answer or a device error."""
    changes: list[YubiHsmFlash] = []
    card = YubiHsmCard(FLASH, changes.append)
    messages: list[bytes] = []

    def answer(message: bytes) -> bytes:
        messages.append(message)
        true = bytearray(card.transmit(message))
        if len(messages) - 1 == step and at < len(true):
            true[at] ^= 1 << bit
        return bytes(true)

    with suppress(DeviceError):
        connection(answer).probe()
    assert not changes


def test_an_answer_to_another_command_is_no_answer() -> None:
    """The protocol tells which command each answer belongs to."""
    with pytest.raises((ProtocolError, NotThisFamily)):
        connection(lambda _: bytes.fromhex("810000")).probe()


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Nobody has asked yet whether the package is there, nor has anybody afterwards."""
    yubihsm2._installed.cache_clear()
    yield
    yubihsm2._installed.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_without_the_package_there_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said once, however often it is asked."""
    monkeypatch.setattr(yubihsm2, "find_spec", lambda _: None)
    captured = structlog.testing.LogCapture()
    monkeypatch.setattr(yubihsm2, "_log", structlog.wrap_logger(None, [captured], structlog.BoundLogger))
    assert [YubiHsmDriver.configured(UsbBus(), HsmSettings()) for _ in range(3)] == [None] * 3

    assert [(entry["event"], entry["hint"]) for entry in captured.entries] == [
        ("no library for YubiHSM 2", "install the extra 'yubihsm' of this program")
    ]


@pytest.mark.usefixtures("forgotten")
def test_the_authentication_key_is_configured() -> None:
    """The factory's, unless it says otherwise."""
    assert util.find_spec("yubihsm")
    settings = HsmSettings(yubihsm=YubiHsmSettings(9))
    found = [YubiHsmDriver.configured(UsbBus(), given) for given in (HsmSettings(), settings)]

    assert [driver and driver.authentication_key for driver in found] == [1, 9]
