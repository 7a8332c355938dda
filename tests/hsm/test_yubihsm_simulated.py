# SPDX-License-Identifier: Apache-2.0
"""What the YubiHSM 2 driver does with a simulated device that no other family has to."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.audit import AuditLog
from appliance.errors import (
    AttachmentChanged,
    DeviceBusy,
    DeviceError,
    DeviceGone,
    DeviceRefused,
    SecretRefused,
    SerialMismatch,
)
from appliance.hsm.drivers import families
from appliance.hsm.drivers.yubihsm2 import YubiHsmDriver
from appliance.hsm.journal import Journal
from appliance.hsm.manager import Manager
from appliance.hsm.model import HsmClass, HsmState, Outcome, Probe, Secret
from appliance.hsm.reset import Report
from appliance.hsm.usb import UsbBus
from appliance.simulator.bus import FolderBus
from appliance.simulator.faults import Fault, Misdeed, When
from appliance.simulator.memory import dump
from appliance.simulator.yubihsm_flash import ALL_CAPABILITIES, YubiHsmFlash, keys_of
from tests.support.families import YUBIHSM
from tests.support.manager_house import BOUND
from tests.support.token_bus import TokenBus
from tests.support.tokens import make_token

RESET_DEVICE = 1 << 0x1C  # a capability
PASSWORD = "only reset with me"  # noqa: S105  # of a simulated device


def with_factory_key(bus: TokenBus, **attributes: Any) -> None:
    """Have the key that everybody has opened, with other attributes, beside one that may reset."""
    flash: YubiHsmFlash = bus.flash
    has = flash.authentication[1].attributes
    flash = flash.with_authentication(1, replace(has, **attributes), keys_of("password"))
    bus.path.write_bytes(dump(flash.with_authentication(9, has, keys_of(PASSWORD))))


def reset(bus: TokenBus, key: int = 1, password: str | None = None) -> None:
    """What the driver does with that authentication key configured."""
    with YubiHsmDriver(UsbBus(bus.backend), key).open(bus.here) as connection:
        connection.factory_reset(lambda _: None, None if password is None else Secret(password))


def sessions(bus: TokenBus) -> int:
    """How many sessions are taken in the device."""
    (place,) = bus.backend.enumerate_devices()
    return len(place.device._card._sessions)  # type: ignore[attr-defined]  # of a simulated device


def test_a_device_in_use_keeps_its_contents_to_itself(tmp_path: Path) -> None:
    """Without a password there is a serial number, a version and no more; the password is asked for."""
    bus = YUBIHSM.bus(tmp_path, with_keys=2)

    probe = YUBIHSM.probe(bus, bus.plug())

    assert probe.credential is not None
    assert probe == Probe(
        serial="7550054",
        state=HsmState.INITIALIZED,
        model="YubiHSM 2",
        firmware="2.4.1",
        details=(("Objects", "not told without a password"),),
        shortcomings=("the factory's authentication key does not open it",),
        credential=probe.credential,
    )
    assert probe.credential.name == "password of authentication key 1"


@pytest.mark.parametrize(
    ("typed", "can_be_one"),
    [
        (b"m\xc3\xbcnchen", True),
        ("\u00fc".encode() * 64, True),
        (b"m\xfcnchen", False),
        (b"\xed\xa0\x80", False),
        (b"tab\tbed", False),
        (b"x" * 65, False),
        (b"", False),
    ],
)
def test_what_is_no_text_is_no_password(tmp_path: Path, typed: bytes, can_be_one: bool) -> None:
    """What a terminal sends in another encoding than UTF-8 cannot be encoded for the device, and is not tried."""
    bus = YUBIHSM.bus(tmp_path, with_keys=2)
    credential = YUBIHSM.probe(bus, bus.plug()).credential
    assert credential is not None
    answer = typed.decode("utf-8", "surrogateescape")

    assert bool(re.fullmatch(credential.pattern, answer)) is can_be_one
    if can_be_one:
        with pytest.raises(SecretRefused):
            reset(bus, password=answer)


def test_a_blank_device_is_reset_without_a_password(tmp_path: Path) -> None:
    """Everybody knows the one that it has."""
    bus = YUBIHSM.bus(tmp_path)
    probe = YUBIHSM.probe(bus, bus.plug())

    reset(bus)

    assert (probe.state, probe.credential, probe.details) == (HsmState.ZEROIZED, None, (("Objects", "1"),))
    assert YUBIHSM.probe(bus, bus.here).state is HsmState.ZEROIZED


@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("misdeed", [Misdeed.VANISH, Misdeed.STALL, Misdeed.SHORT, Misdeed.HANG])
def test_a_fault_in_the_reset_of_a_blank_device_is_survived(
    tmp_path: Path, misdeed: Misdeed, when: When, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes other commands than that of a device in use: a session of the factory's key, and a look around."""
    for step in range(1, 8):
        (folder := tmp_path / str(step)).mkdir()
        bus = YUBIHSM.bus(folder)
        bus.plug(Fault(misdeed, at=step, when=when, length=2))
        with monkeypatch.context() as patched:
            YUBIHSM.impatient(patched, 0.1)
            with pytest.raises(DeviceError):
                YUBIHSM.reset(bus, bus.here)

        bus.plug()
        YUBIHSM.reset(bus, bus.here)
        assert YUBIHSM.probe(bus, bus.here).state is HsmState.ZEROIZED


