# SPDX-License-Identifier: Apache-2.0
"""A simulated device is, for pyusb, a device: descriptors, transfers, errors; and it misbehaves when told to."""

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import usb.core
import usb.util
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.hsm.model import Attachment
from appliance.hsm.usb import UsbBus
from appliance.simulator import descriptors
from appliance.simulator.descriptors import Level
from appliance.simulator.device import SimulatedDevice
from appliance.simulator.families import OPENPGP
from appliance.simulator.faults import When
from appliance.simulator.pyusb_backend import Place, SimulatedBackend
from appliance.simulator.token_file import TokenFile
from tests.support.simulated import (
    ACTIVATE,
    BOUND,
    POWER_ON,
    SELECT,
    SERIAL,
    SLOT_STATUS,
    TERMINATE,
    TRANSFER,
    VERIFY_ADMIN,
    Host,
    token,
)
from tests.support.tokens import make_token, openpgp

Observed = list[tuple[int, str, When]]


class Port:
    """One device in one port, without a bus that watches."""

    def __init__(self, path: Path, observe: Callable[[Path, int, bytes, When], None] | None = None) -> None:
        file = TokenFile(path)
        flash = openpgp(file.read())
        self.left: list[float | None] = []
        self.device = SimulatedDevice(
            file, OPENPGP, flash, f"SIM-0.1-{flash.serial}", lambda _, back: self.left.append(back), observe
        )
        self.backend = SimulatedBackend(lambda: [Place(self.device, 1, 7)])

    def host(self) -> Host:
        """Another program that opens it."""
        device = usb.core.find(backend=self.backend)
        assert device is not None
        return Host(device)


@pytest.fixture
def port(tmp_path: Path) -> Port:
    """A device that behaves."""
    return Port(token(tmp_path / "a.token", keys=1))


def broken(tmp_path: Path, *faults: dict[str, Any]) -> Port:
    """A device that does not."""
    return Port(token(tmp_path / "a.token", *faults))


def error_of(action: Callable[[], object]) -> int | None:
    """The errno with which pyusb reports that it failed."""
    with pytest.raises(usb.core.USBError) as caught:
        action()
    assert isinstance(caught.value, usb.core.USBTimeoutError) is (caught.value.errno == errno.ETIMEDOUT)
    number: int | None = caught.value.errno
    return number


# Descriptors and control requests


def test_the_device_says_what_it_is(port: Port) -> None:
    """Ids, place, speed and strings."""
    device = port.host().device

    assert (device.idVendor, device.idProduct, device.bus, device.address) == (0x234B, 0x0000, 1, 7)
    assert (device.serial_number, device.manufacturer) == ("SIM-0.1-00667788", "appliance-console")
    assert device.product == "Simulated OpenPGP token"
    assert "Smart Card" in str(device)
    assert device.parent is None


def test_the_class_descriptor_is_that_of_a_short_apdu_reader(port: Port) -> None:
    """54 bytes, one slot, T=1, short APDU level, messages of up to 271 bytes (CCID 1.1, 5.1)."""
    (interface,) = port.host().device.get_active_configuration()
    descriptor = bytes(interface.extra_descriptors)

    assert interface.bInterfaceClass == 0x0B
    assert (len(descriptor), descriptor[0], descriptor[1], descriptor[4]) == (54, 54, 0x21, 0)
    assert int.from_bytes(descriptor[6:10], "little") == 2
    assert int.from_bytes(descriptor[40:44], "little") == 0x0002047A
    assert int.from_bytes(descriptor[44:48], "little") == 271


@pytest.mark.parametrize(("level", "features"), [(Level.TPDU, "BA000100"), (Level.EXTENDED, "7A040400")])
def test_a_token_in_another_reader_says_so(tmp_path: Path, level: Level, features: str) -> None:
    """The descriptor differs in dwFeatures alone, in fields and on the wire: what the reader does by itself."""
    device = Port(make_token(tmp_path / "b.token", "667788", level=level)).host().device
    (interface,) = device.get_active_configuration()
    descriptor = bytes(interface.extra_descriptors)
    short = descriptors.CCID[Level.APDU]

    assert descriptor == short[:40] + bytes.fromhex(features) + short[44:]
    assert descriptor in bytes(device.ctrl_transfer(0x80, 6, 0x0200, 0, 255))


