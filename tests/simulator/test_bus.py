# SPDX-License-Identifier: Apache-2.0
"""Whatever happens in the folder is told as plug events, once, and nothing else is."""

import asyncio
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import usb.core

from appliance.hsm.hotplug import HotplugSource, Plugged, Rescan
from appliance.hsm.model import Attachment
from appliance.simulator.bus import ADDRESSES, FolderBus
from appliance.simulator.families import new_token
from appliance.simulator.inotify import IN_Q_OVERFLOW, Happening, Inotify
from tests.support.simulated import ACTIVATE, SELECT, SERIAL, TERMINATE, VERIFY_ADMIN, Plugs, token


async def test_the_first_event_is_what_is_there(tmp_path: Path) -> None:
    """One Rescan with every device, sorted by name; other files are none."""
    for number in (2, 1):
        new_token(tmp_path / f"{number}.token", f"0000000{number}")
    (tmp_path / "README").write_text("not a device")
    (tmp_path / "folder.token").mkdir()
    os.mkfifo(tmp_path / "fifo.token")
    (tmp_path / "link.token").symlink_to("1.token")
    plugs = Plugs(tmp_path)

    await plugs.bus.start(plugs.deliver)
    plugs.bus.close()

    (event,) = plugs.events
    assert isinstance(event, Rescan)
    assert [found.usb_serial for found in event.attachments] == ["SIM-0.1-00000001", "SIM-0.1-00000002"]


def test_it_is_a_source_of_plug_events(tmp_path: Path) -> None:
    """The manager takes it for one, and one that was never started can be closed."""
    source: HotplugSource = FolderBus(tmp_path)

    source.rescan()
    source.close()
    assert source.deaf() == ""


async def test_an_attachment_says_what_usb_says(plugs: Plugs) -> None:
    """Ids, strings and address are those that the descriptors have."""
    new_token(plugs.folder / "a.token", SERIAL)
    await plugs.settled()

    (found,) = plugs.attachments
    device = plugs.host().device
    assert (found.bus, found.address) == (device.bus, device.address)
    assert (found.usb_id, found.usb_serial) == ("234b:0000", device.serial_number)
    assert (found.manufacturer, found.product) == (device.manufacturer, device.product)


def copy_in(outside: Path, inside: Path) -> None:
    """As cp(1) does it: made empty, then written."""
    shutil.copyfile(outside, inside)


def move_in(outside: Path, inside: Path) -> None:
    """As mv(1) does it on one file system."""
    outside.rename(inside)


def make_inside(outside: Path, inside: Path) -> None:
    """As `appliance-console token new` does it."""
    outside.unlink()
    new_token(inside, SERIAL)


@pytest.mark.parametrize("plug", [copy_in, move_in, make_inside])
async def test_a_file_that_appears_is_plugged_in(
    plugs: Plugs, tmp_path: Path, plug: Callable[[Path, Path], None]
) -> None:
    """However it comes; and it works at once."""
    new_token(tmp_path / "a.token", SERIAL)

    plug(tmp_path / "a.token", plugs.folder / "a.token")
    await plugs.until(lambda events: len(events) == 2)

    assert plugs.told == ["+a.token"]
    assert plugs.host().started().apdu("00CA004F00").endswith("9000")


@pytest.mark.parametrize(
    "unplug",
    [Path.unlink, lambda path: path.rename(path.parent.parent / "away"), lambda path: path.rename(path.parent / "b")],
)
async def test_a_file_that_disappears_is_unplugged(plugs: Plugs, unplug: Callable[[Path], None]) -> None:
    """Removed, moved away, or renamed to what is no device."""
    new_token(plugs.folder / "a.token", SERIAL)
    await plugs.settled()

    unplug(plugs.folder / "a.token")
    await plugs.until(lambda _: plugs.told[-1:] == ["-a.token"])

    assert list(usb.core.find(find_all=True, backend=plugs.bus.backend)) == []


async def test_the_same_device_plugged_in_again_is_another_attachment(plugs: Plugs, tmp_path: Path) -> None:
    """Another address and a later time, at the same place."""
    path = plugs.folder / "a.token"
    new_token(path, SERIAL)
    await plugs.settled()
    (before,) = plugs.attachments

    path.rename(tmp_path / "a.token")
    (tmp_path / "a.token").rename(path)
    await plugs.settled()

    (after,) = plugs.attachments
    assert plugs.told[-2:] == ["-a.token", "+a.token"]
    assert (after.sys_path, after.usb_serial) == (before.sys_path, before.usb_serial)
    assert after.address != before.address
    assert after.initialized > before.initialized


