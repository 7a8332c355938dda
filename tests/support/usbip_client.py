# SPDX-License-Identifier: Apache-2.0
"""A pyusb backend that reaches one device on a USB/IP server, so that firmware which is such a server can be driven.

Messages: Documentation/usb/usbip_protocol.rst of the Linux kernel.
"""

import errno
import itertools
import os
import socket
import struct
import time
from array import array
from collections.abc import Iterator
from types import SimpleNamespace

from usb.backend import IBackend
from usb.core import USBError, USBTimeoutError

from appliance.hsm.model import Attachment

VERSION = 0x0111
REQ_DEVLIST, REP_DEVLIST, REQ_IMPORT, REP_IMPORT = 0x8005, 0x0005, 0x8003, 0x0003
CMD_SUBMIT, CMD_UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
DIR_OUT, DIR_IN = 0, 1

OPERATION = struct.Struct(">HHI")  # version, code, status
DEVICE = struct.Struct(">256s32sIIIHHHBBBBBB")  # path, bus id, numbers and speed, ids, classes, configurations
URB = struct.Struct(">IIIIIIiiii8s")  # command, sequence number, device, direction, endpoint; five fields; SETUP
UNLINK_TIMEOUT = 5.0  # seconds; the server itself has to answer
CONTROL_TIMEOUT = 5000  # milliseconds

DEVICE_DESCRIPTOR = struct.Struct("<BBHBBBBHHHBBBB")
FIELDS = {
    1: "bLength bDescriptorType bcdUSB bDeviceClass bDeviceSubClass bDeviceProtocol bMaxPacketSize0 idVendor idProduct "
    "bcdDevice iManufacturer iProduct iSerialNumber bNumConfigurations",
    2: "bLength bDescriptorType wTotalLength bNumInterfaces bConfigurationValue iConfiguration bmAttributes bMaxPower",
    4: "bLength bDescriptorType bInterfaceNumber bAlternateSetting bNumEndpoints bInterfaceClass bInterfaceSubClass "
    "bInterfaceProtocol iInterface",
    5: "bLength bDescriptorType bEndpointAddress bmAttributes wMaxPacketSize bInterval",
}
LAYOUTS = {2: struct.Struct("<BBHBBBBB"), 4: struct.Struct("<BBBBBBBBB"), 5: struct.Struct("<BBBBHB")}


