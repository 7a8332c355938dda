# SPDX-License-Identifier: Apache-2.0
"""What udev says becomes events, in order and without loss: real libudev, real pyudev, a sysfs of our own.

`test_udev.py` runs this file under umockdev-wrapper.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.hsm import hotplug
from appliance.hsm.hotplug import Event, Plugged, Rescan, UdevSource, Unplugged
from appliance.hsm.model import Attachment
from tests.support.umockdev import MOST_UNREAD, Testbed, wrapped

BOUND = 30.0  # seconds

if not wrapped():
    pytest.skip("runs under umockdev-wrapper only", allow_module_level=True)


class Machine:
    """A machine with USB ports, and the source that listens to it."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.source = UdevSource()
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    async def start(self) -> Event:
        """Start the source; its first event."""
        async with asyncio.timeout(BOUND):
            await self.source.start(self.events.put_nowait)
        return await self.next()

    async def next(self) -> Event:
        """The next event."""
        async with asyncio.timeout(BOUND):
            return await self.events.get()

    async def heard(self) -> list[Event]:
        """What is delivered of all that udev has said so far: the events before that of one more device."""
        self.plug("9-9", 99)
        seen: list[Event] = []
        while (event := await self.next()) != Plugged(attachment("9-9", 99)):
            seen.append(event)
        return seen

    def plug(self, port: str = "1-1", address: int = 5, mark: str = "", **other: bytes | str) -> str:
        """Plug a device in; `other` are attributes, those of an HSM if none are given; `mark` is udev's."""
        attributes = {"busnum": "1", "devnum": str(address), "idVendor": "234b", "idProduct": "0000", "serial": "A1"}
        udev = {"BUSNUM": "001", "DEVNUM": f"{address:03}", "USEC_INITIALIZED": str(1000 + address)}
        if mark:
            udev["HSM_CLASS"] = mark
        return self.bed.add(port, {**attributes, **other}, {"DEVTYPE": "usb_device", "ID_SERIAL_SHORT": "A1", **udev})


@pytest.fixture
def bed() -> Iterator[Testbed]:
    """A sysfs without devices."""
    made = Testbed()
    yield made
    made.close()