def rewrite(path: Path) -> None:
    """As an editor does that writes in place."""
    path.write_bytes(path.read_bytes())


def replace_file(path: Path) -> None:
    """As an editor does that writes anew."""
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    copy.replace(path)


def touch(path: Path) -> None:
    """As touch(1) does."""
    with path.open("ab"):
        pass


@pytest.mark.parametrize("edit", [rewrite, replace_file, touch])
async def test_a_file_that_is_edited_is_replugged(plugs: Plugs, edit: Callable[[Path], None]) -> None:
    """Who opens a device and changes its flash does not do so in operation."""
    new_token(plugs.folder / "a.token", SERIAL)
    await plugs.settled()
    told = len(plugs.told)
    host = plugs.host().started()

    edit(plugs.folder / "a.token")
    await plugs.until(lambda _: len(plugs.told) >= told + 2)

    assert plugs.told[told:] == ["-a.token", "+a.token"]
    with pytest.raises(usb.core.USBError, match="No such device"):
        host.apdu(SELECT)
    assert plugs.host().started().apdu(SELECT) == "9000"


async def test_a_device_that_writes_its_own_file_stays_plugged_in(plugs: Plugs) -> None:
    """A reset replaces the file several times, and nobody hears of it."""
    new_token(plugs.folder / "a.token", SERIAL, 1)
    await plugs.settled()
    told = list(plugs.told)
    host = plugs.host().started()

    assert [host.apdu(apdu) for apdu in (VERIFY_ADMIN, TERMINATE, SELECT, ACTIVATE)] == ["9000", "9000", "6285", "9000"]
    host.power_on()
    await plugs.settled()

    assert plugs.told == told


async def test_a_device_that_was_written_and_moved_in_one_breath_is_replugged(plugs: Plugs, tmp_path: Path) -> None:
    """Its own writing does not hide what others do to the file."""
    path = plugs.folder / "a.token"
    new_token(path, SERIAL)
    await plugs.settled()
    told = len(plugs.told)
    host = plugs.host().started()
    host.apdu("00200083083030303030303030")

    path.rename(tmp_path / "a.token")
    (tmp_path / "a.token").rename(path)
    await plugs.settled()

    assert plugs.told[told:] == ["-a.token", "+a.token"]
    assert plugs.host().started().apdu("00200083") == "63C2"


async def test_swapped_devices_are_both_told(plugs: Plugs) -> None:
    """Two devices that change places are two other attachments."""
    one, other, spare = (plugs.folder / name for name in ("1.token", "2.token", "spare"))
    new_token(one, "00000001")
    new_token(other, "00000002")
    await plugs.settled()
    before = {found.sys_path: found.usb_serial for found in plugs.attachments}

    one.rename(spare)
    other.rename(one)
    spare.rename(other)
    await plugs.settled()

    after = {found.sys_path: found.usb_serial for found in plugs.attachments}
    assert after == dict(zip(before, reversed(before.values()), strict=True))


async def test_many_devices_come_and_go_at_once(plugs: Plugs, tmp_path: Path) -> None:
    """Each has its own place and address; those for which there is no address come in when there is room."""
    count = len(ADDRESSES) + 3
    for number in range(count):
        new_token(plugs.folder / f"{number:03}.token", f"{number:08X}")
    await plugs.settled()

    found = plugs.attachments
    assert len(found) == len({one.sys_path for one in found}) == len({one.address for one in found}) == len(ADDRESSES)
    for number in range(100):
        (plugs.folder / f"{number:03}.token").unlink()
    await plugs.settled()
    assert len(plugs.attachments) == count - 100


async def test_an_address_is_not_used_again_at_once(plugs: Plugs) -> None:
    """A stale address leads to no device rather than to another."""
    seen = []
    for _ in range(5):
        new_token(plugs.folder / "a.token", SERIAL)
        await plugs.settled()
        seen += [found.address for found in plugs.attachments]
        (plugs.folder / "a.token").unlink()
        await plugs.settled()

    assert len(set(seen)) == 5


