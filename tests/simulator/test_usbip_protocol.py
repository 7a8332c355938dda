# SPDX-License-Identifier: Apache-2.0
"""The bytes of USB/IP, held against the layouts of the kernel's documentation."""

import errno
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.hsm.model import Attachment
from appliance.simulator import usbip_protocol as protocol
from appliance.simulator.usbip_protocol import Export, Malformed, Request, Result, Setup, Status, Submit, Unlink

ATTACHMENT = Attachment("/devices/simulated/usb1/a.token", 1, 7, 1, 0x234B, 0x0000, "SIM-0.1-00667788")
NO_SETUP = Setup(0, 0, 0, 0, 0)
GET_DEVICE_DESCRIPTOR = Setup(0x80, 6, 0x0100, 0, 64)

# Bytes as a Linux kernel sends them: command, number, device, direction, endpoint, then five fields and SETUP.
SUBMIT_IN = "00000001 00000010 00010007 00000001 00000001 00000200 00000140 00000000 00000000 00000000" + "00" * 8
SUBMIT_OUT = "00000001 00000011 00010007 00000000 00000001 00000040 00000080 00000000 ffffffff 00000000" + "00" * 8
CONTROL = "00000001 00000012 00010007 00000001 00000000 00000200 00000040 00000000 00000000 00000000 8006000100004000"
SHORT_NOT_OK = "00000001 00000013 00010007 00000001 00000001 00000001 00004000 00000000 00000000 00000000" + "00" * 8
UNLINK = "00000002 00000014 00010007 00000000 00000000 00000010" + "00" * 24


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (SUBMIT_IN, Submit(0x10, 0x10007, 0x81, 0x140, NO_SETUP, short_not_ok=False, zero_packet=False)),
        (SUBMIT_OUT, Submit(0x11, 0x10007, 0x01, 0x80, NO_SETUP, short_not_ok=False, zero_packet=True)),
        (CONTROL, Submit(0x12, 0x10007, 0x80, 64, GET_DEVICE_DESCRIPTOR, short_not_ok=False, zero_packet=False)),
        (SHORT_NOT_OK, Submit(0x13, 0x10007, 0x81, 0x4000, NO_SETUP, short_not_ok=True, zero_packet=False)),
        (UNLINK, Unlink(0x14, 0x10007, 0x10)),
    ],
)
def test_commands_are_understood(data: str, expected: Submit | Unlink) -> None:
    """Each field is taken from its place; the direction becomes bit 7 of the endpoint."""
    assert protocol.command(bytes.fromhex(data)) == expected


def altered(text: str, field: int, value: int) -> bytes:
    """The command with one of its ten numbers replaced."""
    data = bytearray.fromhex(text)
    struct.pack_into(">I", data, 4 * field, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(0, kind) for kind in (0, 3, 4, 5, 0xFFFFFFFF)],
        *[(3, direction) for direction in (2, 0xFFFFFFFF)],
        *[(4, endpoint) for endpoint in (16, 0x81, 0xFFFFFFFF)],
        *[(6, length) for length in (protocol.LONGEST_TRANSFER + 1, 0x7FFFFFFF, 0xFFFFFFFF)],
        *[(8, packets) for packets in (1, 32)],
    ],
)
@pytest.mark.parametrize("text", [SUBMIT_IN, SUBMIT_OUT])
def test_what_cannot_be_is_malformed(text: str, field: int, value: int) -> None:
    """An unknown command, a direction or endpoint that does not exist, a length out of bounds, isochronous packets."""
    with pytest.raises(Malformed):
        protocol.command(altered(text, field, value))


def test_the_longest_transfer_is_none_too_long() -> None:
    """The bound itself is allowed."""
    command = protocol.command(altered(SUBMIT_OUT, 6, protocol.LONGEST_TRANSFER))

    assert isinstance(command, Submit)
    assert command.length == 1 << 20


@pytest.mark.parametrize(
    ("data", "expected"),
    [("0111 8005 00000000", Request.DEVICES), ("0111 8003 00000000", Request.IMPORT)],
)
def test_a_connection_begins_with_a_request(data: str, expected: Request) -> None:
    """OP_REQ_DEVLIST and OP_REQ_IMPORT."""
    assert protocol.operation(bytes.fromhex(data)) is expected


@pytest.mark.parametrize("data", ["0110 8005 00000000", "0111 0005 00000000", "0111 8002 00000000", "00" * 8])
def test_other_beginnings_are_malformed(data: str) -> None:
    """Another version, an answer, an operation that nobody uses."""
    with pytest.raises(Malformed):
        protocol.operation(bytes.fromhex(data))


@given(st.binary(min_size=48, max_size=48))
def test_any_command_is_understood_or_malformed(data: bytes) -> None:
    """No other error comes of random bytes, and what is accepted is within its bounds."""
    try:
        command = protocol.command(data)
    except Malformed:
        return
    if isinstance(command, Submit):
        assert command.length <= protocol.LONGEST_TRANSFER
        assert command.endpoint & 0x7F <= 15


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (protocol.reply(Request.DEVICES, Status.OK, bytes(4)), "0111 0005 00000000 00000000"),
        (protocol.reply(Request.IMPORT, Status.BUSY), "0111 0003 00000002"),
        (protocol.reply(Request.IMPORT, Status.GONE), "0111 0003 00000004"),
        (
            protocol.submitted(9, Result.received(b"abc")),
            "00000003 00000009" + "00" * 16 + "00000003" + "00" * 20 + "616263",
        ),
        (protocol.submitted(9, Result(0, 5)), "00000003 00000009" + "00" * 16 + "00000005" + "00" * 20),
        (protocol.submitted(9, Result(-errno.EPIPE)), "00000003 00000009" + "00" * 12 + "ffffffe0" + "00" * 24),
        (protocol.unlinked(9, -errno.ECONNRESET), "00000004 00000009" + "00" * 12 + "ffffff98" + "00" * 24),
        (protocol.unlinked(9, 0), "00000004 00000009" + "00" * 40),
    ],
)
def test_answers_are_those_bytes(message: bytes, expected: str) -> None:
    """Header, status, length and data are where the documentation has them."""
    assert message.hex() == bytes.fromhex(expected).hex()


def test_a_device_is_described_for_the_kernel() -> None:
    """Path, bus id, numbers, full speed, ids, classes, and one interface of class CCID."""
    record = Export(ATTACHMENT).record_with_interfaces()

    assert len(record) == 0x138 + 4
    assert record[:256].rstrip(b"\0") == b"/sys/devices/simulated/usb1/1-7"
    assert record[256:288].rstrip(b"\0") == b"1-7"
    assert record[288:].hex(" ", 2) == bytes.fromhex(
        "00000001 00000007 00000002  234b 0000 0010  00 00 00  01 01 01  0b 00 00 00"
    ).hex(" ", 2)
    assert Export(ATTACHMENT).number == 0x00010007
    assert Export(ATTACHMENT).record() == record[:-4]


def test_a_record_has_the_ids_of_the_device() -> None:
    """Vendor and product are the attachment's, whatever family it is of."""
    record = Export(replace(ATTACHMENT, vendor_id=0x20A0, product_id=0x4230)).record()

    assert struct.unpack_from(">HH", record, 300) == (0x20A0, 0x4230)