def test_the_descriptors_read_over_the_wire_are_the_same(port: Port) -> None:
    """GET_DESCRIPTOR gives in bytes what the backend gives in fields."""
    device = port.host().device

    whole = bytes(device.ctrl_transfer(0x80, 6, 0x0200, 0, 255))
    (interface,) = configuration = device.get_active_configuration()
    assert len(whole) == configuration.wTotalLength == int.from_bytes(whole[2:4], "little")
    assert bytes(interface.extra_descriptors) in whole
    assert bytes(device.ctrl_transfer(0x80, 6, 0x0100, 0, 18))[8:12] == bytes.fromhex("4B230000")
    assert bytes(device.ctrl_transfer(0x80, 6, 0x0300, 0, 255)) == bytes.fromhex("04030904")
    assert len(device.ctrl_transfer(0x80, 6, 0x0200, 0, 9)) == 9


@pytest.mark.parametrize(
    ("request_type", "request_code", "value", "expected"),
    [(0x80, 8, 0, b"\1"), (0x81, 10, 0, b"\0"), (0x80, 0, 0, b"\0\0")],
)
def test_standard_requests_are_answered(
    port: Port, request_type: int, request_code: int, value: int, expected: bytes
) -> None:
    """GET_CONFIGURATION, GET_INTERFACE, GET_STATUS."""
    assert bytes(port.host().device.ctrl_transfer(request_type, request_code, value, 0, 8)) == expected


@pytest.mark.parametrize(
    ("request_type", "request_code", "value"),
    [(0x80, 6, 0x0304), (0x80, 6, 0x0F00), (0xC0, 1, 0), (0xA1, 2, 0), (0xA1, 3, 0), (0x00, 9, 7)],
)
def test_unknown_requests_are_stalled(port: Port, request_type: int, request_code: int, value: int) -> None:
    """A string or descriptor that does not exist, vendor requests, clock frequencies, another configuration: EPIPE."""
    device = port.host().device

    assert error_of(lambda: device.ctrl_transfer(request_type, request_code, value, 0, 8)) == errno.EPIPE


def test_the_configuration_can_be_set(port: Port) -> None:
    """Even to none; setting it anew resets the device."""
    host = port.host().started()

    host.device.set_configuration(0)
    assert error_of(host.device.get_active_configuration) is None
    host.device.set_configuration(1)
    assert host.device.get_active_configuration().bConfigurationValue == 1
    host.device.set_interface_altsetting(0, 0)
    host.send(SLOT_STATUS)
    assert host.receive()[7] == 1


# Transfers


def test_a_message_of_whole_packets_ends_with_an_empty_one(port: Port) -> None:
    """So that a host that reads more than there is need not wait (USB 2.0, 5.8.3)."""
    host = port.host().started()
    host.send(TRANSFER, bytes.fromhex("0084000034"))  # 52 random bytes, 9000 and the header make 64

    packets = [bytes(host.device.read(0x81, 64, 1000)) for _ in range(3)]

    assert [len(packet) for packet in packets] == [10, 64, 0]
    assert error_of(lambda: host.device.read(0x81, 64, 1)) == errno.ETIMEDOUT


def test_a_long_message_comes_in_packets(port: Port) -> None:
    """Whatever the host's buffer is, in whole packets."""
    host = port.host().started()
    host.send(TRANSFER, bytes.fromhex("00840000FF"))
    host.device.read(0x81, 64, 1000)

    parts = [bytes(host.device.read(0x81, 128, 1000)) for _ in range(3)]

    assert [len(part) for part in parts] == [128, 128, 11]


def test_a_buffer_that_is_too_small_is_an_overflow(port: Port) -> None:
    """As with a real host controller."""
    host = port.host()
    host.send(POWER_ON)

    assert error_of(lambda: host.device.read(0x81, 10, 1000)) == errno.EOVERFLOW


@pytest.mark.parametrize("size", [64, 32, 16])
def test_a_message_may_come_in_several_transfers_of_whole_packets(port: Port, size: int) -> None:
    """What is not whole packets ends the message, too early or not."""
    host = port.host().started()
    apdu = bytes.fromhex("00DA005B27") + b"x" * 39
    message = bytes([TRANSFER]) + len(apdu).to_bytes(4, "little") + bytes(5) + apdu + b"\0" * 20

    for start in range(0, len(message), size):
        host.device.write(1, message[start : start + size], 1000)

    assert host.receive()[7:9] == b"\x40\x01"


