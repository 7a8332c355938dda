# SPDX-License-Identifier: Apache-2.0
"""Exactly one attachment is opened, one interface of it claimed, and every USB failure becomes one of our errors.

This is the only module of the product that imports pyusb; it does so at the first use, because that import costs more
than the rest of the start. Nothing is detached from the device and nobody who holds it is disturbed.
"""

import errno
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from appliance.errors import (
    DeviceBusy,
    DeviceError,
    DeviceGone,
    DeviceStall,
    DeviceTimeout,
    NotThisFamily,
    ProtocolError,
)
from appliance.hsm.holder import held_by
from appliance.hsm.model import Attachment

CONTROL_TIMEOUT = 2.0  # seconds; USB 2.0, 9.2.6.4 allows a standard request with data 500 ms to its first answer

GLANCE = 0.1  # seconds between two looks at the bus for a device that is to come back

GET_DESCRIPTOR = 0x06  # USB 2.0, table 9-4
STRING = 0x03  # USB 2.0, table 9-5
FROM_DEVICE = 0x80
ENGLISH = 0x0409  # asked for when a device does not list its languages
LONGEST_STRING = 254  # bytes of a string descriptor; 255 is odd, and some devices mind

_UNPLUGGED = "the device was unplugged"
_NO_PERMISSION = (
    "no permission to open the USB device: install the udev rules that 'appliance-console udev-rules' prints"
)

# What libusb can report, by errno. EIO is what a transfer that was under way when the plug was pulled ends with.
ERRORS: Mapping[int, tuple[type[DeviceError], str]] = {
    errno.ENODEV: (DeviceGone, _UNPLUGGED),
    errno.ENOENT: (DeviceGone, _UNPLUGGED),
    errno.ENXIO: (DeviceGone, _UNPLUGGED),
    errno.ESHUTDOWN: (DeviceGone, _UNPLUGGED),
    errno.EIO: (DeviceGone, "the transfer broke off: the device was unplugged or has failed"),
    errno.EBUSY: (DeviceBusy, "another program holds the device"),
    errno.ETIMEDOUT: (DeviceTimeout, "the device did not answer in time"),
    errno.EPIPE: (DeviceStall, "the device refused the transfer (STALL)"),
    errno.EOVERFLOW: (ProtocolError, "the device sent more than was asked for"),
    errno.EACCES: (DeviceError, _NO_PERMISSION),
    errno.EPERM: (DeviceError, _NO_PERMISSION),
    errno.EAGAIN: (DeviceError, "the USB transfer was cancelled"),
    errno.EINTR: (DeviceError, "the USB transfer was interrupted"),
    errno.EINVAL: (DeviceError, "libusb does not accept the transfer"),
    errno.ENOMEM: (DeviceError, "there is no memory for the USB transfer"),
    errno.ENOSYS: (DeviceError, "this system does not support the USB transfer"),
}


