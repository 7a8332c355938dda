# SPDX-License-Identifier: Apache-2.0
"""Each token file is a device for USB/IP clients; whatever they send, the others are served."""

import asyncio
import errno
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.simulator import usbip, usbip_import
from appliance.simulator.device import SimulatedDevice
from appliance.simulator.usbip import UsbIpServer, UsbIpUnavailable, parse_address
from appliance.simulator.usbip_import import MOST_PENDING
from appliance.simulator.usbip_protocol import LONGEST_TRANSFER
from tests.support.simulated import SELECT, Plugs, token
from tests.support.threads import no_thread_for
from tests.support.usbip_client import (
    CMD_SUBMIT,
    CMD_UNLINK,
    DIR_IN,
    OPERATION,
    REQ_DEVLIST,
    REQ_IMPORT,
    RET_SUBMIT,
    RET_UNLINK,
    URB,
    VERSION,
)
from tests.support.usbip_wire import BOUND, Answer, Wire, submit_message

OUT, IN = 1, 1  # the bulk endpoints, without the direction
BUSY, GONE = 2, 4
SLOT_STATUS = bytes([0x65, 0, 0, 0, 0, 0, 1, 0, 0, 0])
POWER_ON = bytes([0x62, 0, 0, 0, 0, 0, 2, 0, 0, 0])
SHORT_NOT_OK, ZERO_PACKET = 0x01, 0x40

Address = tuple[str, int]


@pytest.fixture
async def address(plugs: Plugs) -> AsyncIterator[Address]:
    """Where the bus is served."""
    server = UsbIpServer(plugs.bus.plugged)
    yield await server.start("127.0.0.1", 0)
    await Wire.close_all()
    await server.close()


async def plug(plugs: Plugs, name: str = "a", *faults: dict[str, object]) -> Path:
    """A new token is plugged in."""
    path = token(plugs.folder.parent / f"{name}.token", *faults).rename(plugs.folder / f"{name}.token")
    await plugs.settled()
    return path


async def pull(plugs: Plugs, path: Path) -> None:
    """It is unplugged."""
    await asyncio.to_thread(path.unlink)
    await plugs.settled()


def device(plugs: Plugs, index: int = 0) -> SimulatedDevice:
    """The device behind a file."""
    return plugs.bus.plugged()[index][1]


async def bus_id(address: Address) -> str:
    """The only device."""
    (found,) = await (await Wire.connect(address)).devices()
    return found


async def attached(address: Address) -> Wire:
    """A connection with the only device."""
    return await Wire.attach(address, await bus_id(address))


def command(data: bytes, number: int = 1) -> bytes:
    """CCID XfrBlock."""
    return struct.pack("<BIBBBH", 0x6F, len(data), 0, number, 0, 0) + data


# The list


async def test_an_empty_bus_is_an_empty_list(address: Address) -> None:
    """And the connection ends after it."""
    wire = await Wire.connect(address)

    assert await wire.devices() == []
    assert await wire.ended() == b""


async def test_devices_come_and_go_with_their_files(plugs: Plugs, address: Address) -> None:
    """A bus id belongs to one plug-in: the same file plugged in again has another."""

    async def listed() -> list[str]:
        return await (await Wire.connect(address)).devices()

    first = await plug(plugs)
    second = await plug(plugs, "b")
    assert await listed() == ["1-2", "1-3"]

    away = first.rename(plugs.folder.parent / "away")
    await plugs.settled()
    assert await listed() == ["1-3"]

    away.rename(first)
    await pull(plugs, second)
    assert await listed() == ["1-4"]


# Importing


@pytest.mark.parametrize("wanted", ["1-2", "1-3", "", "1-1", "x" * 32, "\u00e4"])
async def test_what_is_not_there_cannot_be_imported(plugs: Plugs, address: Address, wanted: str) -> None:
    """Neither a device that was unplugged nor one that never was; the connection ends."""
    await pull(plugs, await plug(plugs))
    wire = await Wire.connect(address)

    assert await wire.request_import(wanted) == GONE
    assert await wire.ended() == b""


