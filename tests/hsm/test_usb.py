# SPDX-License-Identifier: Apache-2.0
"""Opening an attachment takes exactly that device, and every USB failure becomes one of our errors."""

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest
from usb.backend import libusb1
from usb.core import USBError, USBTimeoutError

from appliance.errors import (
    DeviceBusy,
    DeviceError,
    DeviceGone,
    DeviceStall,
    DeviceTimeout,
    NotThisFamily,
    ProtocolError,
)
from appliance.hsm.usb import ERRORS, UsbBus
from tests.support.scripted_usb import IN, OUT, Answer, ScriptedUsb, ccid_descriptor

CCID = 0x0B


def silent(_: bytes) -> list[Answer]:
    """A device that takes everything and answers nothing."""
    return []


def test_the_device_is_opened_claimed_and_given_back() -> None:
    """Nothing else is done to a configured device, and nothing is kept after the block."""
    backend = ScriptedUsb(silent)

    with UsbBus(backend).open(backend.attachment, CCID):
        assert backend.calls[-1] == "claim_interface"

    assert backend.calls[-2:] == ["release_interface", "close_device"]
    assert "set_configuration" not in backend.calls


def test_the_device_is_given_back_after_an_error() -> None:
    """An exception in the block passes, and the interface is released."""
    backend = ScriptedUsb(silent)

    with pytest.raises(KeyError), UsbBus(backend).open(backend.attachment, CCID):
        raise KeyError

    assert backend.calls[-2:] == ["release_interface", "close_device"]


@pytest.mark.parametrize("known", [True, False])
def test_devices_are_counted_without_opening_them(known: bool) -> None:
    """Where devices with an id are is read from what the system knows of them."""
    backend = ScriptedUsb(silent)
    place = backend.attachment
    ids = [(place.vendor_id, place.product_id if known else place.product_id + 1), (0xF055, 1)]

    assert UsbBus(backend).addresses(ids) == ({(place.bus, place.address)} if known else set())
    assert "open_device" not in backend.calls


@pytest.mark.parametrize("known", [True, False])
def test_devices_are_counted_by_their_interfaces(known: bool) -> None:
    """A smart card reader counts whatever its id."""
    backend = ScriptedUsb(silent)
    place = backend.attachment

    assert UsbBus(backend).addresses([], CCID if known else 0x03) == ({(place.bus, place.address)} if known else set())


def test_an_unconfigured_device_is_configured() -> None:
    """Only then: choosing a configuration again would reset what others have open."""
    backend = ScriptedUsb(silent, configured=False)

    with UsbBus(backend).open(backend.attachment, CCID):
        assert backend.configuration == 1


@pytest.mark.parametrize(
    "change",
    [
        {"bus": 2},
        {"address": 8},
        {"vendor_id": 0x20A0},
        {"product_id": 0x4211},
        {"usb_serial": "FSIJ-1.2.19-00667789"},
        {"usb_serial": "00667788"},
    ],
    ids=str,
)
def test_another_device_is_gone(change: dict[str, int | str]) -> None:
    """A device at another address, of another id or with another iSerial is not the one that was shown."""
    backend = ScriptedUsb(silent)

    with (
        pytest.raises(DeviceGone),
        UsbBus(backend).open(replace(backend.attachment, **change), CCID),  # type: ignore[arg-type]  # table
    ):
        pytest.fail("opened")

    assert "claim_interface" not in backend.calls


def test_an_unplugged_device_is_gone() -> None:
    """Nothing at the address is said as such."""
    backend = ScriptedUsb(silent)
    attachment = backend.attachment
    backend.present = False

    with pytest.raises(DeviceGone), UsbBus(backend).open(attachment, CCID):
        pytest.fail("opened")


@pytest.mark.parametrize("serial", [b"", b"\x00", b"\x00\xd8", "FSIJ ".encode("utf-16-le")])
def test_odd_serials_open(serial: bytes) -> None:
    """No iSerial, or one that is no text, is compared as the kernel shows it and is no obstacle."""
    backend = ScriptedUsb(silent, serial=serial)

    with UsbBus(backend).open(backend.attachment, CCID) as pipe:
        assert pipe.class_descriptor == ccid_descriptor()


def test_a_serial_that_udev_did_not_read_is_not_compared() -> None:
    """An attachment without iSerial asks the device for none."""
    backend = ScriptedUsb(silent)

    with UsbBus(backend).open(replace(backend.attachment, usb_serial=""), CCID):
        assert "ctrl_transfer" not in backend.calls