class UsbBus:
    """The USB devices that one pyusb backend reaches; safe to use from several threads."""

    def __init__(self, backend: object | None = None) -> None:
        self._backend = backend
        self._lock = threading.Lock()

    @contextmanager
    def open(self, attachment: Attachment, interface_class: int) -> Iterator["UsbPipe"]:
        """The first interface of the class, claimed until the block ends.

        Raises `DeviceGone` when something else or nothing is at the attachment's address, `DeviceBusy` when another
        program or a kernel driver holds the interface, `NotThisFamily` when there is no such interface, `DeviceError`
        otherwise.
        """
        device = self._find(attachment)
        try:
            with _our_errors():
                _recheck(device, attachment)
                interface = _interface(device, interface_class)
                _claim(device, interface, attachment)
            yield UsbPipe(device, interface)
        finally:
            _dispose(device)

    def addresses(
        self, usb_ids: Collection[tuple[int, int]], interface_class: int | None = None
    ) -> frozenset[tuple[int, int]]:
        """Bus and address of every device, plugged in now, with one of these ids or with an interface of the class.

        None of them is opened. Raises `DeviceError`.
        """
        import usb.core

        def wanted(device: Any) -> bool:
            return (device.idVendor, device.idProduct) in usb_ids or _has_interface(device, interface_class)

        with _our_errors():
            found = usb.core.find(find_all=True, backend=self._chosen_backend(), custom_match=wanted)
            return frozenset((device.bus, device.address) for device in found)

    def returned(self, attachment: Attachment, leave: float, back: float) -> Attachment:
        """Where the device of this attachment is when it has restarted, by id, iSerial and port; waits for it.

        What comes up in another port is another device, whatever it tells. One that is still where it was after `leave`
        seconds has not restarted. What is returned serves for opening it: udev's view of it is the old one. Raises
        `DeviceGone` when it is not there after `back` seconds, `DeviceError` when more than one device could be it, or
        when it cannot be told.
        """
        began = time.monotonic()
        while True:
            found, trouble = self._alike(attachment)
            passed = time.monotonic() - began
            match found:
                case [one] if one != attachment or passed >= leave:
                    return one
                case [_, _, *_]:
                    raise DeviceError("more than one device has its serial number: which of them it is is not certain")
            if passed >= back:
                raise trouble or DeviceGone("it did not come back after its restart: unplug it and plug it in again")
            time.sleep(GLANCE)

    def _alike(self, attachment: Attachment) -> tuple[list[Attachment], DeviceError | None]:
        """Every device on the bus with the id and the iSerial of this one, and what made one of them unreadable."""
        found: list[Attachment] = []
        trouble = None
        for bus, address in self.addresses([(attachment.vendor_id, attachment.product_id)]):
            candidate = replace(attachment, bus=bus, address=address)
            try:
                device = self._find(candidate)
                if not _in_port(device, attachment):
                    continue
                try:
                    with _our_errors():
                        _recheck(device, candidate)
                finally:
                    _dispose(device)
            except DeviceGone:  # meanwhile, or it is another
                continue
            except DeviceError as problem:  # as before udev has given us the permission
                trouble = problem
                continue
            found += [candidate]
        return found, trouble

    def _find(self, attachment: Attachment) -> Any:
        import usb.core

        with _our_errors():
            found = list(
                usb.core.find(
                    find_all=True, backend=self._chosen_backend(), bus=attachment.bus, address=attachment.address
                )
            )
        match found:
            case [device]:
                return device
            case _:
                raise DeviceGone(_UNPLUGGED)

    def _chosen_backend(self) -> object:
        from usb.backend import libusb1

        with self._lock:
            if self._backend is None:
                self._backend = libusb1.get_backend()
            if self._backend is None:
                raise DeviceError("libusb 1.0 cannot be loaded: install the package libusb-1.0-0")
            return self._backend