def usb_error(number: int) -> Exception:
    """The error that libusb's backend raises with this errno."""
    kind = USBTimeoutError if number == errno.ETIMEDOUT else USBError
    error: Exception = kind(os.strerror(number), None, number)
    return error


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly that many bytes. Raises `EOFError` at the end of the stream."""
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


class UsbIpBackend(IBackend):  # type: ignore[misc]  # pyusb has no types
    """One device of a server, the first unless it is named; on the bus from `attach` to `detach`."""

    def __init__(self, host: str, port: int, bus_id: str = "") -> None:
        super().__init__()
        self._where = host, port
        self._bus_id = bus_id
        self._sock: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._device_id = 0
        self._address = 0
        self.device = SimpleNamespace()
        self.configuration: list[SimpleNamespace] = []

    def attach(self) -> Attachment:
        """Import the device, which is a plug-in, and describe it as udev would."""
        bus_id = self._bus_id.encode().ljust(32, b"\0") if self._bus_id else self._first()
        self._sock = socket.create_connection(self._where, timeout=UNLINK_TIMEOUT)
        self._sock.sendall(OPERATION.pack(VERSION, REQ_IMPORT, 0) + bus_id)
        _operation(self._sock, REP_IMPORT)
        _, _, bus, number, *_ = DEVICE.unpack(receive(self._sock, DEVICE.size))
        self._device_id = bus << 16 | number
        self._address += 1
        self._read_descriptors()
        serial = self._string(self.device.iSerialNumber) if self.device.iSerialNumber else ""
        ids = (self.device.idVendor, self.device.idProduct)
        return Attachment("/sys/usbip", 1, self._address, self._address, *ids, serial)

    def detach(self) -> None:
        """Close the connection, which is an unplugging."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _first(self) -> bytes:
        with socket.create_connection(self._where, timeout=UNLINK_TIMEOUT) as sock:
            sock.sendall(OPERATION.pack(VERSION, REQ_DEVLIST, 0))
            _operation(sock, REP_DEVLIST)
            if not int.from_bytes(receive(sock, 4)):
                raise usb_error(errno.ENODEV)
            bus_id: bytes = DEVICE.unpack(receive(sock, DEVICE.size))[1]
            return bus_id

    def _read_descriptors(self) -> None:
        raw = self._control(0x80, 0x06, 0x0100, 0, 18)
        # From the descriptor, not from the server's record of it, whose ids are not always right.
        self.device = _named(1, DEVICE_DESCRIPTOR, raw)
        where = {"bus": 1, "address": self._address, "port_number": 1, "port_numbers": (1,), "speed": 2}
        vars(self.device).update(where)
        head = self._control(0x80, 0x06, 0x0200, 0, 9)
        self.configuration = _parse(self._control(0x80, 0x06, 0x0200, 0, int.from_bytes(head[2:4], "little")))

    def _string(self, index: int) -> str:
        return self._control(0x80, 0x06, 0x0300 | index, 0x0409, 254)[2:].decode("utf-16-le", "replace")

    def _control(self, kind: int, request: int, value: int, index: int, size: int) -> bytes:
        buffer = array("B", bytes(size))
        length = self.ctrl_transfer(None, kind, request, value, index, buffer, CONTROL_TIMEOUT)
        return buffer.tobytes()[:length]

    # One transfer

    def _submit(self, endpoint: int, direction: int, data: "array[int]", timeout: int, setup: bytes = bytes(8)) -> int:
        if self._sock is None:
            raise usb_error(errno.ENODEV)
        sequence = next(self._numbers)
        payload = data.tobytes() if direction == DIR_OUT else b""
        head = (CMD_SUBMIT, sequence, self._device_id, direction, endpoint, 0, len(data), 0, 0, 0, setup)
        try:
            self._sock.sendall(URB.pack(*head) + payload)
            answer = self._wait(self._sock, sequence, direction, timeout / 1000)
        except (EOFError, OSError) as error:
            if isinstance(error, USBError):
                raise
            self.detach()
            raise usb_error(errno.ENODEV) from error
        if direction == DIR_OUT:
            return len(data)
        data[: len(answer)] = array("B", answer)
        return len(answer)

    def _wait(self, sock: socket.socket, sequence: int, direction: int, timeout: float) -> bytes:
        """The data of the answer; the request is taken back when there is none in time."""
        deadline = time.monotonic() + timeout
        taken_back = False
        while True:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                raw = receive(sock, 1)
            except TimeoutError:
                if taken_back:
                    raise EOFError from None
                taken_back = True
                deadline = time.monotonic() + UNLINK_TIMEOUT
                head = (CMD_UNLINK, next(self._numbers), self._device_id, 0, 0, sequence, 0, 0, 0, 0, bytes(8))
                sock.sendall(URB.pack(*head))
                continue
            sock.settimeout(UNLINK_TIMEOUT)
            command, answered, _, _, _, status, length, *_ = URB.unpack(raw + receive(sock, URB.size - 1))
            if command == RET_UNLINK:
                raise usb_error(errno.ETIMEDOUT)
            if command != RET_SUBMIT or answered != sequence:
                raise EOFError
            data = receive(sock, length) if direction == DIR_IN and length > 0 else b""
            if status:
                raise usb_error(0x100000000 - status)
            if taken_back:
                receive(sock, URB.size)  # the answer to the taking back, which came too late
            return data

    # pyusb

    def enumerate_devices(self) -> Iterator[str]:
        yield from ["device"] if self._sock else []

    def get_device_descriptor(self, dev: object) -> SimpleNamespace:
        return self.device

    def get_configuration_descriptor(self, dev: object, config: int) -> SimpleNamespace:
        return self.configuration[0]

    def get_interface_descriptor(self, dev: object, intf: int, alt: int, config: int) -> SimpleNamespace:
        settings = [part for part in self.configuration if part.bDescriptorType == 4]
        return [part for part in settings if part.bInterfaceNumber == settings[0].bInterfaceNumber + intf][alt]

    def get_endpoint_descriptor(self, dev: object, ep: int, intf: int, alt: int, config: int) -> SimpleNamespace:
        start = self.configuration.index(self.get_interface_descriptor(dev, intf, alt, config))
        return self.configuration[start + 1 + ep]

    def open_device(self, dev: object) -> str:
        if self._sock is None:
            raise usb_error(errno.ENODEV)
        return "handle"

    def close_device(self, dev_handle: object) -> None:
        pass

    def get_configuration(self, dev_handle: object) -> int:
        return self._control(0x80, 0x08, 0, 0, 1)[0]

    def set_configuration(self, dev_handle: object, config_value: int) -> None:
        self._control(0x00, 0x09, config_value, 0, 0)

    def claim_interface(self, dev_handle: object, intf: int) -> None:
        pass

    def release_interface(self, dev_handle: object, intf: int) -> None:
        pass

    def clear_halt(self, dev_handle: object, ep: int) -> None:
        self._control(0x02, 0x01, 0, ep, 0)

    def ctrl_transfer(
        self, dev_handle: object, kind: int, request: int, value: int, index: int, data: "array[int]", timeout: int
    ) -> int:
        setup = struct.pack("<BBHHH", kind, request, value, index, len(data))
        return self._submit(0, DIR_IN if kind & 0x80 else DIR_OUT, data, timeout, setup)

    def bulk_write(self, dev_handle: object, ep: int, intf: int, data: "array[int]", timeout: int) -> int:
        return self._submit(ep & 0x0F, DIR_OUT, data, timeout)

    def bulk_read(self, dev_handle: object, ep: int, intf: int, buff: "array[int]", timeout: int) -> int:
        return self._submit(ep & 0x0F, DIR_IN, buff, timeout)


def _operation(sock: socket.socket, expected: int) -> None:
    _, code, status = OPERATION.unpack(receive(sock, OPERATION.size))
    if code != expected or status:
        raise usb_error(errno.ENODEV)


def _named(kind: int, layout: struct.Struct, raw: bytes) -> SimpleNamespace:
    return SimpleNamespace(**dict(zip(FIELDS[kind].split(), layout.unpack_from(raw), strict=True)))


def _parse(raw: bytes) -> list[SimpleNamespace]:
    """The descriptors of a configuration in their order, each with the class-specific ones that follow it."""
    parts: list[SimpleNamespace] = []
    while len(raw) >= 2 and raw[0] >= 2:
        if raw[1] in LAYOUTS:
            part = _named(raw[1], LAYOUTS[raw[1]], raw)
            part.extra_descriptors, part.bRefresh, part.bSynchAddress = b"", 0, 0
            parts.append(part)
        else:
            parts[-1].extra_descriptors += raw[: raw[0]]
        raw = raw[raw[0] :]
    return parts
