# SPDX-License-Identifier: Apache-2.0
"""Endpoint 0 answers what a kernel, libusb and a CCID driver ask, and refuses the rest with a STALL."""

import errno
from collections.abc import AsyncIterator

import pytest

from appliance.simulator import descriptors
from appliance.simulator.descriptors import Level
from appliance.simulator.usbip import UsbIpServer
from tests.support.simulated import SERIAL, Plugs, token
from tests.support.usbip_wire import Wire

DEVICE = "12010002000000404b23000010000102030 1".replace(" ", "")
CONFIGURATION_LENGTH = 9 + 9 + 54 + 7 + 7
CONFIGURATION = f"0902{CONFIGURATION_LENGTH:02x}000101008032"
INTERFACE = "0904000002 0b000000".replace(" ", "")
ENDPOINTS = "07050102400000" + "07058102400000"


@pytest.fixture
async def wire(plugs: Plugs) -> AsyncIterator[Wire]:
    """An imported device."""
    token(plugs.folder / "a.token")
    await plugs.settled()
    server = UsbIpServer(plugs.bus.plugged)
    yield await Wire.attach(await server.start("127.0.0.1", 0), "1-2")
    await Wire.close_all()
    await server.close()


def string(text: str) -> str:
    """A string descriptor."""
    return (bytes([2 + 2 * len(text), 3]) + text.encode("utf-16-le")).hex()


