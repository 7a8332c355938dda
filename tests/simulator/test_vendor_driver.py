# SPDX-License-Identifier: Apache-2.0
"""The socket of a simulated vendor's driver: which device is in which slot, and what becomes of a message to one."""

import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from appliance.errors import StateError
from appliance.hsm.usb import UsbBus
from appliance.simulator.descriptors import VENDOR_CLASS
from appliance.simulator.families import LUNA, OPENPGP, PKCS11, Family
from appliance.simulator.faults import Fault, Misdeed, When
from appliance.simulator.pyusb_backend import SimulatedBackend
from appliance.simulator.vendor_driver import VendorDriver
from appliance.simulator.vendor_library import SOURCES
from tests.support.token_bus import TokenBus

BOUND = 20.0  # seconds to wait for anything
INFO = b"\1\0\0"  # TOKEN INFO
LOGIN = b"\3\0\6\0wrong"
OK, SLOT_ID_INVALID, ARGUMENTS_BAD, DEVICE_ERROR, DEVICE_REMOVED, TOKEN_NOT_PRESENT = 0, 3, 7, 0x30, 0x32, 0xE0


class Desk:
    """Two Lunas and something else, and the driver of Lunas."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first, self.second, self.other = buses = [
            self._bus("first", "1", LUNA),
            self._bus("second", "2", LUNA),
            self._bus("other", "3", OPENPGP),
        ]
        self.other.plug()
        self.bus = UsbBus(
            SimulatedBackend(
                lambda: [replace(place, bus=number) for number, bus in enumerate(buses, 1) for place in bus._places()]
            )
        )
        self.driver = VendorDriver(self.bus, LUNA, folder / "luna.sock")

    def _bus(self, name: str, serial: str, family: Family) -> TokenBus:
        (self.folder / name).mkdir()
        return TokenBus(self.folder / name, serial, 1, family)

    def reached(self, message: bytes) -> None:
        """Wait until the first device has heard it."""
        deadline = time.monotonic() + BOUND
        while message not in self.first.commands:
            assert time.monotonic() < deadline
            time.sleep(0.005)


class Library:
    """What the library does at the socket."""

    def __init__(self, path: Path) -> None:
        self.line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.settimeout(BOUND)
        self.line.connect(str(path))

    def slots(self) -> list[tuple[bool, int]]:
        """Whether there is something in each, and how often something was put in."""
        self.line.send(b"L")
        answer = self.line.recv(8192)
        told = [struct.unpack_from("<BI", answer, 1 + 5 * number) for number in range(answer[0])]
        assert answer[1 + 5 * answer[0] :] == b"Luna UHD Slot"
        return [(bool(flags & 1), insertions) for flags, insertions in told]

    def send(self, slot: int, message: bytes = INFO, insertion: int = 0) -> None:
        """A message to a device."""
        self.line.send(struct.pack("<cBI", b"X", slot, insertion) + message)

    def receive(self) -> tuple[int, bytes]:
        """The code, and the device's answer."""
        answer = self.line.recv(8192)
        return int.from_bytes(answer[:4], "little"), answer[4:]

    def ask(self, slot: int, message: bytes = INFO, insertion: int = 0) -> tuple[int, bytes]:
        """Both."""
        self.send(slot, message, insertion)
        return self.receive()

    def until_closed(self) -> None:
        """Wait until the driver has closed the connection, perhaps with an answer before."""
        with suppress(ConnectionResetError):  # it did so before it read what was sent
            while self.line.recv(8192):
                pass

    def serial(self, slot: int) -> str:
        """Of what is in a slot."""
        code, answer = self.ask(slot)
        assert code == OK
        return answer[3 + 48 : 3 + 64].rstrip(b"\0").decode().lstrip("0")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Nothing is plugged in yet but what is none of the driver's."""
    made = Desk(tmp_path)
    with made.driver:
        yield made
    assert [thread.name for thread in threading.enumerate() if "luna.sock" in thread.name] == []


@pytest.fixture
def library(desk: Desk) -> Iterator[Library]:
    """One that is connected."""
    made = Library(desk.folder / "luna.sock")
    with made.line:
        yield made


def test_each_device_has_a_slot(desk: Desk, library: Library) -> None:
    """From when it is plugged in; a slot stays, and the next device comes into the first that is empty."""
    seen = [library.slots()]
    desk.first.plug()
    seen.append(library.slots())
    desk.second.plug()
    seen.append(library.slots())
    assert [library.serial(slot) for slot in (0, 1)] == ["1", "2"]
    desk.first.unplug()
    seen.append(library.slots())
    assert library.ask(0) == (TOKEN_NOT_PRESENT, b"")
    desk.first.plug()
    seen.append(library.slots())

    assert seen == [
        [],
        [(True, 1)],
        [(True, 1), (True, 1)],
        [(False, 1), (True, 1)],
        [(True, 2), (True, 1)],
    ]