def test_two_serials_are_a_mismatch(tmp_path: Path) -> None:
    """A device that tells another number than USB does is neither of the two."""
    bus = YUBIHSM.bus(tmp_path)
    attachment = bus.plug(Fault(Misdeed.SERIAL, at="DEVICE INFO", when=When.BEFORE, serial="00112233"))

    with pytest.raises(SerialMismatch) as caught:
        YUBIHSM.probe(bus, attachment)

    assert (caught.value.expected, caught.value.found) == ("7550054", "112233")


def test_a_device_without_a_serial_on_usb_has_the_one_that_it_tells(tmp_path: Path) -> None:
    """There is nothing to compare."""
    bus = YUBIHSM.bus(tmp_path)

    assert YUBIHSM.probe(bus, bus.plug(usb_serial="")).serial == "7550054"


def test_what_a_question_costs_is_shown_and_is_no_change(tmp_path: Path) -> None:
    """An entry in the log for each command of a session; the device is as it was nevertheless."""
    bus = YUBIHSM.bus(tmp_path)
    bus.plug()
    probes = [YUBIHSM.probe(bus, bus.here) for _ in range(2)]

    assert [probe.remarks for probe in probes] == [
        (("Log entries", "1 of 62"),),
        (("Log entries", "6 of 62"),),
    ]
    assert probes[0] == probes[1]


def test_a_key_that_is_not_there_is_no_wrong_password(tmp_path: Path) -> None:
    """The sentence says what to set; nothing is destroyed."""
    bus = YUBIHSM.bus(tmp_path, with_keys=1)
    bus.plug()
    before = bus.flash

    with pytest.raises(
        DeviceRefused, match=r"it has no authentication key 7: set hsm\.yubihsm\.authentication_key"
    ) as caught:
        reset(bus, 7, YUBIHSM.credential)

    assert not isinstance(caught.value, SecretRefused)
    assert bus.flash == before


def test_a_key_that_may_not_reset_is_refused(tmp_path: Path) -> None:
    """The device says no; the connection serves for the read-back, and nothing has changed."""
    bus = YUBIHSM.bus(tmp_path, with_keys=1)
    flash: YubiHsmFlash = bus.flash
    limited = replace(flash.authentication[1].attributes, capabilities=ALL_CAPABILITIES & ~RESET_DEVICE)
    bus.path.write_bytes(dump(flash.with_authentication(9, limited, keys_of(PASSWORD))))
    with YUBIHSM.open(bus, bus.plug()) as _:
        pass
    driver = YubiHsmDriver(UsbBus(bus.backend), 9)

    with driver.open(bus.here) as connection:
        before = connection.probe()
        with pytest.raises(DeviceRefused, match="authentication key 9 may not reset it") as caught:
            connection.factory_reset(lambda _: None, Secret(PASSWORD))
        after = connection.probe()

    assert not isinstance(caught.value, SecretRefused)
    assert after == before
    assert len(bus.flash.keys) == 1


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"domains": 1}, "the factory's authentication key was replaced"),
        ({"sequence": 2}, "the factory's authentication key was replaced"),
        ({}, "2 objects are present, not one"),
    ],
)
def test_the_factory_password_alone_is_no_factory_state(
    tmp_path: Path, attributes: dict[str, int], sentence: str
) -> None:
    """A key of fewer domains would not even see what is there; it may reset nevertheless, and is not asked for."""
    bus = YUBIHSM.bus(tmp_path)
    with_factory_key(bus, **attributes)

    probe = YUBIHSM.probe(bus, bus.plug())

    assert (probe.state, probe.credential) == (HsmState.INITIALIZED, None)
    assert sentence in probe.shortcomings
    reset(bus)
    assert YUBIHSM.probe(bus, bus.here).state is HsmState.ZEROIZED


