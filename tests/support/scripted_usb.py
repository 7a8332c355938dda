# SPDX-License-Identifier: Apache-2.0
"""A pyusb backend with one card reader: its conversation is written down beforehand, or goes wrong at a chosen step."""

import errno
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import SimpleNamespace

from usb.backend import IBackend
from usb.core import USBError, USBTimeoutError

from appliance.hsm.model import Attachment

ATR = bytes.fromhex("3BDA11FF81B1FE551F0300318473800180059000")
OUT, IN = 0x02, 0x81
PACKET = 64
SHORT_APDU, EXTENDED_APDU, TPDU, CHARACTER = 0x00020000, 0x00040000, 0x00010000, 0x00000000
AUTOMATIC_VOLTAGE = 0x08

Answer = bytes | Exception  # what a bulk IN transfer comes to


def usb_error(number: int) -> Exception:
    """The error that libusb's backend raises with this errno."""
    kind = USBTimeoutError if number == errno.ETIMEDOUT else USBError
    error: Exception = kind(errno.errorcode.get(number, "?"), -1, number)
    return error


def ccid_descriptor(
    features: int = SHORT_APDU | AUTOMATIC_VOLTAGE, longest: int = 271, voltages: int = 7, ifsd: int = 254
) -> bytes:
    """A CCID class descriptor."""
    head = bytes([54, 0x21, 0x10, 0x01, 0, voltages]) + bytes(22) + ifsd.to_bytes(4, "little") + bytes(8)
    return head + features.to_bytes(4, "little") + longest.to_bytes(4, "little") + bytes([0xFF, 0xFF, 0, 0, 0, 1])


def message(kind: int, sequence: int, data: bytes = b"", *, slot: int = 0, status: int = 0, error: int = 0) -> bytes:
    """A CCID message from the reader."""
    return bytes([kind]) + len(data).to_bytes(4, "little") + bytes([slot, sequence, status, error, 0]) + data


class Fault(StrEnum):
    """What goes wrong with one answer."""

    TIMEOUT = "timeout"
    STALL = "stall"
    GONE = "gone"
    BROKEN = "broken transfer"
    OVERFLOW = "overflow"
    SHORT = "short read"
    EMPTY = "empty message"
    SEQUENCE = "wrong sequence number"
    SLOT = "another slot"
    KIND = "wrong message type"
    LENGTH = "length longer than what comes"
    RUBBISH = "rubbish"
    FAILED = "command failed"
    ABSENT = "card absent"

    def apply(self, answer: bytes) -> list[Answer]:
        """What comes instead of `answer`; after an error in the transfer nothing comes."""
        match self:
            case Fault.TIMEOUT:
                return [usb_error(errno.ETIMEDOUT)]
            case Fault.STALL:
                return [usb_error(errno.EPIPE), usb_error(errno.EPIPE)]
            case Fault.GONE:
                return [usb_error(errno.ENODEV)]
            case Fault.BROKEN:
                return [usb_error(errno.EIO)]
            case Fault.OVERFLOW:
                return [usb_error(errno.EOVERFLOW)]
            case Fault.SHORT:
                return [answer[:-1]]
            case Fault.EMPTY:
                return [b""]
            case Fault.SEQUENCE:
                return [answer[:6] + bytes([answer[6] ^ 0x80]) + answer[7:]]
            case Fault.SLOT:
                return [answer[:5] + b"\x01" + answer[6:]]
            case Fault.KIND:
                return [b"\x84" + answer[1:]]
            case Fault.LENGTH:
                return [answer[:1] + (len(answer) - 9).to_bytes(4, "little") + answer[5:]]
            case Fault.RUBBISH:
                return [bytes(range(0x40, 0x40 + len(answer)))]
            case Fault.FAILED:
                return [message(answer[0], answer[6], status=0x40, error=0xFE)]
            case Fault.ABSENT:
                return [message(answer[0], answer[6], status=0x42, error=0xFE)]