@pytest.mark.parametrize(
    ("method", "number", "expected", "sentence"),
    [
        ("open_device", errno.EACCES, DeviceError, "udev rules"),
        ("open_device", errno.ENODEV, DeviceGone, "unplugged"),
        ("claim_interface", errno.EBUSY, DeviceBusy, "another program holds the device"),
        ("claim_interface", errno.ENOENT, DeviceGone, "unplugged"),
        ("ctrl_transfer", errno.EPIPE, DeviceStall, "refused"),
        ("ctrl_transfer", errno.EACCES, DeviceError, "udev rules"),
        ("ctrl_transfer", errno.ENODEV, DeviceGone, "unplugged"),
        ("enumerate_devices", errno.ENOMEM, DeviceError, "memory"),
        ("get_configuration", errno.EIO, DeviceGone, "unplugged"),
    ],
)
def test_a_failure_while_opening_is_named(method: str, number: int, expected: type[DeviceError], sentence: str) -> None:
    """Missing permission, a busy interface and an unplugged device are told apart, and the handle is closed."""
    backend = ScriptedUsb(silent, errors={method: number})

    with pytest.raises(expected, match=sentence) as caught, UsbBus(backend).open(backend.attachment, CCID):
        pytest.fail("opened")

    assert type(caught.value) is expected
    assert backend.calls.count("close_device") == ("open_device" in backend.calls and method != "open_device")


def test_a_failing_release_is_no_failure() -> None:
    """Of a device that is gone there is nothing left to release."""
    backend = ScriptedUsb(silent, errors={"release_interface": errno.ENODEV})

    with UsbBus(backend).open(backend.attachment, CCID):
        pass


def test_a_missing_interface_is_another_family() -> None:
    """The USB id misled when there is no interface of the class."""
    backend = ScriptedUsb(silent, interface_class=0xFF)

    with pytest.raises(NotThisFamily, match="0B"), UsbBus(backend).open(backend.attachment, CCID):
        pytest.fail("opened")


@pytest.mark.parametrize("endpoints", [[], [(IN, 2)], [(OUT, 2)], [(IN, 3), (OUT, 2)], [(IN, 2), (OUT, 1)]], ids=str)
def test_missing_endpoints_are_a_protocol_error(endpoints: list[tuple[int, int]]) -> None:
    """Only bulk endpoints will do, one each way."""
    backend = ScriptedUsb(silent)
    backend.endpoints = endpoints

    with pytest.raises(ProtocolError), UsbBus(backend).open(backend.attachment, CCID):
        pytest.fail("opened")


@pytest.mark.parametrize("endpoints", [[(OUT, 2), (IN, 2)], [(0x83, 3), (IN, 2), (OUT, 2)]], ids=str)
def test_endpoints_are_found_by_direction_and_type(endpoints: list[tuple[int, int]]) -> None:
    """Their order and an interrupt endpoint among them do not matter."""
    backend = ScriptedUsb(lambda data: [data[::-1]])
    backend.endpoints = endpoints

    with UsbBus(backend).open(backend.attachment, CCID) as pipe:
        pipe.write(b"ping", 1)
        assert pipe.read(64, 1) == b"gnip"


def test_a_class_descriptor_behind_the_endpoints_is_found() -> None:
    """Some readers put it there."""
    backend = ScriptedUsb(silent, descriptor=b"")
    backend.behind_endpoints = ccid_descriptor()

    with UsbBus(backend).open(backend.attachment, CCID) as pipe:
        assert pipe.class_descriptor == ccid_descriptor()


@pytest.mark.parametrize(("size", "writes"), [(1, 1), (63, 1), (64, 2), (65, 1), (128, 2), (0, 1)])
def test_a_transfer_of_whole_packets_is_ended(size: int, writes: int) -> None:
    """An empty packet follows when the device could not know otherwise that the transfer is over."""
    backend = ScriptedUsb(silent)

    with UsbBus(backend).open(backend.attachment, CCID) as pipe:
        pipe.write(bytes(size), 1)

    assert backend.calls.count("bulk_write") == writes


def test_a_read_asks_for_whole_packets() -> None:
    """Anything else overflows in the host controller; the backend asserts it."""
    backend = ScriptedUsb(lambda _: [bytes(100)])

    with UsbBus(backend).open(backend.attachment, CCID) as pipe:
        pipe.write(b"x", 1)
        assert len(pipe.read(1, 1)) == 64
        assert len(pipe.read(65, 0.0001)) == 36