def test_a_message_of_whole_packets_need_not_end_with_an_empty_one(port: Port) -> None:
    """It may, and then the empty packet means nothing."""
    host = port.host().started()
    apdu = (b"\0\xda\0\x5b\x31" + b"x" * 49).hex()

    for _ in range(2):
        assert host.apdu(apdu) == "6982"
        host.device.write(1, b"", 1000)


def test_a_message_that_stops_is_answered(port: Port) -> None:
    """One that announces more than comes: bad length, and the next one is understood."""
    host = port.host()
    host.device.write(1, b"\x62\xff\0\0\0\0\x05\0\0\0", 1000)

    assert host.receive()[6:9] == b"\x05\x41\x01"
    assert host.power_on()[0] == 0x3B


def test_reading_ends_in_time(port: Port) -> None:
    """ETIMEDOUT when nothing was asked."""
    assert error_of(lambda: port.host().device.read(0x81, 64, 1)) == errno.ETIMEDOUT


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=150), max_size=5))
def test_no_bytes_break_the_device(port: Port, transfers: list[bytes]) -> None:
    """Whatever is written, the device can be used after a reset of its port."""
    host = port.host()
    for transfer in transfers:
        host.device.write(1, transfer, 1000)
    host.device.reset()

    assert host.started().apdu("00CA004F00").endswith("9000")
    host.close()


# Claims


def test_only_one_program_holds_the_interface(port: Port) -> None:
    """Another gets EBUSY until the first lets go."""
    first, second = port.host(), port.host()
    usb.util.claim_interface(first.device, 0)

    assert error_of(lambda: usb.util.claim_interface(second.device, 0)) == errno.EBUSY
    first.close()
    usb.util.claim_interface(second.device, 0)


def test_closing_lets_go_of_the_interface(port: Port) -> None:
    """Also when the program did not: the kernel does it for one that ended."""
    (place,) = port.backend.enumerate_devices()
    handle = port.backend.open_device(place)
    port.backend.claim_interface(handle, 0)

    port.backend.close_device(handle)

    usb.util.claim_interface(port.host().device, 0)


def test_there_is_one_interface(port: Port) -> None:
    """Another cannot be claimed, and there is no kernel driver to detach."""
    device = port.host().device

    assert error_of(lambda: usb.util.claim_interface(device, 1)) == errno.ENOENT
    assert not device.is_kernel_driver_active(0)
    assert error_of(lambda: device.detach_kernel_driver(0)) == errno.ENOENT


def test_our_own_driver_layer_opens_it(port: Port) -> None:
    """The product's USB module finds the device by its attachment."""
    attachment = Attachment("/a", 1, 7, 0, 0x234B, 0, f"SIM-0.1-{SERIAL}")

    with UsbBus(port.backend).open(attachment, 0x0B) as pipe:
        pipe.write(b"\x62" + bytes(9), 1.0)
        assert pipe.read(271, 1.0)[0] == 0x80
        assert len(pipe.class_descriptor) == 54


# The plug


@pytest.mark.parametrize(
    "pull",
    [
        lambda port: port.device.unplug(),
        lambda port: port.device.file.path.rename(port.device.file.path.with_name("b")),
    ],
)
def test_everything_fails_after_unplugging(port: Port, pull: Callable[[Port], None]) -> None:
    """ENODEV, whether the bus has noticed or not; and it is found no more."""
    host, other = port.host().started(), port.host()
    pull(port)

    assert error_of(lambda: host.apdu(SELECT)) == errno.ENODEV
    assert error_of(lambda: host.device.read(0x81, 64, 1000)) == errno.ENODEV
    assert error_of(lambda: host.device.ctrl_transfer(0x80, 8, 0, 0, 1)) == errno.ENODEV
    assert error_of(lambda: host.device.clear_halt(0x81)) == errno.ENODEV
    assert error_of(host.device.reset) == errno.ENODEV
    assert error_of(lambda: usb.util.claim_interface(other.device, 0)) == errno.ENODEV
    assert error_of(other.device.set_configuration) == errno.ENODEV
    assert usb.core.find(backend=port.backend) is None
    host.close()