@pytest.mark.parametrize(
    ("kind", "request_", "value", "index", "size", "expected"),
    [
        # The enumeration of a Linux kernel: the device with 64 bytes, then whole; the configuration by its head.
        (0x80, 0x06, 0x0100, 0, 64, DEVICE),
        (0x80, 0x06, 0x0100, 0, 18, DEVICE),
        (0x80, 0x06, 0x0100, 0, 8, DEVICE[:16]),
        (0x80, 0x06, 0x0200, 0, 9, CONFIGURATION),
        (0x80, 0x06, 0x0300, 0, 255, "04030904"),
        (0x80, 0x06, 0x0301, 0x0409, 255, string("appliance-console")),
        (0x80, 0x06, 0x0302, 0x0409, 255, string("Simulated OpenPGP token")),
        (0x80, 0x06, 0x0303, 0x0409, 255, string(f"SIM-0.1-{SERIAL}")),
        (0x80, 0x06, 0x0303, 0x0409, 2, string(f"SIM-0.1-{SERIAL}")[:4]),
        (0x80, 0x06, 0x0303, 0x0409, 0, ""),
        (0x80, 0x08, 0, 0, 1, "01"),
        (0x81, 0x0A, 0, 0, 1, "00"),
        (0x80, 0x00, 0, 0, 2, "0000"),
        (0x81, 0x00, 0, 0, 2, "0000"),
        (0x82, 0x00, 0, 0x00, 2, "0000"),
        (0x82, 0x00, 0, 0x81, 2, "0000"),
        (0xA1, 0x02, 0, 0, 4, (4000).to_bytes(4, "little").hex()),
        (0xA1, 0x03, 0, 0, 256, (10753).to_bytes(4, "little").hex()),
    ],
)
async def test_what_is_asked_for_is_answered(
    wire: Wire, kind: int, request_: int, value: int, index: int, size: int, expected: str
) -> None:
    """In full, or as much as was asked for."""
    answer = await wire.control(kind, request_, value, index, size)

    assert (answer.status, answer.length, answer.data.hex()) == (0, len(expected) // 2, expected)


async def test_the_configuration_has_all_its_parts(wire: Wire) -> None:
    """Interface, CCID class descriptor, endpoints; a host may ask for more than there is, or for less."""
    whole = (await wire.control(0x80, 0x06, 0x0200, 0, 0xFFFF)).data

    assert whole.hex() == CONFIGURATION + INTERFACE + descriptors.CCID[Level.APDU].hex() + ENDPOINTS
    for size in (4, 9, 32, CONFIGURATION_LENGTH):
        assert (await wire.control(0x80, 0x06, 0x0200, 0, size)).data == whole[:size]


@pytest.mark.parametrize(
    ("kind", "request_", "value", "index", "size"),
    [
        (0x80, 0x06, 0x0600, 0, 10),  # device qualifier: the device has one speed (USB 2.0, 9.6.2)
        (0x80, 0x06, 0x0700, 0, 9),  # other speed
        (0x80, 0x06, 0x0F00, 0, 5),  # BOS, of USB 2.01 and later
        (0x80, 0x06, 0x0101, 0, 18),
        (0x80, 0x06, 0x0201, 0, 9),
        (0x80, 0x06, 0x0304, 0x0409, 255),
        (0x80, 0x06, 0x03EE, 0, 18),  # Microsoft's
        (0x80, 0x00, 0, 1, 2),
        (0x81, 0x00, 0, 1, 2),
        (0x82, 0x00, 0, 0x82, 2),
        (0x81, 0x0A, 0, 1, 1),
        (0x00, 0x09, 2, 0, 0),
        (0x01, 0x0B, 1, 0, 0),
        (0x01, 0x0B, 0, 1, 0),
        (0x00, 0x01, 1, 0, 0),  # a remote wake-up
        (0x00, 0x03, 1, 0, 0),
        (0x00, 0x03, 2, 0x0100, 0),  # a test mode
        (0x02, 0x01, 1, 0x81, 0),
        (0x02, 0x03, 0, 0x82, 0),
        (0x21, 0x01, 0x0001, 0, 0),  # ABORT of another slot
        (0xA1, 0x02, 0, 1, 4),
        (0x21, 0x09, 0, 0, 0),
        (0xC0, 0x51, 0, 0, 8),
        (0x80, 0xFF, 0, 0, 8),
    ],
)
async def test_what_is_not_known_is_refused(
    wire: Wire, kind: int, request_: int, value: int, index: int, size: int
) -> None:
    """With EPIPE, and the next request is answered: endpoint 0 does not stay halted."""
    answer = await wire.control(kind, request_, value, index, size)

    assert (answer.status, answer.length) == (-errno.EPIPE, 0)
    assert (await wire.control(0x80, 0x08, size=1)).data == b"\1"


async def test_data_to_a_request_that_takes_none_is_refused(wire: Wire) -> None:
    """Also to one that is known, and it has no effect."""
    assert (await wire.control(0x00, 0x09, 0, data=b"data")).status == -errno.EPIPE
    assert (await wire.control(0x80, 0x08, size=1)).data == b"\1"


async def test_a_configuration_is_chosen(wire: Wire) -> None:
    """And told again."""
    for value in (0, 1):
        answer = await wire.control(0x00, 0x09, value)
        assert (answer.status, answer.length) == (0, 0)
        assert (await wire.control(0x80, 0x08, size=1)).data == bytes([value])


@pytest.mark.parametrize(("kind", "request_"), [(0x00, 0x09), (0x01, 0x0B)])
async def test_choosing_anew_ends_a_halt(wire: Wire, kind: int, request_: int) -> None:
    """A configuration, or the interface's setting (USB 2.0, 9.1.1.5)."""
    await wire.control(0x02, 0x03, 0, 0x81)
    assert (await wire.control(0x82, 0x00, 0, 0x81, 2)).data == b"\1\0"

    await wire.control(kind, request_, 1 if kind == 0x00 else 0)

    assert (await wire.control(0x82, 0x00, 0, 0x81, 2)).data == b"\0\0"


async def test_an_abort_is_finished_by_its_message(wire: Wire) -> None:
    """ABORT with a sequence number: all fails until PC_to_RDR_Abort has come with the same (CCID 1.1, 5.3.1)."""
    assert (await wire.control(0x21, 0x01, 0x0500)).status == 0

    for message, expected in (
        ("65000000000004000000", "810000000000 04 41ff00"),  # GetSlotStatus
        ("72000000000005000000", "810000000000 05 010000"),  # Abort
        ("65000000000006000000", "810000000000 06 010000"),
    ):
        wire.submit_out(1, bytes.fromhex(message))
        await wire.answer()
        wire.submit_in(1, 64)
        assert (await wire.answer()).data == bytes.fromhex(expected)