def test_control_requests_go_to_the_interface() -> None:
    """Value and data pass; an answer comes back only where one was asked for."""
    backend = ScriptedUsb(silent)

    with UsbBus(backend).open(backend.attachment, CCID) as pipe:
        assert pipe.control(0x21, 0x01, 0x0500, b"ab", 1) == b""
        assert pipe.control(0xA1, 0x02, 0, 4, 1) == bytes(4)

    assert "control 21 01 0500 0000 6162" in backend.calls


def test_a_halt_is_cleared_on_both_endpoints() -> None:
    """A STALL may sit on either."""
    backend = ScriptedUsb(silent)

    with UsbBus(backend).open(backend.attachment, CCID) as pipe:
        pipe.clear_halt()

    assert backend.calls.count("clear_halt") == 2


@pytest.mark.parametrize("method", ["bulk_write", "bulk_read", "clear_halt", "ctrl_transfer"])
@pytest.mark.parametrize("number", [*ERRORS, 9999])
def test_no_usb_error_gets_out(method: str, number: int) -> None:
    """Whatever errno a transfer ends with, it is one of ours, of the class in the table."""
    backend = ScriptedUsb(silent)

    with UsbBus(backend).open(backend.attachment, CCID) as pipe:
        backend.errors[method] = number
        transfers: dict[str, Callable[[], object]] = {
            "bulk_write": lambda: pipe.write(b"x", 1),
            "bulk_read": lambda: pipe.read(1, 1),
            "clear_halt": pipe.clear_halt,
            "ctrl_transfer": lambda: pipe.control(0xA1, 1, 0, 1, 1),
        }
        with pytest.raises(DeviceError) as caught:
            transfers[method]()

    assert type(caught.value) is ERRORS.get(number, (DeviceError, ""))[0]


def test_an_error_without_a_number_is_ours() -> None:
    """pyusb raises some of its own."""
    backend = ScriptedUsb(lambda _: [USBError("odd")])

    with UsbBus(backend).open(backend.attachment, CCID) as pipe:
        pipe.write(b"x", 1)
        with pytest.raises(DeviceError, match="odd"):
            pipe.read(1, 1)


def test_a_timeout_of_any_backend_is_a_timeout() -> None:
    """The class tells it even where the number is missing."""
    backend = ScriptedUsb(lambda _: [USBTimeoutError("late")])

    with UsbBus(backend).open(backend.attachment, CCID) as pipe:
        pipe.write(b"x", 1)
        with pytest.raises(DeviceTimeout):
            pipe.read(1, 1)


def test_the_table_of_errors_is_complete() -> None:
    """Every errno that pyusb's libusb backend can raise has its line."""
    numbers = {*libusb1._libusb_errno.values(), *libusb1._transfer_errno.values()} - {None, 0}

    assert numbers - ERRORS.keys() == set()


def test_a_short_write_is_a_timeout() -> None:
    """libusb reports the bytes that went before the time was over; the rest is not known to have gone."""

    class Slow(ScriptedUsb):
        def bulk_write(self, *args: object) -> int:
            super().bulk_write(*args)  # type: ignore[arg-type]  # passed on
            return 3

    backend = Slow(silent)
    with (
        UsbBus(backend).open(backend.attachment, CCID) as pipe,
        pytest.raises(DeviceTimeout, match="3 of 5"),
    ):
        pipe.write(b"12345", 1)


def test_libusb_is_loaded_at_the_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making the bus loads nothing; the backend is made once."""
    backend = ScriptedUsb(silent)
    made: list[ScriptedUsb] = []

    def get_backend() -> ScriptedUsb:
        made.append(backend)
        return backend

    monkeypatch.setattr(libusb1, "get_backend", get_backend)
    bus = UsbBus()
    assert made == []

    for _ in range(2):
        with bus.open(backend.attachment, CCID):
            pass
    assert made == [backend]


def test_a_missing_libusb_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator learns which package is missing."""
    monkeypatch.setattr(libusb1, "get_backend", lambda: None)

    with pytest.raises(DeviceError, match=r"libusb-1\.0-0"), UsbBus().open(ScriptedUsb(silent).attachment, CCID):
        pytest.fail("opened")