@pytest_asyncio.fixture
async def machine(bed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    """A machine on which udev is running."""
    (tmp_path / "control").touch()
    (tmp_path / "netlink").write_text("sk Eth Pid Groups\nff 15 0 00000001\n")
    monkeypatch.setattr(hotplug, "UDEV_CONTROL", tmp_path / "control")
    monkeypatch.setattr(hotplug, "NETLINK_SOCKETS", tmp_path / "netlink")
    made = Machine(bed)
    yield made
    made.source.close()


def attachment(port: str = "1-1", address: int = 5, usb_serial: str = "A1") -> Attachment:
    """What `Machine.plug` plugs in."""
    return Attachment(f"/sys/devices/{port}", 1, address, 1000 + address, 0x234B, 0, usb_serial)


async def test_the_first_event_is_what_is_there(machine: Machine) -> None:
    """Everything that was plugged in before is in the first scan, as udev and sysfs describe it."""
    machine.plug("1-1", 5, serial="FSIJ-1.2.19-87042 ", manufacturer="Free Software", product="Gnuk Token")
    machine.plug("1-1.4", 6, idVendor="20A0", idProduct="4211")
    first = await machine.start()
    assert isinstance(first, Rescan)

    assert sorted(first.attachments, key=lambda found: found.address) == [
        Attachment("/sys/devices/1-1", 1, 5, 1005, 0x234B, 0x0000, "FSIJ-1.2.19-87042 ", "Free Software", "Gnuk Token"),
        Attachment("/sys/devices/1-1.4", 1, 6, 1006, 0x20A0, 0x4211, "A1"),
    ]
    assert machine.source.deaf() == ""


async def test_the_administrators_mark_is_read(machine: Machine) -> None:
    """What a udev rule says the device is for comes with it, at the first scan and at a plug."""
    machine.plug("1-1", 5, mark="pki")
    first = await machine.start()
    assert isinstance(first, Rescan)
    machine.plug("1-2", 6, mark="pki")
    came = await machine.next()
    assert isinstance(came, Plugged)

    assert [found.class_mark for found in (*first.attachments, came.attachment)] == ["pki", "pki"]


async def test_nothing_plugged_in_is_an_empty_scan(machine: Machine) -> None:
    """Whoever waits for the first scan is told that there is nothing."""
    assert await machine.start() == Rescan(())


async def test_plug_and_unplug(machine: Machine) -> None:
    """A device that comes is described, one that goes is named by its place."""
    await machine.start()
    path = machine.plug()
    came = await machine.next()
    machine.bed.unplug(path)

    assert (came, await machine.next()) == (Plugged(attachment()), Unplugged("/sys/devices/1-1"))


@pytest.mark.parametrize("action", ["change", "bind", "online", "add"])
async def test_news_about_a_device_say_that_it_is_there(machine: Machine, action: str) -> None:
    """The same attachment again, equal to the first, so that nothing changes by it."""
    path = machine.plug()
    await machine.start()
    machine.bed.say(path, action)

    assert await machine.next() == Plugged(attachment())


async def test_unbind_says_nothing(machine: Machine) -> None:
    """A driver has let go of the device, which is still there."""
    path = machine.plug()
    await machine.start()
    machine.bed.say(path, "unbind")

    assert await machine.heard() == []


async def test_a_move_is_a_departure_and_an_arrival(machine: Machine) -> None:
    """The kernel gave the device another place."""
    path = machine.plug("1-2")
    await machine.start()
    machine.bed.set_property(path, "DEVPATH_OLD", "/devices/1-1")
    machine.bed.say(path, "move")

    assert [await machine.next(), await machine.next()] == [Unplugged("/sys/devices/1-1"), Plugged(attachment("1-2"))]


async def test_a_re_enumeration_is_another_attachment(machine: Machine) -> None:
    """The same device at another address is told apart from the one before."""
    machine.bed.unplug(machine.plug(address=5))
    await machine.start()
    machine.plug(address=6)

    assert await machine.next() == Plugged(attachment(address=6))


@pytest.mark.parametrize(
    "spoilt",
    [
        {"idVendor": "rubbish"},
        {"idVendor": ""},
        {"idProduct": "12345"},
        {"idProduct": "-1"},
        {"idVendor": b"\xff\xfe"},
    ],
)
async def test_a_device_with_a_spoilt_id_is_ignored(machine: Machine, spoilt: dict[str, bytes | str]) -> None:
    """What cannot be understood costs its own device and no other."""
    machine.plug("1-1", 5, "", **spoilt)
    machine.plug("1-2", 6)

    assert await machine.start() == Rescan((attachment("1-2", 6),))


async def test_a_device_without_an_address_is_ignored(machine: Machine) -> None:
    """It could not be opened."""
    await machine.start()
    machine.bed.add("1-1", {"idVendor": "234b", "idProduct": "0000"}, {"DEVTYPE": "usb_device"})

    assert await machine.heard() == []


async def test_sysfs_stands_in_for_missing_properties(machine: Machine) -> None:
    """Bus and address are taken from sysfs where the announcement lacks them."""
    await machine.start()
    attributes = {"idVendor": "234b", "idProduct": "0000", "busnum": "2", "devnum": "17"}
    machine.bed.add("2-1", attributes, {"DEVTYPE": "usb_device", "ID_SERIAL_SHORT": "A1"})

    assert await machine.next() == Plugged(Attachment("/sys/devices/2-1", 2, 17, 0, 0x234B, 0, "A1"))


async def test_interfaces_are_no_devices(machine: Machine) -> None:
    """Each USB device has several children in sysfs; none of them is one."""
    await machine.start()
    machine.bed.add("1-1:1.0", {"busnum": "1", "devnum": "5"}, {"DEVTYPE": "usb_interface"})

    assert await machine.heard() == []


@pytest.mark.parametrize(
    ("raw", "usb_serial"),
    [
        ("DENK04035140000         ", "DENK04035140000         "),  # the blanks belong to it
        ("  7550054", "  7550054"),
        (b"A\xff\xfeB", "A\ufffd\ufffdB"),
        (b"\x1b[2Jevil\rserial\n\n", "\x1b[2Jevil\rserial\n"),
        ("Ä" * 200, "Ä" * 126),
        ("", "A1"),  # only udev knows it
    ],
)
async def test_the_serial_is_the_device_s_own(machine: Machine, raw: bytes | str, usb_serial: str) -> None:
    """It is taken from sysfs, unaltered but bounded; sysfs adds one line end, and only that one is taken off."""
    data = raw if isinstance(raw, bytes) else raw.encode()
    machine.plug(serial=data if data.endswith(b"\n") or not data else data + b"\n")

    assert await machine.start() == Rescan((attachment(usb_serial=usb_serial),))


async def test_a_scan_finds_what_no_event_told(machine: Machine) -> None:
    """Departures that were not announced come to light."""
    path = machine.plug("1-1", 5)
    machine.plug("1-2", 6)
    await machine.start()
    machine.bed.lose(path)
    machine.source.rescan()

    assert await machine.next() == Rescan((attachment("1-2", 6),))


async def test_what_happens_during_a_scan_comes_after_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor listens before the first scan begins; what it hears is kept, and applied after."""
    scan = UdevSource._scan

    def eventful(source: UdevSource) -> tuple[Attachment, ...]:
        found = scan(source)
        machine.plug("1-2", 6)
        machine.bed.unplug("/sys/devices/1-1")
        return found

    machine.plug("1-1", 5)
    monkeypatch.setattr(UdevSource, "_scan", eventful)

    assert [await machine.start(), await machine.next(), await machine.next()] == [
        Rescan((attachment("1-1", 5),)),
        Plugged(attachment("1-2", 6)),
        Unplugged("/sys/devices/1-1"),
    ]


async def test_nothing_of_sysfs_is_read_at_remove(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone already, or belongs to the next device in the same port."""
    path = machine.plug()
    await machine.start()
    read: list[str] = []
    monkeypatch.setattr(hotplug, "read_attachment", lambda place, _: read.append(place))
    machine.bed.say(path, "remove")

    assert (await machine.next(), read) == (Unplugged(path), [])


async def test_a_device_that_is_gone_before_it_is_looked_at_is_ignored(machine: Machine) -> None:
    """Its departure follows."""
    await machine.start()
    path = machine.plug()
    machine.bed.unplug(path)

    assert await machine.next() == Unplugged(path)


async def test_udev_s_work_is_awaited(machine: Machine) -> None:
    """A device that udev does not know yet has no permissions yet; udev will announce it."""
    attributes = {"idVendor": "234b", "idProduct": "0000", "busnum": "1", "devnum": "5"}
    machine.bed.add("1-1", attributes, {"DEVTYPE": "usb_device"})
    machine.plug("1-2", 6)

    assert await machine.start() == Rescan((attachment("1-2", 6),))


async def test_without_udev_scans_are_all_there_is(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source says why it is deaf, and scans take what the kernel knows."""
    monkeypatch.setattr(hotplug, "UDEV_CONTROL", Path("/run/udev/nothing"))
    attributes = {"idVendor": "234b", "idProduct": "0000", "busnum": "1", "devnum": "5", "serial": "A1"}
    machine.bed.add("1-1", attributes, {"DEVTYPE": "usb_device"})

    assert await machine.start() == Rescan((Attachment("/sys/devices/1-1", 1, 5, 0, 0x234B, 0, "A1"),))
    assert machine.source.deaf() == "udev is not running (/run/udev/nothing is missing)"


async def test_two_hundred_replugs(machine: Machine) -> None:
    """None of the events of a long row is lost, and they come in order."""
    await machine.start()
    for address in range(200):
        path = machine.plug(address=address % 127)
        assert await machine.next() == Plugged(attachment(address=address % 127))
        machine.bed.unplug(path)
        assert await machine.next() == Unplugged(path)


async def test_a_burst_is_taken_in_at_once(machine: Machine) -> None:
    """As many events as the queue holds."""
    await machine.start()
    ports = [f"1-{number}" for number in range(1, MOST_UNREAD + 1)]
    for number, port in enumerate(ports):
        machine.plug(port, number)

    assert [await machine.next() for _ in ports] == [Plugged(attachment(port, n)) for n, port in enumerate(ports)]


async def test_a_closed_source_is_silent(machine: Machine) -> None:
    """After `close` nothing is delivered, however often it is closed or asked."""
    path = machine.plug()
    await machine.start()
    machine.source.close()
    machine.source.close()
    machine.bed.say(path, "change")
    machine.source.rescan()
    await asyncio.sleep(0)

    assert machine.events.empty()
