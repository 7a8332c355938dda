# SPDX-License-Identifier: Apache-2.0
"""pyusb sees the simulated devices of this process as if libusb had found them, and talks to them in its own words.

It is a pyusb backend by having the methods of `usb.backend.IBackend`. pyusb itself is imported at the first use, for
its exceptions.
"""

import errno
import os
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NoReturn, Protocol

from appliance.simulator import descriptors

_FULL_SPEED = 2  # libusb_speed

# The standard descriptors, field by field (USB 2.0, tables 9-8, 9-10, 9-12 and 9-13).
_DEVICE = struct.Struct("<BBHBBBBHHHBBBB")
_DEVICE_FIELDS = """
    bLength bDescriptorType bcdUSB bDeviceClass bDeviceSubClass bDeviceProtocol bMaxPacketSize0
    idVendor idProduct bcdDevice iManufacturer iProduct iSerialNumber bNumConfigurations
"""
_CONFIGURATION = struct.Struct("<BBHBBBBB")
_CONFIGURATION_FIELDS = """
    bLength bDescriptorType wTotalLength bNumInterfaces bConfigurationValue iConfiguration bmAttributes bMaxPower
"""
_INTERFACE = struct.Struct("<BBBBBBBBB")
_INTERFACE_FIELDS = """
    bLength bDescriptorType bInterfaceNumber bAlternateSetting bNumEndpoints
    bInterfaceClass bInterfaceSubClass bInterfaceProtocol iInterface
"""
_ENDPOINT = struct.Struct("<BBBBHB")
_ENDPOINT_FIELDS = "bLength bDescriptorType bEndpointAddress bmAttributes wMaxPacketSize bInterval"

# Standard requests, with their bmRequestType (USB 2.0, table 9-3), and the class request ABORT (CCID 1.1, 5.3.1).
_GET_STATUS = {(0x80, 0x00), (0x81, 0x00), (0x82, 0x00)}
_CLEAR_FEATURE = (0x02, 0x01)
_GET_DESCRIPTOR = (0x80, 0x06)
_GET_CONFIGURATION = (0x80, 0x08)
_SET_CONFIGURATION = (0x00, 0x09)
_GET_INTERFACE = (0x81, 0x0A)
_SET_INTERFACE = (0x01, 0x0B)
_ABORT = (0x21, 0x01)


class UsbDevice(Protocol):
    """What a plugged device offers; every method raises `OSError` as libusb would."""

    looks: descriptors.Looks
    usb_serial: str
    level: descriptors.Level
    configuration: int

    @property
    def gone(self) -> bool: ...
    def claim(self, holder: object) -> None: ...
    def release(self, holder: object) -> None: ...
    def reset(self) -> None: ...
    def clear_halt(self, endpoint: int) -> None: ...
    def halted(self, endpoint: int) -> bool: ...
    def abort(self, sequence: int) -> None: ...
    def write(self, data: bytes) -> int: ...
    def read(self, size: int, timeout: float | None) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Place:
    """A device at its address; this is what pyusb carries about."""

    device: UsbDevice
    bus: int
    address: int
    ports: tuple[int, ...] | None = None  # from the root hub on; None where there are none to tell


class Handle:
    """One opening of a device."""

    def __init__(self, device: UsbDevice) -> None:
        self.device = device


