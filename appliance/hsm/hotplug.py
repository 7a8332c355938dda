# SPDX-License-Identifier: Apache-2.0
"""What is plugged in and what comes and goes, as plain values; nothing of udev leaves this module.

This is the only module that imports pyudev. It does so in a thread at `UdevSource.start`, because loading libudev forks
``ldconfig`` and the login prompt must not wait for that.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from appliance.errors import DeviceError
from appliance.hsm.model import Attachment
from appliance.log import get_logger
from appliance.worker import in_thread

LONGEST_STRING = 126  # characters in a USB string descriptor: 255 bytes, less two of header, in UTF-16
NO_THREAD = 1.0  # seconds until everything is looked at anew, when the system had no thread for reading an event
MOST_PER_TICK = 256  # events taken from the kernel before the loop may do something else
UDEV_CONTROL = Path("/run/udev/control")  # what libudev itself goes by (sd-device: device-monitor.c)
NETLINK_SOCKETS = Path("/proc/self/net/netlink")  # those of this network namespace
PROPERTIES = ("BUSNUM", "DEVNUM", "USEC_INITIALIZED", "ID_SERIAL_SHORT", "DEVPATH_OLD", "HSM_CLASS")

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Plugged:
    """A device was plugged in, or something about it changed."""

    attachment: Attachment


@dataclass(frozen=True, slots=True)
class Unplugged:
    """Whatever was at this place is gone."""

    sys_path: str


@dataclass(frozen=True, slots=True)
class Rescan:
    """All there is now; what is missing from it is gone."""

    attachments: tuple[Attachment, ...]


Event = Plugged | Unplugged | Rescan


class HotplugSource(Protocol):
    """Where plug events come from."""

    async def start(self, deliver: Callable[[Event], None]) -> None:
        """Begin delivering, on the running loop. The first event is the `Rescan` of the first scan."""

    def rescan(self) -> None:
        """Have a `Rescan` delivered soon; may be called at any time."""

    def deaf(self) -> str:
        """Why plug events cannot be heard, one sentence; "" when they can."""

    def close(self) -> None:
        """Deliver nothing more."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """udev said something about a device that is plugged in; the rest is to be read from sysfs."""

    sys_path: str
    properties: Mapping[str, str]


class _Scan:
    """All that is plugged in is to be read from sysfs."""


class UdevSource:
    """The USB devices of this machine, as udev announces them once it is done with them.

    The loop only takes messages from the kernel. Everything that reads sysfs, where one device can hold up the reader,
    is done in a thread, one message after the other: what is announced during a scan is applied after it.
    """

    def __init__(self) -> None:
        self._inbox: asyncio.Queue[_Seen | _Scan | Unplugged] = asyncio.Queue()
        self._scanner: Any = None  # pyudev.Context, used by one thread at a time
        self._monitor: Any = None  # pyudev.Monitor, used on the loop; libudev's objects may not be shared
        self._socket: socket.socket | None = None  # the monitor's, as a duplicate
        self._worker: asyncio.Task[None] | None = None
        self._lost = False  # events, since the last scan
        self._deaf = ""

    async def start(self, deliver: Callable[[Event], None]) -> None:
        """Begin delivering, on the running loop. What libudev cannot do only makes the source `deaf`."""
        try:
            await in_thread(self._open, "udev")
        except DeviceError as problem:
            self._deaf = f"libudev cannot be used ({problem})"
        if self._monitor is not None:
            self._socket = socket.socket(fileno=os.dup(self._monitor.fileno()))
            asyncio.get_running_loop().add_reader(self._socket, self._readable)
        self.rescan()
        self._worker = asyncio.create_task(self._work(deliver))
        self._worker.add_done_callback(self._worker_ended)

    def rescan(self) -> None:
        """Have everything looked at anew, after what has been heard so far."""
        self._inbox.put_nowait(_Scan())

    def deaf(self) -> str:
        """Why plug events cannot be heard, one sentence; "" when they can."""
        return self._deaf or _why_deaf()

    def close(self) -> None:
        """Deliver nothing more."""
        if self._worker is not None:
            self._worker.cancel()
        self._stop_listening()

    def _open(self) -> None:
        """Load libudev and listen, before anything is scanned: what comes in between is heard and seen."""
        try:
            import pyudev

            self._scanner = pyudev.Context()
            monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="udev")
            monitor.filter_by("usb", "usb_device")
            monitor.start()  # libudev gives it the largest receive buffer that it may have
        except (ImportError, OSError) as error:
            self._deaf = f"libudev cannot be used ({error})"
            return
        self._monitor = monitor

    def _readable(self) -> None:
        """Take what the kernel has for us. Never leaves an error standing, or the loop would spin on it."""
        ours = self._socket
        if ours is None:
            return
        self._check_overflow(ours)
        for _ in range(MOST_PER_TICK):
            try:
                device = self._monitor.poll(0)
            except OSError as error:  # pyudev's own, again at each poll until the socket's error has been read
                if self._check_overflow(ours):
                    continue
                if error.errno == errno.ENOBUFS:  # the same, found by a read that has cleared it
                    self._lose(errno.ENOBUFS)
                    continue
                self._stop_listening()
                self._deaf = f"the connection to udev broke ({error})"
                _log.error("udev lost", reason=str(error))
                return
            if device is None:
                self._look_for_the_lost()
                return
            self._take(device)
        asyncio.get_running_loop().call_soon(self._readable)

    def _check_overflow(self, ours: socket.socket) -> bool:
        """Read the socket's error, which clears it; whether there was one. Then messages are lost (netlink(7))."""
        error = ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._lose(error)
        return error != 0

    def _lose(self, error: int) -> None:
        _log.warning("udev events lost", error=os.strerror(error))
        self._lost = True

    def _look_for_the_lost(self) -> None:
        """Scan after a loss, and after what was heard before it: that is older than the scan and must not undo it."""
        if self._lost:
            self._lost = False
            self.rescan()

    def _take(self, device: Any) -> None:
        """Queue what a message says. At `remove` sysfs has nothing any more, and nothing of it is read."""
        properties = _properties(device)
        match device.action:
            case "remove":
                self._inbox.put_nowait(Unplugged(device.sys_path))
            case "move":
                self._inbox.put_nowait(Unplugged(f"/sys{properties.get('DEVPATH_OLD', '')}"))
                self._inbox.put_nowait(_Seen(device.sys_path, properties))
            case "add" | "change" | "bind" | "online":
                self._inbox.put_nowait(_Seen(device.sys_path, properties))
            # "unbind" says that a driver let go of it: it is still there, and "remove" follows when it is not.

    async def _work(self, deliver: Callable[[Event], None]) -> None:
        while True:
            try:
                await self._apply(await self._inbox.get(), deliver)
            except DeviceError as problem:
                _log.warning("plug event not read", reason=str(problem))
                await asyncio.sleep(NO_THREAD)
                self.rescan()

    async def _apply(self, message: _Seen | _Scan | Unplugged, deliver: Callable[[Event], None]) -> None:
        match message:
            case _Scan():
                deliver(Rescan(await in_thread(self._scan, "udev")))
            case _Seen(sys_path, properties):
                attachment = await in_thread(partial(read_attachment, sys_path, properties), "udev")
                if attachment is not None:
                    deliver(Plugged(attachment))
            case Unplugged() as unplugged:
                deliver(unplugged)

    def _scan(self) -> tuple[Attachment, ...]:
        if self._scanner is None:
            return ()
        found, unheard = [], bool(self.deaf())
        for device in self._scanner.list_devices(subsystem="usb", DEVTYPE="usb_device"):
            properties = _properties(device)
            # udev is at work on one that it does not know yet, and will announce it.
            if "USEC_INITIALIZED" in properties or unheard:
                found.append(read_attachment(device.sys_path, properties))
        return tuple(attachment for attachment in found if attachment is not None)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        """It ends when it is cancelled; else by a defect, which must not look like a quiet bus."""
        if not worker.cancelled():
            self._deaf = "the plug events cannot be processed"
            _log.critical("hot-plug worker died", exc_info=worker.exception())

    def _stop_listening(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = self._monitor = None  # the last reference to the monitor closes its own descriptor


def _properties(device: Any) -> dict[str, str]:
    """What is needed of a pyudev device's properties; one that cannot be decoded counts as missing."""
    found = {}
    for name in PROPERTIES:
        with suppress(UnicodeDecodeError):
            found[name] = device.properties.get(name)
    return {name: value for name, value in found.items() if value is not None}


def read_attachment(sys_path: str, properties: Mapping[str, str]) -> Attachment | None:
    """The device at `sys_path`, from what udev says of it and from sysfs; blocks. None if there is no such device.

    The strings are the device's own: udev's properties hold them too, but with blanks and all else replaced.
    """
    folder = Path(sys_path)
    try:
        return Attachment(
            sys_path=sys_path,
            bus=int(properties.get("BUSNUM") or _attribute(folder, "busnum")),
            address=int(properties.get("DEVNUM") or _attribute(folder, "devnum")),
            initialized=int(properties.get("USEC_INITIALIZED", "0")),
            vendor_id=_usb_id(_attribute(folder, "idVendor")),
            product_id=_usb_id(_attribute(folder, "idProduct")),
            usb_serial=_attribute(folder, "serial") or properties.get("ID_SERIAL_SHORT", "")[:LONGEST_STRING],
            manufacturer=_attribute(folder, "manufacturer"),
            product=_attribute(folder, "product"),
            class_mark=properties.get("HSM_CLASS", ""),
        )
    except ValueError as error:
        _log.info("usb device ignored", sys_path=sys_path, reason=str(error))
        return None


def _attribute(folder: Path, name: str) -> str:
    """A sysfs attribute without the line end that the kernel adds; "" when there is none."""
    with suppress(OSError):
        return (folder / name).read_bytes().removesuffix(b"\n").decode("utf-8", "replace")[:LONGEST_STRING]
    return ""


def _usb_id(text: str) -> int:
    """A USB vendor or product id. Raises `ValueError`."""
    number = int(text, 16)
    if not 0 <= number <= 0xFFFF:
        raise ValueError(f"not a USB id: {text!r}")
    return number


def _why_deaf() -> str:
    """Why a monitor that looks healthy never hears anything; "" when nothing speaks against it."""
    if not UDEV_CONTROL.exists():
        return f"udev is not running ({UDEV_CONTROL} is missing)"
    try:
        sockets = [line.split() for line in NETLINK_SOCKETS.read_text().splitlines()]
    except OSError:
        return ""
    # udevd, or systemd for it, listens to the kernel: protocol 15 (KOBJECT_UEVENT), multicast group 1.
    if not any(protocol == "15" and int(groups, 16) & 1 for _, protocol, _, groups, *_ in sockets[1:]):
        return "udev is not running in this network namespace"
    return ""
