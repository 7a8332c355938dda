# SPDX-License-Identifier: Apache-2.0
"""A simulated YubiHSM 2 without a session, on its bus and in its file; sessions are for Yubico's package to open."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import usb.core

from appliance.errors import ApplianceError, StateError
from appliance.hsm.hotplug import Plugged, Unplugged
from appliance.simulator.descriptors import Level
from appliance.simulator.device import SimulatedDevice
from appliance.simulator.families import YUBIHSM, load, new_token, remnant
from appliance.simulator.faults import Fault, Misdeed
from appliance.simulator.memory import dump
from appliance.simulator.usbip_protocol import Export
from appliance.simulator.yubihsm_card import YubiHsmCard
from appliance.simulator.yubihsm_flash import YubiHsmFlash, keys_of
from appliance.simulator.yubihsm_objects import Failed
from tests.support.simulated import Plugs
from tests.support.tokens import make_token

SERIAL = "7550054"
INFO = "86000C 020401 00733466 3E01 0C262B"
CREATE = "03000A 0001 0102030405060708"


@pytest.fixture(scope="module")
def flash() -> YubiHsmFlash:
    """A device in use, with two keys."""
    return YubiHsmFlash.new(SERIAL).with_keys(2)


def answer(card: YubiHsmCard, message: str) -> str:
    """What it answers, in hexadecimal digits."""
    return card.transmit(bytes.fromhex(message)).hex().upper()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("010003 AABBCC", "810003 AABBCC"),
        ("010000", "810000"),
        ("060000", INFO),
        ("060001 00", INFO),
        ("060001 01", "860009 53494D554C41544544"),
        ("060001 02", "7F0001 02"),
        ("060000 00", "7F0001 08"),
        ("0600", "7F0001 08"),
        ("06", "7F0001 08"),
        ("030000", "7F0001 08"),
        ("03000A 0007 0102030405060708", "7F0001 0B"),
        ("040011 00 0102030405060708 0102030405060708", "7F0001 03"),
        ("050011 00 0102030405060708 0102030405060708", "7F0001 03"),
        ("050000", "7F0001 03"),
        ("080000", "7F0001 01"),
        ("480000", "7F0001 01"),
        ("7F0000", "7F0001 01"),
    ],
)
def test_what_it_answers_anybody(flash: YubiHsmFlash, message: str, expected: str) -> None:
    """Who it is, and what is said to it; a reset, and all that is in it, is for sessions."""
    card = YubiHsmCard(flash, lambda _: None)

    assert answer(card, message) == expected.replace(" ", "")


def test_a_session_must_be_authenticated(flash: YubiHsmFlash) -> None:
    """With a wrong cryptogram it is over; one that is only proposed takes no command."""
    card = YubiHsmCard(flash, lambda _: None)
    wrong = "040011 00" + "00" * 16
    answers = [answer(card, message) for message in (CREATE, "050019 00" + "00" * 24, CREATE, wrong, wrong)]

    assert answers[0].startswith("83001100")
    assert answers[1] == "7F000106"
    assert answers[2].startswith("83001100")
    assert answers[3:] == ["7F000104", "7F000103"]


def test_sessions_are_sixteen_and_end_by_themselves(flash: YubiHsmFlash) -> None:
    """One that nobody uses for thirty seconds makes room."""
    time = [0.0]
    card = YubiHsmCard(flash, lambda _: None, lambda: time[0])
    places = [answer(card, CREATE)[6:8] for _ in range(16)]
    full = answer(card, CREATE)
    time[0] = 30.5

    assert places == [f"{place:02X}" for place in range(16)]
    assert full == "7F000105"
    assert answer(card, CREATE)[6:8] == "00"


def test_what_begins_a_session_leaves_an_entry_in_the_log(flash: YubiHsmFlash) -> None:
    """Who only asks who it is leaves none; of sixty-two the oldest goes."""
    card = YubiHsmCard(flash, lambda _: None)
    used = []
    for _ in range(70):
        used += [int(answer(card, "060000")[22:24], 16)]
        answer(card, CREATE)

    assert used == [*range(1, 62), *[62] * 9]


def test_no_session_outlives_the_power(flash: YubiHsmFlash) -> None:
    """The places are free again."""
    card = YubiHsmCard(flash, lambda _: None)
    for _ in range(16):
        answer(card, CREATE)
    card.power_off()

    assert answer(card, CREATE)[6:8] == "00"


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("060000", "DEVICE INFO"),
        (CREATE, "CREATE SESSION"),
        ("050001 00", "SESSION MESSAGE"),
        ("EE0000", ""),
        ("05", "SESSION MESSAGE"),
    ],
)
def test_commands_have_the_names_of_the_manual(flash: YubiHsmFlash, message: str, name: str) -> None:
    """By which faults are put; what is inside a session that does not exist nobody can name."""
    assert YubiHsmCard(flash, lambda _: None).name_of(bytes.fromhex(message)) == name


# Its file


def test_everything_comes_back(flash: YubiHsmFlash) -> None:
    """`load` is the inverse of `dump`."""
    faulty = flash.with_faults((Fault(Misdeed.HANG, at="RESET DEVICE"),))

    assert load(dump(faulty)) == faulty
    assert remnant(dump(faulty)) == (YUBIHSM, SERIAL)


def test_no_secret_stands_in_the_file(flash: YubiHsmFlash) -> None:
    """Neither a password nor the keys that it stands for."""
    text = dump(YubiHsmFlash.new(SERIAL)).decode() + dump(flash).decode()

    assert "password" not in text
    assert [keys_of(word).hex() in text for word in ("password", "correct-horse-battery")] == [False, False]


def test_a_reset_leaves_the_number_and_the_faults(flash: YubiHsmFlash) -> None:
    """The KEK is another one, so that nothing that was sealed can be opened."""
    faults = (Fault(Misdeed.BUSY),)
    blank = flash.with_faults(faults).reset()

    assert (blank.serial, blank.faults, blank.keys, list(blank.authentication)) == (SERIAL, faults, {}, [1])
    assert blank.kek != flash.kek
    assert blank.authentication[1].sealed != flash.authentication[1].sealed


def test_a_sealed_secret_opens_with_its_kek_only(flash: YubiHsmFlash) -> None:
    """Of a device whose file was tampered with no session is opened."""
    card = YubiHsmCard(replace(flash, kek=bytes(32)), lambda _: None)

    assert answer(card, CREATE) == "7F000107"


@pytest.mark.parametrize(
    "change",
    [
        {"kek": "00"},
        {"serial": "0007550054"},
        {"serial": "4294967296"},
        {"serial": "DENK0403514"},
        {"keys": {"0": {}}},
        {"keys": 1},
        {"authentication": {"65536": {}}},
        {"authentication": {"1": {"label": ""}}},
        {"faults": [{"do": "nothing"}]},
    ],
)
def test_a_damaged_file_is_no_device(flash: YubiHsmFlash, change: dict[str, Any]) -> None:
    """What no dump can have written is not believed."""
    entry = json.loads(dump(flash)) | change

    with pytest.raises(ValueError, match=r"."):
        load(json.dumps(entry).encode())


def test_it_is_in_no_reader(tmp_path: Path) -> None:
    """Nor is a card of another family without one."""
    path = tmp_path / "a.token"
    new_token(path, "667788")
    entry = json.loads(path.read_text()) | {"reader": "vendor"}

    assert YubiHsmFlash.new(SERIAL).level is Level.VENDOR
    with pytest.raises(ValueError, match="a card in no reader"):
        load(json.dumps(entry).encode())


@pytest.mark.parametrize(("given", "kept"), [("7550054", "7550054"), ("0007550054", "7550054"), ("1", "1")])
def test_a_new_device_has_its_number(tmp_path: Path, given: str, kept: str) -> None:
    """On USB with zeros in front."""
    new_token(tmp_path / "a.token", given, 0, "yubihsm")
    flash = load((tmp_path / "a.token").read_bytes())

    assert flash.serial == kept
    assert YUBIHSM.usb_serial(flash.serial) == kept.zfill(10)


@pytest.mark.parametrize("given", ["", "0", "-1", "4294967296", "12A", "٣", "DENK0403514"])
def test_nothing_else_is_a_number(tmp_path: Path, given: str) -> None:
    """One sentence says what is wanted."""
    with pytest.raises(ApplianceError, match="must be a decimal number below 4294967296, such as 7550054"):
        new_token(tmp_path / "a.token", given, 0, "yubihsm")


# On USB


def plugged(plugs: Plugs) -> tuple[SimulatedDevice, Any]:
    """The device, and a host's side of it."""
    ((_, device),) = plugs.bus.plugged()
    host = usb.core.find(backend=plugs.bus.backend)
    return device, host