class UsbPipe:
    """The two bulk endpoints of one claimed interface, and its control requests. Timeouts are in seconds.

    Every method raises `DeviceGone`, `DeviceTimeout`, `DeviceStall`, `ProtocolError` or another `DeviceError`.
    """

    def __init__(self, device: Any, interface: Any) -> None:
        self._device = device
        self._number = interface.bInterfaceNumber
        endpoints = list(interface)
        self._out = _bulk(endpoints, direction=0x00)
        self._in = _bulk(endpoints, direction=0x80)
        self.packet_size = _packet(self._in)  # bytes; a shorter packet ends a message
        # Some readers put their class descriptor behind the endpoints, where USB parsers count it to the last of them.
        extras = [bytes(part.extra_descriptors) for part in (interface, *endpoints)]
        self.class_descriptor = b"".join(extras)

    def write(self, data: bytes, timeout: float) -> None:
        """Send `data` as one transfer; one of whole packets is ended by an empty packet (USB 2.0, 5.8.3)."""
        with _our_errors():
            sent = self._out.write(data, _milliseconds(timeout))
            if sent != len(data):
                raise DeviceTimeout(f"the device took {sent} of {len(data)} bytes in time")
            if data and len(data) % _packet(self._out) == 0:
                self._out.write(b"", _milliseconds(timeout))

    def read(self, size: int, timeout: float) -> bytes:
        """What the device sends next: up to a short packet, or `size` bytes rounded up to whole packets.

        An empty answer is an empty packet.
        """
        whole = -(-size // self.packet_size) * self.packet_size
        with _our_errors():
            return bytes(self._in.read(whole, _milliseconds(timeout)))

    def control(self, request_type: int, request: int, value: int, data: bytes | int, timeout: float) -> bytes:
        """One control request to the claimed interface (USB 2.0, 9.3): sends `data`, or asks for that many bytes."""
        with _our_errors():
            answer = self._device.ctrl_transfer(
                request_type, request, value, self._number, data, _milliseconds(timeout)
            )
        return bytes(answer) if request_type & FROM_DEVICE else b""

    def clear_halt(self) -> None:
        """End a STALL on both endpoints (USB 2.0, 9.4.5)."""
        with _our_errors():
            self._out.clear_halt()
            self._in.clear_halt()


@contextmanager
def _our_errors() -> Iterator[None]:
    from usb.core import USBError, USBTimeoutError

    try:
        yield
    except USBTimeoutError as error:
        raise DeviceTimeout(ERRORS[errno.ETIMEDOUT][1]) from error
    except USBError as error:
        kind, sentence = ERRORS.get(error.errno, (DeviceError, f"USB error: {error.strerror}"))
        raise kind(sentence) from error


def _recheck(device: Any, attachment: Attachment) -> None:
    """The device at the address is the one that udev described; an address is used again after a replug."""
    if (device.idVendor, device.idProduct) != (attachment.vendor_id, attachment.product_id):
        raise DeviceGone("another device is plugged in its place")
    if attachment.usb_serial and _serial(device).strip() != attachment.usb_serial.strip():
        raise DeviceGone("another device is plugged in its place")


def _in_port(device: Any, attachment: Attachment) -> bool:
    """Whether a device is in the port of the attachment, as far as both are told: a simulated bus has no ports."""
    named = re.fullmatch(r"([0-9]+)-([0-9]+(?:\.[0-9]+)*)", attachment.port)
    if named is None or not device.port_numbers:
        return True
    return (str(device.bus), ".".join(map(str, device.port_numbers))) == named.groups()


def _serial(device: Any) -> str:
    """The iSerial string, asked of the device now; "" when it has none.

    pyusb's own attribute says that there is no language where in truth permission is missing.
    """
    if not device.iSerialNumber:
        return ""
    languages = _string_descriptor(device, 0, 0)
    language = int.from_bytes(languages[:2], "little") if len(languages) >= 2 else ENGLISH
    return _string_descriptor(device, device.iSerialNumber, language).decode("utf-16-le", "replace")


def _string_descriptor(device: Any, index: int, language: int) -> bytes:
    """The contents of a string descriptor (USB 2.0, 9.6.7)."""
    answer = bytes(
        device.ctrl_transfer(
            FROM_DEVICE, GET_DESCRIPTOR, STRING << 8 | index, language, LONGEST_STRING, _milliseconds(CONTROL_TIMEOUT)
        )
    )
    return answer[2 : answer[0]] if answer else b""


def _has_interface(device: Any, interface_class: int | None) -> bool:
    if interface_class is None:
        return False
    return any(interface.bInterfaceClass == interface_class for configuration in device for interface in configuration)


def _interface(device: Any, interface_class: int) -> Any:
    for interface in _active_configuration(device):
        if interface.bInterfaceClass == interface_class and interface.bAlternateSetting == 0:
            return interface
    raise NotThisFamily(f"the device has no interface of USB class {interface_class:02X}")


def _active_configuration(device: Any) -> Any:
    """The configuration that the kernel chose; choosing again would reset what others have open on the device."""
    from usb.core import USBError

    try:
        return device.get_active_configuration()
    except USBError as error:
        if error.errno is not None:  # pyusb's way to say that the device is not configured is an error without a number
            raise
    device.set_configuration()
    return device.get_active_configuration()


def _claim(device: Any, interface: Any, attachment: Attachment) -> None:
    from usb.core import USBError
    from usb.util import claim_interface

    try:
        claim_interface(device, interface.bInterfaceNumber)
    except USBError as error:
        if error.errno != errno.EBUSY:
            raise
        raise DeviceBusy(held_by(attachment, interface.bInterfaceNumber, interface.bInterfaceClass)) from error


def _dispose(device: Any) -> None:
    from usb.util import dispose_resources

    dispose_resources(device)  # a failing release it keeps to itself: of a device that is gone nothing is left


def _bulk(endpoints: list[Any], direction: int) -> Any:
    """The first bulk endpoint of the direction (USB 2.0, table 9-13)."""
    for endpoint in endpoints:
        is_bulk = endpoint.bmAttributes & 0x03 == 0x02
        if is_bulk and endpoint.bEndpointAddress & 0x80 == direction and _packet(endpoint):
            return endpoint
    raise ProtocolError("the device's interface lacks a bulk endpoint")


def _packet(endpoint: Any) -> int:
    """The packet size in bytes; the bits above count transactions of other endpoint types."""
    return int(endpoint.wMaxPacketSize) & 0x07FF


def _milliseconds(seconds: float) -> int:
    """At least one: libusb takes 0 for unlimited."""
    return max(1, round(seconds * 1000))
