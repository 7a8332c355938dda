# SPDX-License-Identifier: Apache-2.0
"""What holds a device is told as far as it can be seen: the kernel's driver, a process, or that pcscd runs."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.errors import DeviceBusy
from appliance.hsm.holder import held_by
from appliance.hsm.model import Attachment
from appliance.hsm.usb import UsbBus
from tests.support.scripted_usb import ScriptedUsb

CARD = 0x0B  # the class of a card reader's interface
HELD = "another program holds the device"
PCSCD = f"{HELD}; pcscd runs and takes card readers: 'systemctl stop pcscd.socket pcscd.service' ends it"
HOLD = "import sys; held = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"


@pytest.fixture
def device(tmp_path: Path) -> Attachment:
    """A device in a system of its own, whose processes are the real ones."""
    (tmp_path / "proc").symlink_to("/proc")
    node = tmp_path / "dev/bus/usb/003/009"
    node.parent.mkdir(parents=True)
    node.touch()
    place = tmp_path / "sys/devices/usb3/3-1.4"
    (place / "3-1.4:1.0").mkdir(parents=True)
    (place / "3-1.4:1.2").mkdir()
    return Attachment(str(place), 3, 9, 1, 0x20A0, 0x4230)


def bind(device: Attachment, driver: str, interface: int = 0) -> None:
    """Have the driver bound to the interface."""
    (Path(device.sys_path) / f"3-1.4:1.{interface}" / "driver").symlink_to(f"/sys/bus/usb/drivers/{driver}")


def pcscd(root: Path, populated: int) -> None:
    """Have the unit pcscd.service with processes, or without."""
    group = root / "sys/fs/cgroup/system.slice/pcscd.service"
    group.mkdir(parents=True)
    (group / "cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")


@pytest.fixture
def other(tmp_path: Path, device: Attachment) -> Iterator[int]:
    """Another process, which has the device's node open."""
    node = tmp_path / f"dev/bus/usb/{device.bus:03}/{device.address:03}"
    command = [sys.executable, "-c", HOLD, str(node)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603  # ours
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        yield process.pid
        process.communicate()


@pytest.mark.parametrize(
    ("driver", "populated", "told"),
    [
        ("", 1, HELD),  # it was let go between the attempt and the question
        ("usbfs", None, HELD),
        ("usbfs", 0, HELD),
        ("usbfs", 1, PCSCD),
        ("uhd", 1, "the kernel's driver 'uhd' holds the device"),
    ],
)
def test_the_holder_is_named(device: Attachment, tmp_path: Path, driver: str, populated: int | None, told: str) -> None:
    """pcscd only where a program holds the interface and its service has processes."""
    if driver:
        bind(device, driver)
    if populated is not None:
        pcscd(tmp_path, populated)

    assert held_by(device, 0, CARD, tmp_path) == told


def test_pcscd_takes_card_readers_only(device: Attachment, tmp_path: Path) -> None:
    """Of an interface of another class it is not suspected."""
    bind(device, "usbfs")
    pcscd(tmp_path, 1)

    assert (held_by(device, 0, CARD, tmp_path), held_by(device, 0, 0xFF, tmp_path)) == (PCSCD, HELD)


def test_the_interface_in_question_counts(device: Attachment, tmp_path: Path) -> None:
    """A keyboard's driver on another interface of the same device holds nothing of the reader."""
    bind(device, "usbhid", 2)

    assert held_by(device, 0, CARD, tmp_path) == HELD
    assert held_by(device, 2, CARD, tmp_path) == "the kernel's driver 'usbhid' holds the device"


def test_a_process_that_can_be_seen_is_named(device: Attachment, tmp_path: Path, other: int) -> None:
    """Another process has the device's node open: its name and number are told, rather than a guess."""
    bind(device, "usbfs")
    pcscd(tmp_path, 1)
    name = Path(f"/proc/{other}/comm").read_text().strip()

    assert held_by(device, 0, CARD, tmp_path) == f"{HELD}; {name} (process {other}) has it open"
    assert held_by(replace(device, address=10), 0, CARD, tmp_path) == PCSCD


def test_our_own_process_is_not_the_holder(device: Attachment, tmp_path: Path) -> None:
    """We have the device open ourselves when we ask."""
    bind(device, "usbfs")
    with (tmp_path / "dev/bus/usb/003/009").open():
        assert held_by(device, 0, CARD, tmp_path) == HELD


@pytest.mark.parametrize("place", ["", "/devices/simulated/1"])
def test_a_system_that_tells_nothing_is_no_obstacle(place: str, tmp_path: Path) -> None:
    """Neither devices nor processes nor services can be seen."""
    assert held_by(Attachment(place, 1, 2, 3, 4, 5), 0, CARD, tmp_path) == HELD


def test_a_busy_interface_is_told_with_its_holder(device: Attachment) -> None:
    """The error of an opening that fails says it."""
    bind(device, "uhd")
    backend = ScriptedUsb(lambda _: [], errors={"claim_interface": errno.EBUSY})
    attachment = replace(backend.attachment, sys_path=device.sys_path)

    with pytest.raises(DeviceBusy, match="'uhd'"), UsbBus(backend).open(attachment, 0x0B):
        pytest.fail("opened")