async def test_it_has_an_interface_of_its_own(plugs: Plugs) -> None:
    """Vendor class, without a class descriptor, two bulk endpoints of 64 bytes; the bytes say what the fields say."""
    make_token(plugs.folder / "a.token", SERIAL, family="yubihsm")
    await plugs.settled()
    _, host = plugged(plugs)
    (interface,) = host.get_active_configuration()
    whole = bytes(host.ctrl_transfer(0x80, 6, 0x0200, 0, 255))

    assert (host.idVendor, host.idProduct, host.serial_number) == (0x1050, 0x0030, "0007550054")
    assert (interface.bInterfaceClass, bytes(interface.extra_descriptors)) == (0xFF, b"")
    assert [(point.bEndpointAddress, point.wMaxPacketSize) for point in interface] == [(0x01, 64), (0x81, 64)]
    assert len(whole) == 9 + 9 + 7 + 7 == int.from_bytes(whole[2:4], "little")
    assert whole[9 + 5] == 0xFF


async def test_usbip_shows_its_interface(plugs: Plugs) -> None:
    """Among what is said of a device that nobody has imported."""
    make_token(plugs.folder / "a.token", SERIAL, family="yubihsm")
    await plugs.settled()
    ((attachment, device),) = plugs.bus.plugged()

    assert Export(attachment, device.level).record_with_interfaces()[-4:-1] == b"\xff\0\0"