@dataclass
class ScriptedCard:
    """Answers a list of command APDUs, in their order and no others, all written in hex."""

    script: Sequence[tuple[str, str]]
    asked: list[str] = field(default_factory=list)

    def __call__(self, apdu: bytes) -> bytes:
        expected, answer = self.script[len(self.asked)] if len(self.asked) < len(self.script) else ("nothing", "6F00")
        self.asked.append(apdu.hex().upper())
        assert self.asked[-1] == expected.replace(" ", ""), f"step {len(self.asked)}"
        return bytes.fromhex(answer)

    def all_asked(self) -> bool:
        """Whether the conversation came to its end."""
        return len(self.asked) == len(self.script)


@dataclass
class ScriptedReader:
    """The CCID side of a reader: powers its card, passes APDUs on, asks for more time, and fails where told to."""

    card: Callable[[bytes], bytes] = lambda _: b"\x90\x00"
    extensions: int = 0  # how often it asks for more time before each answer
    mute_below: int = 0  # the first so many attempts to power the card fail
    faults: dict[int, Fault] = field(default_factory=dict)  # by the number of the command, from 0
    commands: list[bytes] = field(default_factory=list)
    powered: int = 0

    def __call__(self, command: bytes) -> list[Answer]:
        number = len(self.commands)
        self.commands.append(command)
        answer = self._answer(command)
        if number in self.faults:
            return self.faults[number].apply(answer)
        more_time = message(0x80, command[6], status=0x80, error=1)
        return [*[more_time] * (self.extensions if command[0] == 0x6F else 0), answer]

    def _answer(self, command: bytes) -> bytes:
        sequence = command[6]
        assert int.from_bytes(command[1:5], "little") == len(command) - 10
        match command[0]:
            case 0x62 if self.powered < self.mute_below:
                self.powered += 1
                return message(0x80, sequence, status=0x41, error=0xFE)
            case 0x62:
                self.powered += 1
                return message(0x80, sequence, ATR)
            case 0x63 | 0x65:
                return message(0x81, sequence, status=0x01)
            case 0x6F:
                return message(0x80, sequence, self.card(command[10:]))
        raise AssertionError(f"the host sends message {command[0]:02X}")


