# SPDX-License-Identifier: Apache-2.0
"""The serial line over a real pty: exclusive, raw, and never blocking, whatever the far end does."""

import asyncio
import contextlib
import os
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import serial

from appliance.config import LineSettings
from appliance.console.line import MOST_UNREAD, SerialLine
from appliance.errors import Break, Hangup, LineUnavailable
from tests.support.clock import let_time_pass
from tests.support.pty_line import PATIENCE, PtyLine, rubbish

XOFF, XON = b"\x13", b"\x11"


@pytest.fixture
def far(tmp_path: Path) -> Iterator[PtyLine]:
    """The far end of the cable."""
    far = PtyLine(tmp_path / "ttyS0").plug()
    yield far
    far.hang_up()


def settings(far: PtyLine, flow: str = "none", carrier: str = "ignore") -> LineSettings:
    return LineSettings(port=str(far.port), speed=115200, flow=flow, carrier=carrier)


@contextlib.asynccontextmanager
async def opened(line: SerialLine) -> AsyncIterator[SerialLine]:
    await line.open()
    try:
        yield line
    finally:
        line.close()


async def read_all(line: SerialLine, count: int) -> bytes:
    data = b""
    async with asyncio.timeout(PATIENCE):
        while len(data) < count:
            data += await line.read()
    return data


async def stop_output(far: PtyLine, line: SerialLine) -> None:
    """The far end sends XOFF; it is in force when what was sent behind it has been read."""
    await far.type(XOFF + b"!")
    assert await line.read() == b"!"


# Open and close


async def test_the_port_is_raw_and_marks_breaks(far: PtyLine) -> None:
    """8N1, nothing interpreted but what flow control asks for, BREAK marked, hang-up on close."""
    async with opened(SerialLine(settings(far))):
        iflag, oflag, cflag, lflag = far.attributes()

    assert iflag == termios.PARMRK
    assert (oflag & termios.OPOST, lflag & (termios.ICANON | termios.ECHO | termios.ISIG)) == (0, 0)
    wanted = termios.CS8 | termios.HUPCL | termios.CREAD | termios.CLOCAL
    assert cflag & (wanted | termios.CSTOPB | termios.PARENB | termios.CRTSCTS) == wanted


@pytest.mark.parametrize(
    ("flow", "iflag", "cflag"),
    [
        ("none", 0, 0),
        ("xonxoff", termios.IXON | termios.IXOFF, 0),
        ("rtscts", 0, termios.CRTSCTS),
    ],
)
async def test_flow_control_is_as_configured(far: PtyLine, flow: str, iflag: int, cflag: int) -> None:
    """Each kind of flow control sets its own bits and no other."""
    async with opened(SerialLine(settings(far, flow))):
        modes = far.attributes()

    assert modes[0] & (termios.IXON | termios.IXOFF | termios.IXANY) == iflag
    assert modes[2] & termios.CRTSCTS == cflag


@pytest.mark.parametrize("before", [0, termios.CLOCAL])
async def test_carrier_auto_keeps_what_was_there(far: PtyLine, before: int) -> None:
    """With `auto`, the kernel watches DCD if it did so before."""
    far.set_control_modes(termios.CLOCAL, before)
    line = SerialLine(settings(far, carrier="auto"))
    async with opened(line):
        assert far.attributes()[2] & termios.CLOCAL == before
        assert line.watches_carrier is not bool(before)