async def test_one_client_has_a_device(plugs: Plugs, address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is refused, and the first goes on."""
    monkeypatch.setattr(usbip_import, "_BUSY_TIMEOUT", 0.05)
    await plug(plugs)
    first = await attached(address)
    second = await Wire.connect(address)

    assert await second.request_import("1-2") == BUSY
    assert await second.ended() == b""
    assert (await first.control(0x80, 0x08, size=1)).data == b"\1"


async def test_a_client_that_comes_while_the_other_leaves_gets_the_device(plugs: Plugs, address: Address) -> None:
    """Attached again at once, a device is not called busy."""
    await plug(plugs)
    first = await attached(address)
    second = await Wire.connect(address)
    waiting = asyncio.create_task(second.request_import("1-2"))
    await asyncio.sleep(0)

    await first.close()

    assert await waiting == 0


async def test_a_device_that_another_program_holds_is_busy(
    plugs: Plugs, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held in this process, or by its fault."""
    monkeypatch.setattr(usbip_import, "_BUSY_TIMEOUT", 0.05)
    await plug(plugs, "a", {"do": "busy", "times": 1})

    assert await (await Wire.connect(address)).request_import("1-2") == BUSY
    device(plugs).claim("a local program")
    assert await (await Wire.connect(address)).request_import("1-2") == BUSY
    device(plugs).release("a local program")
    assert await (await Wire.connect(address)).request_import("1-2") == 0


async def test_a_device_is_let_go_as_it_was_found(plugs: Plugs, address: Address) -> None:
    """Configured, without power, nothing pending, and free; its next client gets no answer of the last one."""
    await plug(plugs)
    wire = await attached(address)
    wire.submit_out(OUT, POWER_ON)
    await wire.answer()
    await wire.control(0x00, 0x09, 0)
    wire.submit_out(OUT, POWER_ON)
    wire.submit_in(IN, 10)  # the beginning of the answer is enough to know that there is one
    wire.submit_out(OUT, command(bytes.fromhex(SELECT)))
    wire.submit_in(IN, 320)
    wire.submit_in(IN, 320)
    await wire.close()

    wire = await attached(address)
    wire.submit_out(OUT, SLOT_STATUS)
    wire.submit_in(IN, 320)
    answers = {answer.number: answer for answer in [await wire.answer(), await wire.answer()]}
    assert answers[2].data.hex() == "81000000000001010000"  # without power
    assert (await wire.control(0x80, 0x08, size=1)).data == b"\1"

    await wire.close()
    await asyncio.to_thread(device(plugs).claim, "a local program", BOUND)


async def test_a_device_is_let_go_when_there_is_a_thread_again(plugs: Plugs, address: Address) -> None:
    """Whatever the system refuses when the client leaves, its read is taken back, and the device is free in the end."""
    await plug(plugs)
    wire = await attached(address)
    wire.submit_in(IN, 320)
    assert (await wire.control(0x80, 0x08, size=1)).data == b"\1"
    refused = iter([True, False, True, False])
    with no_thread_for(lambda thread: thread.name.startswith("usbip") and next(refused)):
        await wire.close()
        await asyncio.to_thread(device(plugs).claim, "a local program", BOUND)

    assert list(refused) == []


async def test_unplugging_ends_the_connection(plugs: Plugs, address: Address) -> None:
    """Which is the unplugging for vhci_hcd; what was pending ends with ENODEV before."""
    path = await plug(plugs)
    wire = await attached(address)
    number = wire.submit_in(IN, 320)
    await wire.control(0x80, 0x08, size=1)

    await pull(plugs, path)

    assert await wire.answer() == Answer(RET_SUBMIT, number, -errno.ENODEV)
    assert await wire.ended() == b""


async def test_a_device_that_leaves_by_itself_ends_the_connection(plugs: Plugs, address: Address) -> None:
    """And is no longer listed."""
    await plug(plugs, "a", {"do": "vanish", "at": "SELECT"})
    wire = await attached(address)
    for data in (POWER_ON, command(bytes.fromhex(SELECT), 3)):
        number = wire.submit_out(OUT, data)
        answer = await wire.answer()

    assert answer == Answer(RET_SUBMIT, number, -errno.ENODEV)
    assert await wire.ended() == b""
    assert await (await Wire.connect(address)).devices() == []


async def test_closing_the_bus_and_the_server_ends_everything(plugs: Plugs) -> None:
    """Connections in every state end, and nobody can connect."""
    server = UsbIpServer(plugs.bus.plugged)
    address = await server.start("127.0.0.1", 0)
    await plug(plugs)
    wires = [await Wire.connect(address), await attached(address)]
    wires[1].submit_in(IN, 320)
    await wires[1].control(0x80, 0x08, size=1)

    await server.close()

    assert [await wire.ended() for wire in wires] == [b"", b""]
    assert device(plugs).holder is None
    with pytest.raises(ConnectionRefusedError):
        await Wire.connect(address)
    await Wire.close_all()


# Transfers


async def test_reads_wait_for_the_device(plugs: Plugs, address: Address) -> None:
    """As many as are outstanding are answered in their order, once the device has something for them."""
    await plug(plugs)
    wire = await attached(address)
    reads = [wire.submit_in(IN, 320) for _ in range(20)]
    assert (await wire.control(0x80, 0x08, size=1)).data == b"\1"

    answers = []
    for _ in reads:
        written = wire.submit_out(OUT, SLOT_STATUS)
        both = [await wire.answer(), await wire.answer()]
        assert Answer(RET_SUBMIT, written, 0, len(SLOT_STATUS)) in both
        answers += [answer for answer in both if answer.number != written]

    assert [answer.number for answer in answers] == reads
    assert {answer.data.hex() for answer in answers} == {"81000000000001010000"}


async def test_pending_reads_are_taken_back(plugs: Plugs, address: Address) -> None:
    """The one under way and those that wait behind it: ECONNRESET each, no answer of their own, and no data lost."""
    await plug(plugs)
    wire = await attached(address)
    reads = [wire.submit_in(IN, 320) for _ in range(4)]

    for read in (reads[0], reads[2], reads[1]):
        number = wire.unlink(read)
        assert await wire.answer() == Answer(RET_UNLINK, number, -errno.ECONNRESET)
    wire.submit_out(OUT, SLOT_STATUS)

    answers = [await wire.answer(), await wire.answer()]
    assert sorted(answer.number for answer in answers) == [reads[3], reads[3] + 4]
    assert next(answer for answer in answers if answer.number == reads[3]).length == 10


async def test_what_is_over_cannot_be_taken_back(plugs: Plugs, address: Address) -> None:
    """Status 0, for a transfer that was answered and for one that never was."""
    await plug(plugs)
    wire = await attached(address)
    number = wire.submit_out(OUT, SLOT_STATUS)
    await wire.answer()

    for target in (number, 4711):
        unlink = wire.unlink(target)
        assert await wire.answer() == Answer(RET_UNLINK, unlink, 0)


async def test_a_transfer_is_unlinked_once(plugs: Plugs, address: Address) -> None:
    """The second command comes too late."""
    await plug(plugs)
    wire = await attached(address)
    read = wire.submit_in(IN, 320)
    await wire.control(0x80, 0x08, size=1)

    numbers = [wire.unlink(read), wire.unlink(read)]

    answers = {answer.number: answer.status for answer in [await wire.answer(), await wire.answer()]}
    assert answers == {numbers[0]: -errno.ECONNRESET, numbers[1]: 0}


@pytest.mark.parametrize("size", [0, 1, 63, 64, 128, LONGEST_TRANSFER])
async def test_writes_of_any_length_are_taken(plugs: Plugs, address: Address, size: int) -> None:
    """The number of bytes comes back, and the connection goes on."""
    await plug(plugs)
    wire = await attached(address)

    number = wire.submit_out(OUT, bytes(size))

    assert await wire.answer() == Answer(RET_SUBMIT, number, 0, size)
    assert (await wire.control(0x80, 0x08, size=1)).data == b"\1"


async def test_an_empty_packet_ends_a_message(plugs: Plugs, address: Address) -> None:
    """A message cut short at a packet's end is whole with URB_ZERO_PACKET, and the reader complains of its length."""
    await plug(plugs)
    wire = await attached(address)
    cut_short = command(bytes(200))[:64]
    wire.submit_out(OUT, cut_short, flags=ZERO_PACKET)
    read = wire.submit_in(IN, 320)

    answers = {answer.number: answer for answer in [await wire.answer(), await wire.answer()]}

    assert answers[read].data.hex() == "80000000000001410100"


@pytest.mark.parametrize(
    ("size", "flags", "status", "length"),
    [
        (320, 0, 0, 10),
        (10, 0, 0, 10),
        (10, SHORT_NOT_OK, 0, 10),
        (320, SHORT_NOT_OK, -errno.EREMOTEIO, 10),
        (9, 0, -errno.EOVERFLOW, 0),
        (0, 0, -errno.EOVERFLOW, 0),
    ],
)
async def test_an_answer_of_ten_bytes(
    plugs: Plugs, address: Address, size: int, flags: int, status: int, length: int
) -> None:
    """It may be shorter than what was asked for, unless that was forbidden, and never longer."""
    await plug(plugs)
    wire = await attached(address)
    wire.submit_out(OUT, SLOT_STATUS)
    await wire.answer()

    number = wire.submit_in(IN, size, flags=flags)
    answer = await wire.answer()

    assert (answer.number, answer.status, answer.length) == (number, status, length)


async def test_a_stall_is_epipe_until_it_is_cleared(plugs: Plugs, address: Address) -> None:
    """Set by a fault of the device or by the host, for each direction; GET_STATUS tells."""
    await plug(plugs, "a", {"do": "stall", "at": "SELECT", "times": 1})
    wire = await attached(address)
    for data in (POWER_ON, command(bytes.fromhex(SELECT), 3)):
        wire.submit_out(OUT, data)
        await wire.answer()
    for endpoint in (0x81, 0x01):
        await wire.control(0x02, 0x03, 0, endpoint)
        assert (await wire.control(0x82, 0x00, 0, endpoint, 2)).data == b"\1\0"
        wire.submit_in(IN, 320) if endpoint & 0x80 else wire.submit_out(OUT, SLOT_STATUS)
        assert (await wire.answer()).status == -errno.EPIPE

        await wire.control(0x02, 0x01, 0, endpoint)
        assert (await wire.control(0x82, 0x00, 0, endpoint, 2)).data == b"\0\0"

    wire.submit_out(OUT, SLOT_STATUS)
    assert (await wire.answer()).status == 0


async def test_a_halt_ends_a_pending_read(plugs: Plugs, address: Address) -> None:
    """At once."""
    await plug(plugs)
    wire = await attached(address)
    read = wire.submit_in(IN, 320)
    wire.submit_out(0, b"", setup=struct.pack("<BBHHH", 0x02, 0x03, 0, 0x81, 0))

    answers = [await wire.answer(), await wire.answer()]

    assert Answer(RET_SUBMIT, read, -errno.EPIPE) in answers


@pytest.mark.parametrize(("endpoint", "inbound"), [(2, True), (2, False), (15, True)])
async def test_an_endpoint_that_is_not_there(plugs: Plugs, address: Address, endpoint: int, inbound: bool) -> None:
    """As Linux says it of a real device: ENOENT."""
    await plug(plugs)
    wire = await attached(address)

    wire.submit_in(endpoint, 8) if inbound else wire.submit_out(endpoint, b"data")

    assert (await wire.answer()).status == -errno.ENOENT


async def test_pending_transfers_are_bounded(plugs: Plugs, address: Address) -> None:
    """One more than the most is refused with ENOMEM, and those before it stay pending."""
    await plug(plugs)
    wire = await attached(address)
    numbers = [wire.submit_in(IN, 320) for _ in range(MOST_PENDING + 1)]

    assert await wire.answer() == Answer(RET_SUBMIT, numbers[-1], -errno.ENOMEM)
    unlink = wire.unlink(numbers[-2])
    assert await wire.answer() == Answer(RET_UNLINK, unlink, -errno.ECONNRESET)


# Clients that misbehave, and devices that hang


def spoiled(offset: int, value: int) -> bytes:
    """A read with one field replaced."""
    data = bytearray(submit_message(1, 0x00010002, DIR_IN, IN, 320))
    struct.pack_into(">I", data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    "message",
    [
        spoiled(0, 7),
        spoiled(8, 0x00010003),
        spoiled(12, 2),
        spoiled(16, 16),
        spoiled(24, LONGEST_TRANSFER + 1),
        spoiled(32, 3),
        spoiled(0, CMD_UNLINK)[:8] + bytes(40),
        submit_message(1, 0x00010002, DIR_IN, IN, 320) * 2,
    ],
)
async def test_a_malformed_command_ends_that_connection_only(plugs: Plugs, address: Address, message: bytes) -> None:
    """Its device is free again, and another client is not disturbed."""
    await plug(plugs)
    await plug(plugs, "b")
    other = await Wire.attach(address, "1-3")
    wire = await Wire.attach(address, "1-2")

    wire.writer.write(message)

    assert await wire.ended() == b""
    assert (await other.control(0x80, 0x08, size=1)).data == b"\1"
    await Wire.attach(address, "1-2")


@pytest.mark.parametrize("message", [bytes(8), b"\1\x11\x80\x04" + bytes(4), b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100])
async def test_a_malformed_request_ends_the_connection(address: Address, message: bytes) -> None:
    """Without an answer."""
    wire = await Wire.connect(address)
    wire.writer.write(message)

    assert await wire.ended() == b""


async def test_who_says_nothing_is_not_waited_for(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that does not say what it wants ends."""
    monkeypatch.setattr(usbip, "_OPENING_TIMEOUT", 0.05)
    wire = await Wire.connect(address)
    wire.writer.write(OPERATION.pack(VERSION, REQ_IMPORT, 0) + b"1-2")

    assert await wire.ended() == b""


async def test_connections_are_bounded(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than the most is closed at once, and there is room again when one leaves."""
    monkeypatch.setattr(usbip, "MOST_CONNECTIONS", 2)
    first, _ = [await Wire.connect(address) for _ in range(2)]
    assert await (await Wire.connect(address)).ended() == b""

    assert await first.devices() == []
    await first.ended()

    assert await (await Wire.connect(address)).devices() == []


async def test_a_hung_device_holds_up_nobody(plugs: Plugs, address: Address) -> None:
    """Neither its own control endpoint nor another device nor its unplugging."""
    path = await plug(plugs, "a", {"do": "hang", "at": "SELECT"})
    await plug(plugs, "b")
    hung, other = await Wire.attach(address, "1-2"), await Wire.attach(address, "1-3")
    for data in (POWER_ON, command(bytes.fromhex(SELECT), 3)):
        hung.submit_out(OUT, data)
        await hung.answer()
    for _ in range(3):
        hung.submit_in(IN, 320)
    assert (await hung.answer()).length == 27  # the answer to reset
    assert (await hung.control(0x80, 0x08, size=1)).data == b"\1"

    other.submit_out(OUT, SLOT_STATUS)
    assert (await other.answer()).status == 0
    await pull(plugs, path)

    assert [(await hung.answer()).status for _ in range(2)] == [-errno.ENODEV] * 2
    assert await hung.ended() == b""


async def test_a_hundred_devices_are_a_hundred_connections(plugs: Plugs, address: Address) -> None:
    """All are imported at once, all answer, all leave, and none is left over."""
    for number in range(100):
        token(plugs.folder / f"{number:03}.token", serial=f"{number:08}")
    await plugs.settled()
    ids = await (await Wire.connect(address)).devices()
    assert len(set(ids)) == 100

    wires = await asyncio.gather(*(Wire.attach(address, found) for found in ids))
    for wire in wires:
        wire.submit_in(IN, 320)
        wire.submit_out(OUT, SLOT_STATUS)
    for wire in wires:
        assert {(await wire.answer()).status, (await wire.answer()).status} == {0}
    for path in plugs.folder.iterdir():
        path.unlink()
    await plugs.settled()

    assert [await wire.ended() for wire in wires] == [b""] * 100
    assert await (await Wire.connect(address)).devices() == []


# Random bytes

fields = st.sampled_from([0, 1, 2, 3, 4, 15, 16, 64, 320, 0x00010002, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
setups = st.one_of(
    st.binary(min_size=8, max_size=8),
    st.builds(
        struct.pack,
        st.just("<BBHHH"),
        st.sampled_from([0x00, 0x01, 0x02, 0x21, 0x80, 0x81, 0x82, 0xA1]),
        st.integers(0, 12),
        st.sampled_from([0, 1, 2, 0x100, 0x200, 0x300, 0x301, 0x302, 0x600]),
        st.sampled_from([0, 1, 0x81, 0x0409]),
        st.sampled_from([0, 1, 2, 9, 64, 255, 0xFFFF]),
    ),
)
reads_and_writes = st.builds(
    lambda number, direction, endpoint, flags, data, setup: (
        submit_message(number, 0x00010002, direction, endpoint, len(data), flags=flags, setup=setup)
        + (b"" if direction == DIR_IN else data)
    ),
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([0, 1]),
    st.integers(0, 2),
    st.sampled_from([0, 0x01, 0x40, 0x200]),
    st.binary(max_size=330),
    setups,
)
unlinks = st.builds(
    lambda number, target: URB.pack(CMD_UNLINK, number, 0x00010002, 0, 0, target, 0, 0, 0, 0, bytes(8)),
    st.integers(0, 9),
    st.integers(0, 9),
)
any_headers = st.builds(
    lambda kind, numbers, setup: struct.pack(">10I8s", kind, *numbers, setup),
    st.sampled_from([CMD_SUBMIT, CMD_UNLINK, RET_SUBMIT, 0]),
    st.lists(fields, min_size=9, max_size=9),
    setups,
)
commands = st.lists(st.one_of(reads_and_writes, unlinks, any_headers, st.binary(max_size=60)), max_size=12)
beginnings = st.one_of(
    st.binary(max_size=50),
    st.builds(OPERATION.pack, st.just(VERSION), st.sampled_from([REQ_DEVLIST, REQ_IMPORT, 5]), st.integers(0, 9)),
)


async def insist(plugs: Plugs, address: Address, messages: list[bytes], *, imported: bool) -> None:
    """Send all that, read what comes, leave, and see that the next client is served."""
    wire = await (Wire.attach(address, "1-2") if imported else Wire.connect(address))
    for message in messages:
        wire.writer.write(message)
    wire.writer.write_eof()
    await wire.ended()
    await wire.close()

    wire = await Wire.attach(address, "1-2")
    wire.submit_out(OUT, SLOT_STATUS)
    wire.submit_in(IN, 320)
    answers = {answer.number: answer for answer in [await wire.answer(), await wire.answer()]}
    assert answers[2].data.hex() == "81000000000001010000"
    await wire.close()


@pytest.mark.parametrize("imported", [True, False])
def test_no_bytes_break_the_server(tmp_path: Path, imported: bool) -> None:
    """Random bytes, random headers, valid transfers in any order: no task ends with an error that nobody expects."""
    (tmp_path / "bus").mkdir()
    token(tmp_path / "bus" / "a.token")

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(commands if imported else st.lists(beginnings, max_size=3))
    def attempt(messages: list[bytes]) -> None:
        asyncio.run(session(messages))

    async def session(messages: list[bytes]) -> None:
        unexpected: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unexpected.append(context))
        plugs = Plugs(tmp_path / "bus")
        await plugs.bus.start(plugs.deliver)
        server = UsbIpServer(plugs.bus.plugged)
        address = await server.start("127.0.0.1", 0)
        await insist(plugs, address, messages, imported=imported)
        await Wire.close_all()
        await server.close()
        plugs.bus.close()
        assert unexpected == []

    attempt()


# Addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:3240", ("127.0.0.1", 3240)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),  # noqa: S104  what somebody may ask for
        ("[::1]:65535", ("::1", 65535)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_an_address_is_host_and_port(text: str, expected: Address) -> None:
    """IPv6 in brackets."""
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "3240", ":3240", "127.0.0.1", "127.0.0.1:", "a:-1", "a:65536", "a:1x", "[]:1"])
def test_what_is_no_address_is_said_in_one_sentence(text: str) -> None:
    """With an example of one."""
    with pytest.raises(UsbIpUnavailable, match=r"^USB/IP: .* is not ADDR:PORT, such as 127\.0\.0\.1:3240\.$"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "Cannot assign requested address"),
        ("host.invalid", "no address of this machine"),
        ("\u00e4" * 70, "no address"),
    ],
)
async def test_an_address_that_is_not_ours_is_said_in_one_sentence(plugs: Plugs, host: str, reason: str) -> None:
    """Of another machine, of none, of no form that names have."""
    with pytest.raises(UsbIpUnavailable, match=f"^USB/IP: [^\\n]*{reason}[^\\n]*\\.$"):
        await UsbIpServer(plugs.bus.plugged).start(host, 3240)


async def test_a_port_in_use_is_said_in_one_sentence(plugs: Plugs, address: Address) -> None:
    """By another server."""
    with pytest.raises(UsbIpUnavailable, match=f"^USB/IP: cannot listen at .*{address[1]}: Address already in use.$"):
        await UsbIpServer(plugs.bus.plugged).start(*address)