def test_unplugging_ends_a_transfer_under_way(port: Port) -> None:
    """A host that waits hears of it at once, not when its time is over."""
    host = port.host()
    usb.util.claim_interface(host.device, 0)
    found: list[int | None] = []
    reader = threading.Thread(target=lambda: found.append(error_of(lambda: host.device.read(0x81, 64, 600_000))))
    reader.start()
    end = time.monotonic() + BOUND
    while not vars(port.device._changed)["_waiters"] and time.monotonic() < end:
        time.sleep(0.001)

    port.device.unplug()
    reader.join(BOUND)

    assert found == [errno.ENODEV]


def test_a_power_cut_drops_the_authorisation_and_keeps_the_rest(port: Port) -> None:
    """The same file in another device object is the same card without power."""
    host = port.host().started()
    assert host.apdu(VERIFY_ADMIN) == "9000"
    assert host.apdu("00DA005B0142") == "9000"
    port.device.unplug()

    host = Port(port.device.file.path).host().started()
    assert host.apdu("00CA005B00") == "429000"
    assert host.apdu("00DA005B0143") == "6982"


def test_what_a_termination_leaves_is_erased_at_the_next_power_up(port: Port) -> None:
    """After the reset the ciphertext is still in the file; the KEK is not, and never comes back."""
    path = port.device.file.path
    before = openpgp(path.read_bytes())
    host = port.host().started()
    assert [host.apdu(apdu) for apdu in (VERIFY_ADMIN, TERMINATE, ACTIVATE)] == ["9000"] * 3
    (sealed,) = [key.sealed for key in before.keys.values()]
    assert sealed.hex() in path.read_text()
    assert before.kek.hex() not in path.read_text()
    port.device.unplug()

    Port(path).host().started()

    assert sealed.hex() not in path.read_text()


# Observers


def test_an_observer_sees_each_command_twice(tmp_path: Path) -> None:
    """Before its effect and after, numbered from one, also over a power cut of the card alone."""
    seen: Observed = []
    port = Port(token(tmp_path / "a.token"), lambda _, number, apdu, when: seen.append((number, apdu.hex(), when)))
    host = port.host().started()
    host.started()

    select = SELECT.lower()
    assert seen == [
        (1, select, When.BEFORE),
        (1, select, When.AFTER),
        (2, select, When.BEFORE),
        (2, select, When.AFTER),
    ]


@pytest.mark.parametrize(("side", "terminated"), [(When.BEFORE, False), (When.AFTER, True)])
def test_an_observer_can_pull_the_plug(tmp_path: Path, side: When, terminated: bool) -> None:
    """On either side of a command's effect; the host sees ENODEV in both cases."""
    path = token(tmp_path / "a.token")

    def observe(file: Path, _: int, apdu: bytes, when: When) -> None:
        if apdu.hex().upper() == TERMINATE and when is side:
            file.rename(tmp_path / "pulled")

    host = Port(path, observe).host().started()
    host.apdu(VERIFY_ADMIN)

    assert error_of(lambda: host.apdu(TERMINATE)) == errno.ENODEV
    assert openpgp((tmp_path / "pulled").read_bytes()).terminated is terminated
    assert not path.exists()


# Faults


def test_a_hanging_device_answers_nothing_more(tmp_path: Path) -> None:
    """From the command on, whatever the host tries, until it is unplugged."""
    port = broken(tmp_path, {"do": "hang", "at": 2})
    host = port.host().started()

    assert error_of(lambda: host.apdu(SELECT, 1)) == errno.ETIMEDOUT
    host.send(SLOT_STATUS)
    assert error_of(lambda: host.receive(1)) == errno.ETIMEDOUT
    assert Port(port.device.file.path).host().power_on()[0] == 0x3B


def test_a_stall_ends_when_it_is_cleared(tmp_path: Path) -> None:
    """EPIPE for each reading, and a halted endpoint in GET_STATUS; then the next command is answered."""
    host = broken(tmp_path, {"do": "stall", "at": 2, "times": 1}).host().started()

    assert error_of(lambda: host.apdu(SELECT)) == errno.EPIPE
    assert error_of(lambda: host.receive()) == errno.EPIPE
    assert bytes(host.device.ctrl_transfer(0x82, 0, 0, 0x81, 2)) == b"\1\0"
    host.device.clear_halt(0x81)
    assert host.apdu(SELECT) == "9000"