class ScriptedUsb(IBackend):  # type: ignore[misc]  # pyusb has no types
    """One device with one interface and two bulk endpoints; `reader` makes the answers to each transfer to it."""

    def __init__(
        self,
        reader: Callable[[bytes], Sequence[Answer]],
        *,
        vendor: int = 0x234B,
        product: int = 0x0000,
        serial: str | bytes = "FSIJ-1.2.19-00667788",
        descriptor: bytes | None = None,
        interface_class: int = 0x0B,
        configured: bool = True,
        errors: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.reader = reader
        self.vendor, self.product = vendor, product
        self.serial = serial.encode("utf-16-le") if isinstance(serial, str) else serial
        self.descriptor = ccid_descriptor() if descriptor is None else descriptor
        self.interface_class = interface_class
        self.configuration = 1 if configured else 0
        self.errors = errors or {}  # name of a method -> errno
        self.endpoints = [(IN, 0x02), (OUT, 0x02)]
        self.behind_endpoints = b""
        self.present = True
        self.answers: deque[Answer] = deque()
        self.calls: list[str] = []
        self.read_sizes: list[int] = []

    @property
    def attachment(self) -> Attachment:
        """As udev would describe the device."""
        text = self.serial.decode("utf-16-le", "replace")
        return Attachment("/sys/devices/usb1/1-1", 1, 7, 1, self.vendor, self.product, text)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.errors:
            raise usb_error(self.errors[name])

    def enumerate_devices(self) -> Iterator[str]:
        self._called("enumerate_devices")
        yield from ["device"] if self.present else []

    def get_device_descriptor(self, dev: object) -> SimpleNamespace:
        return SimpleNamespace(
            bLength=18, bDescriptorType=1, bcdUSB=0x0200, bDeviceClass=0, bDeviceSubClass=0, bDeviceProtocol=0,
            bMaxPacketSize0=64, idVendor=self.vendor, idProduct=self.product, bcdDevice=0x0200, iManufacturer=1,
            iProduct=2, iSerialNumber=3 if self.serial else 0, bNumConfigurations=1, address=7, bus=1,
            port_number=1, port_numbers=(1,), speed=2,
        )  # fmt: skip

    def get_configuration_descriptor(self, dev: object, config: int) -> SimpleNamespace:
        return SimpleNamespace(
            bLength=9, bDescriptorType=2, wTotalLength=93, bNumInterfaces=1, bConfigurationValue=1, iConfiguration=0,
            bmAttributes=0x80, bMaxPower=50, extra_descriptors=b"",
        )  # fmt: skip

    def get_interface_descriptor(self, dev: object, intf: int, alt: int, config: int) -> SimpleNamespace:
        if alt:
            raise IndexError(alt)
        return SimpleNamespace(
            bLength=9, bDescriptorType=4, bInterfaceNumber=0, bAlternateSetting=0, bNumEndpoints=len(self.endpoints),
            bInterfaceClass=self.interface_class, bInterfaceSubClass=0, bInterfaceProtocol=0, iInterface=0,
            extra_descriptors=list(self.descriptor),
        )  # fmt: skip

    def get_endpoint_descriptor(self, dev: object, ep: int, intf: int, alt: int, config: int) -> SimpleNamespace:
        address, kind = self.endpoints[ep]
        return SimpleNamespace(
            bLength=7, bDescriptorType=5, bEndpointAddress=address, bmAttributes=kind, wMaxPacketSize=PACKET,
            bInterval=0, bRefresh=0, bSynchAddress=0,
            extra_descriptors=self.behind_endpoints if ep == len(self.endpoints) - 1 else b"",
        )  # fmt: skip

    def open_device(self, dev: object) -> str:
        self._called("open_device")
        return "handle"

    def close_device(self, dev_handle: object) -> None:
        self._called("close_device")

    def get_configuration(self, dev_handle: object) -> int:
        self._called("get_configuration")
        return self.configuration

    def set_configuration(self, dev_handle: object, config_value: int) -> None:
        self._called("set_configuration")
        self.configuration = config_value

    def claim_interface(self, dev_handle: object, intf: int) -> None:
        self._called("claim_interface")

    def release_interface(self, dev_handle: object, intf: int) -> None:
        self._called("release_interface")

    def clear_halt(self, dev_handle: object, ep: int) -> None:
        self._called("clear_halt")

    def ctrl_transfer(
        self,
        dev_handle: object,
        kind: int,
        request: int,
        value: int,
        index: int,
        data: "array[int]",
        timeout: int,
    ) -> int:
        self._called("ctrl_transfer")
        if (kind, request) != (0x80, 0x06):
            self.calls.append(f"control {kind:02X} {request:02X} {value:04X} {index:04X} {data.tobytes().hex()}")
            return len(data)
        text = b"\x09\x04" if value == 0x0300 else self.serial
        raw = (bytes([len(text) + 2, 3]) + text)[: len(data)]
        data[: len(raw)] = array("B", raw)
        return len(raw)

    def bulk_write(self, dev_handle: object, ep: int, intf: int, data: "array[int]", timeout: int) -> int:
        self._called("bulk_write")
        assert ep == OUT
        assert timeout > 0
        if data:
            self.answers.extend(self.reader(data.tobytes()))
        return len(data)

    def bulk_read(self, dev_handle: object, ep: int, intf: int, buff: "array[int]", timeout: int) -> int:
        self._called("bulk_read")
        assert ep == IN
        assert timeout > 0
        assert len(buff) % PACKET == 0
        self.read_sizes.append(len(buff))
        if not self.answers:
            raise usb_error(errno.ETIMEDOUT)
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        if len(answer) > len(buff):
            self.answers.appendleft(answer[len(buff) :])
            answer = answer[: len(buff)]
        buff[: len(answer)] = array("B", answer)
        return len(answer)