@pytest.mark.parametrize(
    "name", ["a b.token", "ä.token", "%41.token", ".token", b"\xff\n.token".decode("utf-8", "surrogateescape")]
)
async def test_any_name_has_a_place(plugs: Plugs, name: str) -> None:
    """Plain ASCII in every case, and no two names share one."""
    new_token(plugs.folder / name, SERIAL)
    new_token(plugs.folder / "A.token", SERIAL)
    await plugs.settled()

    paths = [found.sys_path for found in plugs.attachments]
    assert len(set(paths)) == 2
    assert all(path.isascii() and path.isprintable() for path in paths)


@pytest.mark.parametrize(
    ("contents", "usb_serial"),
    [(b"", ""), (b"rubbish", ""), (b'{"serial": "00667788"}', "SIM-0.1-00667788"), (b"\0" * (2 << 20), "")],
)
async def test_a_damaged_token_is_a_device_that_cannot_be_asked(plugs: Plugs, contents: bytes, usb_serial: str) -> None:
    """It is plugged in, and says its serial number if that is intact; its card is mute."""
    (plugs.folder / "a.token").write_bytes(contents)
    await plugs.settled()

    (found,) = plugs.attachments
    host = plugs.host()
    assert found.usb_serial == usb_serial == (host.device.serial_number or "")
    host.send(0x62)
    assert host.receive()[7:9] == b"\x41\xfe"
    assert (plugs.folder / "a.token").read_bytes() == contents


async def test_a_repaired_token_is_plugged_in_anew(plugs: Plugs, tmp_path: Path) -> None:
    """Damage does not outlast the file's next change."""
    (plugs.folder / "a.token").write_bytes(b"rubbish")
    await plugs.settled()

    new_token(tmp_path / "good", SERIAL)
    shutil.copyfile(tmp_path / "good", plugs.folder / "a.token")
    await plugs.settled()

    assert plugs.host().started().apdu(SELECT) == "9000"


async def test_a_device_that_vanished_stays_away(plugs: Plugs) -> None:
    """It is unplugged, its file is where it was, and neither a rescan nor its own last writing brings it back."""
    token(plugs.folder / "a.token", {"do": "vanish", "at": "TERMINATE DF"})
    await plugs.settled()
    told = len(plugs.told)
    host = plugs.host().started()
    host.apdu(VERIFY_ADMIN)

    with pytest.raises(usb.core.USBError, match="No such device"):
        host.apdu(TERMINATE)
    await plugs.settled()
    await plugs.settled()

    assert plugs.told[told:] == ["-a.token"]
    assert plugs.attachments == []
    touch(plugs.folder / "a.token")
    await plugs.settled()
    assert plugs.told[told:] == ["-a.token", "+a.token"]
    host = plugs.host()
    host.power_on()
    assert host.apdu(SELECT) == "6285"


async def test_a_device_that_vanished_can_come_back_by_itself(plugs: Plugs) -> None:
    """After the time that its fault says, as another attachment."""
    token(plugs.folder / "a.token", {"do": "vanish", "at": 1, "times": 1, "back": 0.01})
    await plugs.settled()
    (before,) = plugs.attachments
    told = len(plugs.told)
    host = plugs.host()
    host.power_on()

    with pytest.raises(usb.core.USBError, match="No such device"):
        host.apdu(SELECT)
    await plugs.until(lambda _: len(plugs.told) == told + 2)

    event = plugs.events[-1]
    assert plugs.told[told:] == ["-a.token", "+a.token"]
    assert isinstance(event, Plugged)
    assert event.attachment != before
    assert plugs.host().started().apdu(SELECT) == "9000"