async def test_a_required_carrier_is_waited_for(far: PtyLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is not open before DCD is there, and then a fall of DCD hangs it up."""
    looks = iter([False, False, True])
    monkeypatch.setattr(serial.Serial, "cd", property(lambda _: next(looks)))
    monkeypatch.setattr("appliance.console.line.CARRIER_INTERVAL", 0.001)
    async with asyncio.timeout(PATIENCE), opened(SerialLine(settings(far, carrier="require"))):
        assert far.attributes()[2] & termios.CLOCAL == 0
    assert list(looks) == []


async def test_the_port_is_held_while_the_carrier_is_waited_for(far: PtyLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody needs to be at the other end for the port to be ours, and the daemon ready."""
    monkeypatch.setattr(serial.Serial, "cd", property(lambda _: False))
    line = SerialLine(settings(far, carrier="require"))
    opening = asyncio.create_task(line.open())
    async with asyncio.timeout(PATIENCE):
        await line.held.wait()
    assert not opening.done()
    opening.cancel()
    await asyncio.wait({opening})
    assert not line.held.is_set()


async def test_a_carrier_that_cannot_be_seen_is_an_error(far: PtyLine) -> None:
    """A port without modem lines cannot require one, and says so instead of waiting for ever."""
    with pytest.raises(LineUnavailable):
        await SerialLine(settings(far, carrier="require")).open()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "the port does not exist"),
        (lambda path: path.write_bytes(b""), "this is no terminal line"),
        (lambda path: path.symlink_to("/dev/null"), "this is no terminal line"),
        (lambda path: path.symlink_to("/dev/console/x"), "Not a directory"),
    ],
)
async def test_what_is_no_port_is_refused(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    """Each reason has its sentence, and the path stands in front of it."""
    make(tmp_path / "port")
    with pytest.raises(LineUnavailable) as caught:
        await SerialLine(LineSettings(port=str(tmp_path / "port"))).open()

    assert str(caught.value) == f"{tmp_path / 'port'}: {reason}"


async def test_a_missing_permission_is_named(far: PtyLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon runs unprivileged, so this is a common fault of an installation."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(LineUnavailable, match="permission to open the port is missing"):
        await SerialLine(settings(far)).open()


async def test_the_port_is_exclusive(far: PtyLine) -> None:
    """While one program holds the port another learns who is the matter; afterwards it can have it."""
    async with opened(SerialLine(settings(far))):
        with pytest.raises(LineUnavailable, match="another program holds the port"):
            await SerialLine(settings(far)).open()
        assert far.is_exclusive()  # for programs that lock nothing
    assert not far.is_exclusive()
    async with opened(SerialLine(settings(far))) as line:
        await far.type("a")
        assert await line.read() == b"a"


@pytest.mark.parametrize(
    ("port", "name"), [("/dev/ttyS0", "ttyS0"), ("/dev/pts/3", "pts/3"), ("/run/x/ttyS1", "ttyS1")]
)
def test_the_name_is_that_of_the_tty(port: str, name: str) -> None:
    """It stands in the login prompt."""
    assert SerialLine(LineSettings(port=port)).name == name


async def test_nothing_leaks_into_the_next_session(far: PtyLine) -> None:
    """Closing drops what was typed and not read, and opening does so again."""
    line = SerialLine(settings(far))
    async with opened(line):
        await far.deliver(b"typed in the old session")
        far.put(b"and still on its way")
    assert far.waiting() == 0
    await far.type("typed to nobody")
    async with opened(line):
        await far.type("x")
        assert await line.read() == b"x"


# Bytes


async def test_every_byte_passes(far: PtyLine) -> None:
    """The line is 8-bit clean in both directions."""
    every = bytes(range(256))
    async with opened(SerialLine(settings(far))) as line:
        await far.type(every)
        assert await read_all(line, 256) == every
        await line.write(every)
        assert await far.read_exactly(256) == every


async def test_a_break_is_raised_once(far: PtyLine) -> None:
    """A BREAK discards what was typed before it, and what comes after it is read."""
    async with opened(SerialLine(settings(far))) as line:
        await far.deliver(b"abandoned")
        await far.send_break()
        await far.type("next")
        with pytest.raises(Break):
            await line.read()
        assert await read_all(line, 4) == b"next"


async def test_flush_input_forgets(far: PtyLine) -> None:
    """What was typed before the flush is never read, a BREAK included."""
    async with opened(SerialLine(settings(far))) as line:
        await far.send_break()
        await far.deliver(b"x" * 2000)
        far.put(b"and still on its way")
        line.flush_input()
        await far.type("y")
        assert await line.read() == b"y"


async def test_unread_input_is_bounded(far: PtyLine) -> None:
    """What nobody reads stays at the far end; nothing of it is lost when it is read at last."""
    data = rubbish(100_000)
    async with opened(SerialLine(settings(far))) as line:
        typing = asyncio.create_task(far.type(data))
        chunk = await line.read()
        assert len(chunk) <= MOST_UNREAD
        assert chunk + await read_all(line, len(data) - len(chunk)) == data
        await typing


# Hang-up


async def test_hang_up_is_for_ever(far: PtyLine) -> None:
    """When the far end goes, whoever reads, writes or watches learns it, now and later."""
    async with asyncio.timeout(PATIENCE), opened(SerialLine(settings(far))) as line:
        reading = asyncio.create_task(line.read())
        watching = asyncio.create_task(line.hung_up())
        await asyncio.sleep(0)
        far.hang_up()
        await watching
        with pytest.raises(Hangup):
            await reading
        for _ in range(2):
            with pytest.raises(Hangup):
                await line.read()
            with pytest.raises(Hangup):
                await line.write(b"x")
        line.flush_input()


async def test_hang_up_is_seen_while_nobody_reads(far: PtyLine) -> None:
    """Also when so much waits unread that nothing more is taken from the port."""
    async with asyncio.timeout(PATIENCE), opened(SerialLine(settings(far))) as line:
        for _ in range(2):
            await far.deliver(bytes(MOST_UNREAD // 2))
        await far.type("one more")
        far.hang_up()
        await line.hung_up()


async def test_a_closed_line_is_hung_up(far: PtyLine) -> None:
    """Before it is opened and after it is closed, a line is one that hung up; closing twice is closing."""
    line = SerialLine(settings(far))
    for _ in range(2):
        await line.hung_up()
        with pytest.raises(Hangup):
            await line.read()
        await line.open()
        line.close()
        line.close()


# Output that cannot leave


async def test_stuck_output_is_a_hang_up(far: PtyLine) -> None:
    """A terminal in XOFF costs the session after the write limit; the close that follows does not block."""
    async with asyncio.timeout(PATIENCE):
        async with opened(SerialLine(settings(far, "xonxoff"), write_limit=0.05)) as line:
            await stop_output(far, line)
            async with far.discarding():
                with pytest.raises(Hangup):
                    await line.write(b"x")
            await line.hung_up()


async def test_an_xoff_does_not_survive(far: PtyLine) -> None:
    """The next session can write although the last one ended in XOFF, and sees nothing of its output."""
    line = SerialLine(settings(far, "xonxoff"), write_limit=0.05)
    async with asyncio.timeout(PATIENCE):
        async with opened(line):
            await stop_output(far, line)
            with pytest.raises(Hangup):
                await line.write(b"old")
        async with opened(line):
            await line.write(b"next")
            assert await far.read_until("next") == "next"


async def test_writers_do_not_mix(far: PtyLine) -> None:
    """What one writes arrives in one piece, however little the far end takes at a time."""
    data = rubbish(200_000)
    async with asyncio.timeout(PATIENCE), opened(SerialLine(settings(far))) as line:
        first = asyncio.create_task(line.write(data))
        second = asyncio.create_task(line.write(b"end"))
        assert await far.read_exactly(len(data) + 3) == data + b"end"
        await asyncio.gather(first, second)
        await line.drain()


async def test_slow_output_is_no_hang_up(far: PtyLine) -> None:
    """As long as something moves, the write limit begins anew."""
    data = rubbish(200_000)
    async with asyncio.timeout(PATIENCE), opened(SerialLine(settings(far), write_limit=PATIENCE / 4)) as line:
        writing = asyncio.create_task(line.write(data))
        for _ in range(15):  # in all, half as long again as the write limit
            let_time_pass(PATIENCE / 40)
            assert await far.read_exactly(4096)
        assert not writing.done()
        await far.read_exactly(len(data) - 15 * 4096)
        await writing


async def test_the_loop_goes_on_while_output_is_stuck(far: PtyLine) -> None:
    """A write that waits is resumed by XON."""
    async with asyncio.timeout(PATIENCE), opened(SerialLine(settings(far, "xonxoff"))) as line:
        await stop_output(far, line)
        writing = asyncio.create_task(line.write(b"x" * 100_000))
        await asyncio.sleep(0)
        assert not writing.done()
        await far.type(XON)
        assert await far.read_exactly(100_000) == b"x" * 100_000
        await writing
