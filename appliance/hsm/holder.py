# SPDX-License-Identifier: Apache-2.0
"""Who holds a device that cannot be claimed: told as far as an unprivileged process can see it, and no further.

The kernel says which driver is bound to an interface, and calls every program `usbfs`. Which program that is can be
seen of processes of the same user alone; of pcscd, which takes every card reader, the control groups of systemd tell
whether it runs.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from appliance.hsm.model import Attachment

_PROGRAMS = "usbfs"  # the kernel's driver on behalf of programs
_SMART_CARD = 0x0B  # the class of the interfaces that pcscd takes
_PCSCD = "sys/fs/cgroup/system.slice/pcscd.service/cgroup.events"


def held_by(attachment: Attachment, interface: int, kind: int, root: Path = Path("/")) -> str:
    """What holds that interface of the device, one sentence; `kind` is its USB class."""
    driver = _driver(Path(attachment.sys_path), interface)
    if driver not in ("", _PROGRAMS):
        return f"the kernel's driver '{driver}' holds the device"
    held = "another program holds the device"
    openers = list(_openers(root, root / f"dev/bus/usb/{attachment.bus:03}/{attachment.address:03}"))
    if openers:
        return f"{held}; {', '.join(openers)} has it open"
    if driver and kind == _SMART_CARD and _runs(root / _PCSCD):
        return f"{held}; pcscd runs and takes card readers: 'systemctl stop pcscd.socket pcscd.service' ends it"
    return held


def _driver(device: Path, interface: int) -> str:
    """The driver that is bound to the interface now; "" when none is, or it is not known."""
    for folder in device.glob(f"*:*.{interface}"):
        with suppress(OSError):
            return (folder / "driver").readlink().name
    return ""


def _openers(root: Path, node: Path) -> Iterator[str]:
    """Name and number of each other process that is seen to have the device's node open."""
    for process in sorted((root / "proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        if process.name != str(os.getpid()):
            with suppress(OSError):  # it has ended, or is somebody else's
                if any(_leads_to(descriptor, node) for descriptor in (process / "fd").iterdir()):
                    yield f"{(process / 'comm').read_text(errors='replace').strip()} (process {process.name})"


def _leads_to(descriptor: Path, node: Path) -> bool:
    with suppress(OSError):  # it was closed meanwhile
        return descriptor.readlink() == node
    return False


def _runs(events: Path) -> bool:
    """Whether a service has processes, by its control group."""
    with suppress(OSError):
        return "populated 1" in events.read_text().splitlines()
    return False