async def test_a_lost_event_is_made_good(plugs: Plugs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel says that its queue overflowed, the folder is looked at, and everything told anew."""
    new_token(plugs.folder / "gone.token", "00000001")
    await plugs.settled()
    read = Inotify.read

    def overflowed(inotify: Inotify) -> list[Happening]:
        return [Happening(IN_Q_OVERFLOW, "")] if read(inotify) else []

    monkeypatch.setattr(Inotify, "read", overflowed)
    rescans = sum(isinstance(event, Rescan) for event in plugs.events)
    new_token(tmp_path / "b.token", "00000002")
    (plugs.folder / "gone.token").unlink()
    (tmp_path / "b.token").rename(plugs.folder / "b.token")
    await plugs.until(lambda events: sum(isinstance(event, Rescan) for event in events) > rescans)

    assert [found.usb_serial for found in plugs.attachments] == ["SIM-0.1-00000002"]


async def test_it_says_when_it_cannot_hear(tmp_path: Path) -> None:
    """A folder that is not there: no devices, and a reason."""
    plugs = Plugs(tmp_path / "missing")

    await plugs.bus.start(plugs.deliver)

    assert plugs.events == [Rescan(())]
    assert plugs.bus.deaf().endswith("cannot be watched: No such file or directory")
    plugs.bus.close()


@pytest.mark.parametrize("lose", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("other"))])
async def test_it_says_when_it_becomes_deaf(plugs: Plugs, lose: Callable[[Path], None]) -> None:
    """A folder that is taken away takes its devices with it."""
    new_token(plugs.folder / "a.token", SERIAL)
    await plugs.settled()
    assert plugs.bus.deaf() == ""

    lose(plugs.folder)
    await plugs.until(lambda _: plugs.bus.deaf() != "")

    assert plugs.attachments == []
    assert plugs.events[-1] == Rescan(())


async def test_nothing_is_told_after_closing(plugs: Plugs) -> None:
    """Not even what was on its way; and the devices are gone."""
    new_token(plugs.folder / "a.token", SERIAL)
    await plugs.settled()
    host = plugs.host()
    new_token(plugs.folder / "b.token", SERIAL)
    plugs.bus.rescan()
    told = len(plugs.events)

    plugs.bus.close()
    for _ in range(3):
        await asyncio.sleep(0)

    assert len(plugs.events) == told
    assert plugs.bus.plugged() == []
    with pytest.raises(usb.core.USBError, match="No such device"):
        host.power_on()


async def test_an_idle_bus_sleeps(plugs: Plugs) -> None:
    """No timer runs and nothing is ready: only the kernel can wake it."""
    new_token(plugs.folder / "a.token", SERIAL)
    await plugs.settled()
    await asyncio.sleep(0)

    timers = vars(asyncio.get_running_loop())["_scheduled"]
    assert [timer for timer in timers if not timer.cancelled()] == []


def test_the_clock_of_attachments_never_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two plug-ins within one microsecond are two attachments."""
    monkeypatch.setattr(time, "monotonic_ns", lambda: 5_000)
    bus = FolderBus(tmp_path)
    new_token(tmp_path / "a.token", SERIAL)

    first: list[Attachment] = [event.attachment for event in bus._plug("a.token") if isinstance(event, Plugged)]
    bus._unplug("a.token")
    second = [event.attachment for event in bus._plug("a.token") if isinstance(event, Plugged)]

    assert second != [replace(first[0], address=second[0].address)]


@pytest.mark.parametrize(
    ("family", "serial", "usb_id", "usb_serial", "product"),
    [
        ("smartcard-hsm", "DENK0403514", "20a0:4230", "DENK04035140000         ", "Simulated SmartCard-HSM token"),
        ("yubihsm", "7550054", "1050:0030", "0007550054", "Simulated YubiHSM"),
        ("luna", "496771", "1209:0001", "0000496771", "Simulated Luna Backup HSM"),
        ("pkcs11", "A4711", "1209:0002", "A4711", "Simulated PKCS#11 token"),
    ],
)
async def test_a_token_of_another_family_is_another_device(
    plugs: Plugs, family: str, serial: str, usb_id: str, usb_serial: str, product: str
) -> None:
    """It has ids, a name and an iSerial of its own, blanks included; also when the rest of its file is damaged."""
    path = plugs.folder / "a.token"
    new_token(path, serial, family=family)
    await plugs.settled()
    whole = plugs.attachments

    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"kek": ""}))
    await plugs.settled()

    for (found,) in (whole, plugs.attachments):
        assert (found.usb_id, found.usb_serial, found.product) == (usb_id, usb_serial, product)
    device = plugs.host().device
    assert (f"{device.idVendor:04x}:{device.idProduct:04x}", device.product) == (usb_id, product)
    assert device.serial_number == found.usb_serial