@pytest.mark.parametrize("length", [0, 3, 12, 40])
def test_a_short_answer_is_cut_off(tmp_path: Path, length: int) -> None:
    """Only so many bytes of the message arrive, the header is as it was."""
    host = broken(tmp_path, {"do": "short", "at": "GET DATA", "length": length}).host().started()
    host.send(TRANSFER, bytes.fromhex("00CA00C500"))
    host.device.read(0x81, 64, 1000)

    answer = bytes(host.device.read(0x81, 320, 1000))

    assert len(answer) == length
    assert answer[:5] == b"\x80\x3e\0\0\0"[:length]


@pytest.mark.parametrize(("when", "terminated"), [("before", False), ("after", True)])
def test_a_device_vanishes_on_either_side_of_the_effect(tmp_path: Path, when: str, terminated: bool) -> None:
    """Its file stays, and holds what happened."""
    port = broken(tmp_path, {"do": "vanish", "at": "TERMINATE", "when": when, "back": 2})
    host = port.host().started()
    host.apdu(VERIFY_ADMIN)

    assert error_of(lambda: host.apdu(TERMINATE)) == errno.ENODEV
    assert port.left == [2]
    assert openpgp(port.device.file.path.read_bytes()).terminated is terminated


def test_a_lying_device_says_another_serial_number(tmp_path: Path) -> None:
    """In its AID, from the command on, until its power is cut; USB says the true one."""
    port = broken(tmp_path, {"do": "serial", "serial": "0000000b", "at": 1, "times": 1})
    host = port.host().started()

    assert host.apdu("00CA004F00")[20:28] == "0000000B"
    assert host.device.serial_number.endswith(SERIAL)
    assert host.started().apdu("00CA004F00")[20:28] == SERIAL


def test_a_busy_device_cannot_be_claimed(tmp_path: Path) -> None:
    """As often as the fault says."""
    host = broken(tmp_path, {"do": "busy", "times": 2}).host()

    assert [error_of(lambda: usb.util.claim_interface(host.device, 0)) for _ in range(2)] == [errno.EBUSY] * 2
    assert host.power_on()[0] == 0x3B


def test_a_slow_device_asks_for_time(tmp_path: Path) -> None:
    """Time extensions come until the answer is there."""
    host = broken(tmp_path, {"do": "slow", "at": 2, "seconds": 1.1}).host().started()
    host.send(TRANSFER, bytes.fromhex(SELECT))

    answers = [bytes(host.device.read(0x81, 320, 5000)) for _ in range(4)]

    assert [answer[7] for answer in answers] == [0x80, 0x80, 0x80, 0x00]


def test_faults_are_counted_in_the_file(tmp_path: Path) -> None:
    """A device that failed once does not fail again after it was plugged in anew."""
    port = broken(tmp_path, {"do": "vanish", "at": "SELECT", "times": 1}, {"do": "hang", "at": 9})
    host = port.host()
    host.power_on()
    assert error_of(lambda: host.apdu(SELECT)) == errno.ENODEV

    flash = openpgp(port.device.file.path.read_bytes())
    assert [fault.times for fault in flash.faults] == [0, None]
    assert Port(port.device.file.path).host().started().apdu(SELECT) == "9000"


def test_faults_survive_a_reset(tmp_path: Path) -> None:
    """They are the device's, not the card's."""
    port = broken(tmp_path, {"do": "hang", "at": 99})
    host = port.host().started()

    assert [host.apdu(apdu) for apdu in (VERIFY_ADMIN, TERMINATE, ACTIVATE)] == ["9000"] * 3
    assert len(openpgp(port.device.file.path.read_bytes()).faults) == 1


def test_abort_comes_in_two_halves(port: Port) -> None:
    """The class request, then the message with the same sequence number."""
    host = port.host()
    host.device.ctrl_transfer(0x21, 1, 2 << 8, 0, None)
    host.send(SLOT_STATUS)
    assert host.receive()[8] == 0xFF

    host.send(0x72)
    assert host.receive()[7:9] == b"\x01\x00"