class SimulatedBackend:
    """The backend over whatever `plugged` says is there now."""

    def __init__(self, plugged: Callable[[], Iterable[Place]]) -> None:
        self._plugged = plugged

    def enumerate_devices(self) -> Iterator[Place]:
        """All that is plugged in."""
        return iter([place for place in self._plugged() if not place.device.gone])

    def get_parent(self, _: Place) -> None:
        """They hang on no hub."""

    def get_device_descriptor(self, place: Place) -> SimpleNamespace:
        """The device descriptor, and where the device is."""
        fields = _named(_DEVICE_FIELDS, _DEVICE, descriptors.device(place.device.looks, place.device.usb_serial))
        where = {"bus": place.bus, "address": place.address, "port_number": None, "port_numbers": place.ports}
        return SimpleNamespace(**fields, **where, speed=_FULL_SPEED)

    def get_configuration_descriptor(self, place: Place, index: int) -> SimpleNamespace:
        """The one configuration."""
        _only_first(index)
        fields = _named(_CONFIGURATION_FIELDS, _CONFIGURATION, descriptors.configuration(place.device.level))
        return SimpleNamespace(**fields, extra_descriptors=[])

    def get_interface_descriptor(self, place: Place, interface: int, setting: int, index: int) -> SimpleNamespace:
        """The one interface, with the class descriptor of a reader."""
        _only_first(interface, setting, index)
        fields = _named(_INTERFACE_FIELDS, _INTERFACE, descriptors.interface(place.device.level))
        return SimpleNamespace(**fields, extra_descriptors=list(descriptors.class_descriptor(place.device.level)))

    def get_endpoint_descriptor(
        self, _: Place, endpoint: int, interface: int, setting: int, index: int
    ) -> SimpleNamespace:
        """One of the two bulk endpoints."""
        _only_first(interface, setting, index)
        fields = _named(_ENDPOINT_FIELDS, _ENDPOINT, descriptors.ENDPOINTS[endpoint])
        return SimpleNamespace(**fields, bRefresh=0, bSynchAddress=0, extra_descriptors=[])

    def open_device(self, place: Place) -> Handle:
        """Open it; several may."""
        with _usb_errors():
            _present(place.device)
        return Handle(place.device)

    def close_device(self, handle: Handle) -> None:
        """Close it, and let go of the interface."""
        handle.device.release(handle)

    def get_configuration(self, handle: Handle) -> int:
        """The configuration in force; 0 for none."""
        with _usb_errors():
            _present(handle.device)
        return handle.device.configuration

    def set_configuration(self, handle: Handle, value: int) -> None:
        """Choose a configuration. Choosing the one in force resets the device, as it does with libusb."""
        with _usb_errors():
            _configure(handle.device, value)

    def set_interface_altsetting(self, handle: Handle, interface: int, setting: int) -> None:
        """There is one setting."""
        with _usb_errors():
            _present(handle.device)
            if interface or setting:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def claim_interface(self, handle: Handle, interface: int) -> None:
        """Hold the interface alone."""
        with _usb_errors():
            if interface:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            handle.device.claim(handle)

    def release_interface(self, handle: Handle, _: int) -> None:
        """Hold it no longer."""
        with _usb_errors():
            _present(handle.device)
            handle.device.release(handle)

    def bulk_write(self, handle: Handle, _endpoint: int, _interface: int, data: "array[int]", _timeout: int) -> int:
        """One transfer to the device, which takes everything at once."""
        with _usb_errors():
            return handle.device.write(data.tobytes())

    def bulk_read(self, handle: Handle, _endpoint: int, _interface: int, buffer: "array[int]", timeout: int) -> int:
        """One transfer from the device; `timeout` in milliseconds, 0 for ever."""
        with _usb_errors():
            data = handle.device.read(len(buffer), timeout / 1000 if timeout else None)
        buffer[: len(data)] = array("B", data)
        return len(data)

    def ctrl_transfer(
        self, handle: Handle, kind: int, request: int, value: int, index: int, data: "array[int]", _timeout: int
    ) -> int:
        """One control transfer; the number of bytes that went over."""
        with _usb_errors():
            _present(handle.device)
            answer = _control(handle.device, (kind, request), value, index)
            if answer is None:
                raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
        if not kind & 0x80:
            return len(data)
        answer = answer[: len(data)]
        data[: len(answer)] = array("B", answer)
        return len(answer)

    def clear_halt(self, handle: Handle, endpoint: int) -> None:
        """End a STALL."""
        with _usb_errors():
            handle.device.clear_halt(endpoint)

    def reset_device(self, handle: Handle) -> None:
        """Reset the device's port."""
        with _usb_errors():
            handle.device.reset()

    def is_kernel_driver_active(self, _handle: Handle, _interface: int) -> bool:
        """No kernel driver exists for this class."""
        return False

    def _not_found(self, *_: object) -> NoReturn:
        with _usb_errors():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    # The device has no endpoint of these kinds, and there is no kernel driver.
    intr_write = intr_read = iso_write = iso_read = _not_found
    detach_kernel_driver = attach_kernel_driver = _not_found


def _control(device: UsbDevice, request: tuple[int, int], value: int, index: int) -> bytes | None:
    """What the control endpoint answers; None for a STALL, with which it refuses what it does not know."""
    if request in _GET_STATUS:
        return bytes([device.halted(index), 0])
    if request == _GET_DESCRIPTOR:
        return descriptors.descriptor(device.looks, device.usb_serial, device.level, value)
    if request == _GET_CONFIGURATION:
        return bytes([device.configuration])
    if request == _GET_INTERFACE:
        return b"\0"
    if request == _CLEAR_FEATURE and value == 0:
        device.clear_halt(index)
        return b""
    if request == _SET_CONFIGURATION and value <= 1:
        _configure(device, value)
        return b""
    if request == _SET_INTERFACE and value == 0:
        return b""
    if request == _ABORT and device.level in descriptors.READERS:
        device.abort(value >> 8)
        return b""
    return None


def _configure(device: UsbDevice, value: int) -> None:
    if value not in (0, 1):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    device.reset()
    device.configuration = value


def _named(names: str, layout: struct.Struct, descriptor: bytes) -> Mapping[str, int]:
    return dict(zip(names.split(), layout.unpack(descriptor), strict=True))


def _only_first(*indices: int) -> None:
    """pyusb finds the end of a list of descriptors by this error."""
    if any(indices):
        raise IndexError


def _present(device: UsbDevice) -> None:
    if device.gone:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


@contextmanager
def _usb_errors() -> Iterator[None]:
    """An `OSError` of a device becomes the exception with which pyusb reports the like from libusb."""
    from usb.core import USBError, USBTimeoutError

    try:
        yield
    except TimeoutError as error:
        raise USBTimeoutError(error.strerror, None, error.errno) from error
    except OSError as error:
        raise USBError(error.strerror, None, error.errno) from error