def test_a_factory_key_that_may_not_reset_leaves_it_to_the_configured_one(tmp_path: Path) -> None:
    """The password of that is asked for, and used."""
    bus = YUBIHSM.bus(tmp_path)
    with_factory_key(bus, capabilities=ALL_CAPABILITIES & ~RESET_DEVICE)
    bus.plug()
    driver = YubiHsmDriver(UsbBus(bus.backend), 9)
    with driver.open(bus.here) as connection:
        credential = connection.probe().credential

    assert credential is not None
    assert credential.name == "password of authentication key 9"
    with pytest.raises(DeviceError, match="it is reset with the password of authentication key 9 only"):
        reset(bus, 9)
    reset(bus, 9, PASSWORD)
    assert YUBIHSM.probe(bus, bus.here).state is HsmState.ZEROIZED


def test_a_question_leaves_no_session_of_a_blank_device_open(tmp_path: Path) -> None:
    """However often it is asked."""
    bus = YUBIHSM.bus(tmp_path)
    bus.plug()
    for _ in range(20):
        YUBIHSM.probe(bus, bus.here)

    assert sessions(bus) == 0


def test_a_device_that_is_asked_too_often_is_busy(tmp_path: Path) -> None:
    """A session that was refused cannot be closed: sixteen of them fill the device for a while."""
    bus = YUBIHSM.bus(tmp_path, with_keys=1)
    bus.plug()
    for _ in range(16):
        YUBIHSM.probe(bus, bus.here)

    with pytest.raises(DeviceBusy, match="sessions"):
        YUBIHSM.probe(bus, bus.here)


def test_an_answer_that_nobody_fetched_is_not_taken_for_ours(tmp_path: Path) -> None:
    """A process that died left it behind."""
    bus = YUBIHSM.bus(tmp_path)
    bus.plug()
    (place,) = bus.backend.enumerate_devices()
    place.device.write(bytes.fromhex("01000401020304"))

    assert YUBIHSM.probe(bus, bus.here).serial == "7550054"


def test_a_halted_endpoint_is_cleared(tmp_path: Path) -> None:
    """So it is after a STALL that nobody has ended."""
    bus = YUBIHSM.bus(tmp_path)
    bus.plug()
    (place,) = bus.backend.enumerate_devices()
    place.device.halt(0x81)  # type: ignore[attr-defined]  # of a simulated device

    assert YUBIHSM.probe(bus, bus.here).serial == "7550054"


def test_after_a_failure_the_connection_is_done_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that comes late would be taken for that to the next question."""
    YUBIHSM.impatient(monkeypatch, 0.1)
    bus = YUBIHSM.bus(tmp_path)
    attachment = bus.plug(Fault(Misdeed.SLOW, at="CREATE SESSION", seconds=0.2))
    with YUBIHSM.open(bus, attachment) as connection:
        for _ in range(2):
            with pytest.raises(DeviceError, match="did not answer in time"):
                connection.probe()


def test_what_restarts_is_asked_nothing_more(tmp_path: Path) -> None:
    """What it says before it leaves would be of a device that may still hold everything."""
    bus = YUBIHSM.bus(tmp_path, with_keys=1)
    with YUBIHSM.open(bus, bus.plug()) as connection:
        connection.factory_reset(lambda _: None, YUBIHSM.secret)
        with pytest.raises(DeviceGone, match="restarts"):
            connection.probe()


async def test_it_is_one_device_before_and_after(tmp_path: Path) -> None:
    """On the bus that is a folder it comes back at another address; it is reset, and listed where it is."""
    (folder := tmp_path / "bus").mkdir()
    make_token(folder / "a.token", YUBIHSM.serial, 2, family="yubihsm")
    bus = FolderBus(folder)
    audit = AuditLog.open(tmp_path / "audit.jsonl")
    manager = Manager(bus, families(UsbBus(bus.backend)), Journal.open(tmp_path / "pending.json"), audit)

    async def ordered() -> Report:
        return await manager.factory_reset(
            before, actor="admin", origin="Console", progress=lambda _: None, secret=YUBIHSM.secret
        )

    async with asyncio.timeout(BOUND):
        await manager.start()
        await manager.settled()
        before = manager.find("0007550054", HsmClass.BACKUP)
        report = await ordered()
        await manager.settled()
        after = manager.find("0007550054", HsmClass.BACKUP)
        with pytest.raises(AttachmentChanged):
            await ordered()
        await manager.stop()
    audit.close()

    assert report == Report(Outcome.DONE, "", YUBIHSM.serial)
    assert (before.state, after.state) == (HsmState.INITIALIZED, HsmState.ZEROIZED)
    assert after.attachment.sys_path == before.attachment.sys_path
    assert after.attachment.address != before.attachment.address
    assert not manager.interrupted()