def test_there_are_as_many_slots_as_the_library_takes(tmp_path: Path) -> None:
    """Devices beyond them are in none, which is logged once, until a slot is empty."""
    token = TokenBus(tmp_path, "1", 0, LUNA)
    token.plug()
    crowd = [replace(place, bus=bus) for place in token._places() for bus in range(300)]
    path = tmp_path / "luna.sock"
    with VendorDriver(UsbBus(SimulatedBackend(lambda: crowd)), LUNA, path), structlog.testing.capture_logs() as logged:
        library = Library(path)
        with library.line:
            seen = [library.slots(), library.slots()]
            beyond = library.ask(128)[0]
            del crowd[5]
            after = library.slots()

    assert seen == [[(True, 1)] * 128] * 2
    assert beyond == SLOT_ID_INVALID
    assert after == [(True, 2 if slot == 5 else 1) for slot in range(128)]
    assert [(entry["slots"], entry["left_out"]) for entry in logged if "no slot left" in entry["event"]] == [(128, 172)]
    assert "MOST_SLOTS = 128" in SOURCES[0].with_name("module.h").read_text()


def test_a_device_that_was_swapped_is_not_meant(desk: Desk, library: Library) -> None:
    """A message for an insertion reaches no later one."""
    desk.first.plug()
    [(_, insertion)] = library.slots()
    assert library.ask(0, INFO, insertion)[0] == OK
    desk.first.plug()

    assert library.ask(0, LOGIN, insertion) == (DEVICE_REMOVED, b"")
    assert LOGIN not in desk.first.commands
    assert library.ask(0, INFO, insertion + 1)[0] == OK


@pytest.mark.parametrize(
    "packet",
    [b"?", b"X", bytes.fromhex("580000000000"), bytes.fromhex("5800000000000100"), b"X" + bytes(5 + 3137)],
    ids=["unknown", "nothing", "no message", "half a head", "too long"],
)
def test_what_is_no_request_is_refused(library: Library, packet: bytes) -> None:
    """And the next one is heard."""
    library.line.send(packet)

    assert library.receive() == (ARGUMENTS_BAD, b"")
    assert library.ask(0) == (SLOT_ID_INVALID, b"")


@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(Misdeed.STALL, times=1), DEVICE_ERROR),
        (Fault(Misdeed.SHORT, times=1, length=2), DEVICE_ERROR),
        (Fault(Misdeed.SHORT, times=1, length=5), DEVICE_ERROR),
        (Fault(Misdeed.BUSY, times=1), DEVICE_ERROR),
        (Fault(Misdeed.VANISH), DEVICE_REMOVED),
    ],
    ids=["stall", "no header", "short", "busy", "vanish"],
)
def test_a_fault_is_a_code(desk: Desk, library: Library, fault: Fault, code: int, when: When) -> None:
    """The message may have reached the device; one that is still there answers the next."""
    desk.first.plug(Fault(fault.do, when=when, times=fault.times, length=fault.length))

    assert library.ask(0) == (code, b"")
    assert library.ask(0)[0] == (TOKEN_NOT_PRESENT if fault.do is Misdeed.VANISH else OK)


def test_a_device_that_another_holds_is_an_error(desk: Desk, library: Library) -> None:
    """Nobody is thrown out; between two exchanges the driver itself holds nothing."""
    here = desk.first.plug()
    library.serial(0)
    with desk.bus.open(here, VENDOR_CLASS):
        assert library.ask(0) == (DEVICE_ERROR, b"")

    assert library.serial(0) == "1"


def test_a_silent_device_keeps_its_library_waiting(desk: Desk, library: Library) -> None:
    """Until it is pulled out; others are answered meanwhile, and the next device, too."""
    desk.first.plug(Fault(Misdeed.HANG))
    desk.second.plug()
    library.send(0)
    other = Library(desk.folder / "luna.sock")
    with other.line:
        assert other.serial(1) == "2"
        desk.reached(INFO)
        desk.first.unplug()

        assert library.receive() == (DEVICE_REMOVED, b"")
        desk.first.plug()
        assert other.serial(0) == "1"


def test_a_late_answer_is_nobody_elses(desk: Desk, library: Library) -> None:
    """Who stops waiting for one leaves it to the driver; who comes next hears what he asked for."""
    desk.first.plug(Fault(Misdeed.SLOW, at="LOGIN", seconds=0.5))
    library.send(0, LOGIN)
    desk.reached(LOGIN)
    library.line.close()
    other = Library(desk.folder / "luna.sock")
    with other.line:
        assert other.serial(0) == "1"


def test_nobody_waits_for_a_driver_that_ends(desk: Desk, library: Library) -> None:
    """Neither a library whose device is silent nor one that waits behind it; the socket is gone."""
    desk.first.plug(Fault(Misdeed.HANG))
    library.send(0)
    desk.reached(INFO)
    behind = Library(desk.folder / "luna.sock")
    with behind.line:
        behind.send(0)
        desk.driver.close()

        behind.until_closed()
    library.until_closed()
    assert not (desk.folder / "luna.sock").exists()


def test_only_we_may_connect(desk: Desk) -> None:
    """The socket is nobody else's; what a killed driver left is replaced."""
    path = desk.folder / "luna.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (desk.folder / "pkcs11.sock").touch()
    with VendorDriver(desk.bus, PKCS11, desk.folder / "pkcs11.sock"):
        assert (desk.folder / "pkcs11.sock").is_socket()


def test_where_no_socket_can_be_is_said(desk: Desk) -> None:
    """A path that is too long, a folder that is not there."""
    for path in (desk.folder / ("x" * 120), desk.folder / "none" / "luna.sock"):
        with pytest.raises(StateError, match="no socket can be made there"):
            VendorDriver(desk.bus, LUNA, path).start()