async def test_it_knows_no_request_of_ccid(plugs: Plugs) -> None:
    """ABORT is refused with a STALL."""
    make_token(plugs.folder / "a.token", SERIAL, family="yubihsm")
    await plugs.settled()
    _, host = plugged(plugs)

    with pytest.raises(usb.core.USBError):
        host.ctrl_transfer(0x21, 0x01, 0, 0, b"")


async def test_messages_of_whole_packets_end_with_an_empty_one(plugs: Plugs) -> None:
    """In both directions, also in pieces; one that is too long for it is not answered."""
    make_token(plugs.folder / "a.token", SERIAL, family="yubihsm")
    await plugs.settled()
    _, host = plugged(plugs)
    echo = b"\x01\x00\x3d" + bytes(61)
    host.write(0x01, echo)
    exact = bytes(host.read(0x81, 4096, 1000))
    host.write(0x01, b"\x01\x01\x00" + bytes(61))
    host.write(0x01, bytes(195))
    pieces = bytes(host.read(0x81, 4096, 1000))
    host.write(0x01, b"\x01\x0d\x00" + bytes(0x0D00))
    with pytest.raises(usb.core.USBTimeoutError):
        host.read(0x81, 4096, 50)

    assert exact == b"\x81" + echo[1:]
    assert pieces == b"\x81\x01\x00" + bytes(256)


async def test_a_damaged_one_is_silent(plugs: Plugs) -> None:
    """It is on the bus, by what is left of its file."""
    path = make_token(plugs.folder / "a.token", SERIAL, family="yubihsm")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kek": ""}))
    await plugs.settled()
    _, host = plugged(plugs)
    host.write(0x01, b"\x06\x00\x00")

    assert host.serial_number == "0007550054"
    with pytest.raises(usb.core.USBTimeoutError):
        host.read(0x81, 4096, 50)


def restarting(device: SimulatedDevice) -> None:
    """Have it restart as after RESET DEVICE."""
    assert device._card is not None
    device._card.restarts = True  # type: ignore[misc]  # of a YubiHSM


@pytest.mark.parametrize("fetched", [True, False])
async def test_it_leaves_when_its_answer_is_fetched_or_nobody_is_there(plugs: Plugs, fetched: bool) -> None:
    """And is back at another address by itself."""
    make_token(plugs.folder / "a.token", SERIAL, family="yubihsm")
    await plugs.settled()
    device, host = plugged(plugs)
    usb.util.claim_interface(host, 0)
    host.write(0x01, b"\x01\x00\x00")
    restarting(device)
    still_there = not device.gone
    if fetched:
        host.read(0x81, 4096, 1000)
    else:
        usb.util.release_interface(host, 0)
    events = await plugs.until(lambda events: isinstance(events[-1], Plugged) and len(events) > 3)
    left, back = events[-2:]

    assert still_there
    assert device.gone
    assert isinstance(left, Unplugged)
    assert isinstance(back, Plugged)
    assert left.sys_path == back.attachment.sys_path
    assert back.attachment.address != host.address


def test_a_full_disk_is_no_reset(flash: YubiHsmFlash) -> None:
    """What cannot be kept has not happened."""

    def full(_: YubiHsmFlash) -> None:
        raise StateError(Path("a.token"), "No space left on device")

    card = YubiHsmCard(flash, full)
    with pytest.raises(Failed):
        card._reset()
    assert (card.memory.flash, card.restarts) == (flash, False)
