# SPDX-License-Identifier: Apache-2.0
"""`lunash` relays and nothing more, tells how it ended, and leaves the terminal as it found it."""

import asyncio
import json
import os
import signal
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.console.frames import LARGEST_PAYLOAD, Decoder, Frame, Kind, encode
from tests.support.process import LIMIT, PtyProcess, run

ROOT = Path(__file__).parents[2]
LUNASH = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from appliance.console.relay import relay
sys.exit(relay(Path(sys.argv[1]), *(sys.argv[2:] or [None])))
"""


class Peer:
    """The door's end of one connection."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()
        self._frames: list[Frame] = []

    async def frame(self) -> Frame:
        """The next frame that the client sent."""
        async with asyncio.timeout(LIMIT):
            while not self._frames:
                data = await self._reader.read(65536)
                assert data, "the client has closed"
                self._frames = list(self._decoder.feed(data))
        return self._frames.pop(0)

    async def data(self, size: int) -> bytes:
        """The next `size` bytes of input."""
        data = b""
        while len(data) < size:
            kind, payload = await self.frame()
            assert kind is Kind.DATA
            data += payload
        return data

    async def opening(self) -> dict[str, str]:
        """What the client's first frame says."""
        kind, payload = await self.frame()
        assert kind is Kind.OPEN
        opening: dict[str, str] = json.loads(payload)
        return opening

    async def say(self, kind: Kind, payload: bytes) -> None:
        """Send one frame."""
        await self.send(encode(kind, payload))

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        async with asyncio.timeout(LIMIT):
            await self._writer.drain()

    def close(self) -> None:
        """Break off."""
        self._writer.close()


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def door(path: Path, script: Script) -> AsyncIterator[None]:
    """A door at `path` that does to one client what `script` says."""
    failures: list[BaseException] = []

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            await script(Peer(reader, writer))
        except BaseException as error:  # noqa: BLE001  it is raised below, where pytest sees it
            failures.append(error)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield
    if failures:
        raise failures[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the door is."""
    return tmp_path / "door"


def lunash(path: Path, *command: str) -> list[str | Path]:
    return [sys.executable, "-c", LUNASH, path, *command]


@pytest.mark.parametrize("status", [0, 1])
async def test_command_output_and_status(path: Path, status: int) -> None:
    """A command's output is printed with the line ends of a file, and its status is the exit status."""

    async def script(peer: Peer) -> None:
        assert await peer.opening() == {"mode": "command", "command": "token backup list", "from": ""}
        await peer.say(Kind.DATA, b"\r\nfirst\r")
        await peer.say(Kind.DATA, b"\nlast\r\n")
        await peer.say(Kind.EXIT, bytes([status]))

    async with door(path, script):
        assert await run(*lunash(path, "token backup list"), env={}) == (status, b"\nfirst\nlast\n", b"")


@pytest.mark.parametrize(
    ("variable", "source"),
    [
        ("192.0.2.7 40847 192.0.2.1 22", "192.0.2.7 40847"),
        ("", ""),
        ("nonsense", "nonsense"),
        ("\n\x1b " * 1000, "\x1b \x1b"),
        ("x" * 1000, "x" * 64),
    ],
)
async def test_source_of_the_connection_is_told(path: Path, variable: str, source: str) -> None:
    """Of the environment, only the first two words of SSH_CONNECTION are told, bounded; the door judges them."""

    async def script(peer: Peer) -> None:
        assert (await peer.opening())["from"] == source
        await peer.say(Kind.EXIT, b"\x00")

    async with door(path, script):
        status, _, _ = await run(*lunash(path), env={"SSH_CONNECTION": variable, "TTY": "ttyS0", "USER": "admin"})
        assert status == 0


async def test_pipes_are_relayed_plainly(path: Path) -> None:
    """Without a terminal, every byte goes through as it is, and the end of stdin is told and ends nothing yet."""
    every_byte = bytes(range(256))

    async def script(peer: Peer) -> None:
        assert (await peer.opening())["mode"] == "interactive"
        assert await peer.data(256) == every_byte
        assert await peer.frame() == (Kind.END, b"")
        await peer.say(Kind.DATA, every_byte)
        await peer.say(Kind.EXIT, b"\x00")

    async with door(path, script):
        assert await run(*lunash(path), typed=every_byte) == (0, every_byte, b"")


async def test_stdin_may_be_a_file(path: Path, tmp_path: Path) -> None:
    """A regular file on stdin, which epoll would not take, is relayed like a pipe."""
    (tmp_path / "lines").write_bytes(b"help\nexit\n")

    async def script(peer: Peer) -> None:
        await peer.opening()
        assert await peer.data(10) == b"help\nexit\n"
        assert await peer.frame() == (Kind.END, b"")
        await peer.say(Kind.EXIT, b"\x00")

    async with door(path, script):
        status, _, _ = await run("sh", "-c", 'exec "$@" < "$0"', tmp_path / "lines", *lunash(path))
        assert status == 0


async def test_much_both_ways_does_not_lock(path: Path) -> None:
    """A door that writes a megabyte before it reads gets the megabyte that was typed meanwhile, whole."""
    much = bytes(range(256)) * 4096

    async def script(peer: Peer) -> None:
        await peer.opening()
        for start in range(0, len(much), LARGEST_PAYLOAD):
            await peer.say(Kind.DATA, much[start : start + LARGEST_PAYLOAD])
        assert await peer.data(len(much)) == much
        await peer.say(Kind.EXIT, b"\x00")

    async with door(path, script):
        assert await run(*lunash(path), typed=much) == (0, much, b"")


async def test_waiting_costs_nothing(path: Path) -> None:
    """While nobody types and nothing is printed, the client sleeps."""

    async def script(peer: Peer) -> None:
        await peer.opening()
        await peer.say(Kind.DATA, b"ready")
        await peer.frame()
        await peer.say(Kind.EXIT, b"\x00")

    async with door(path, script), PtyProcess.start(*lunash(path)) as client:
        await client.expect(b"ready")
        await client.asleep()
        client.type(b"x")
        assert await client.ended() == (0, b"")


async def test_busy_door_slows_the_typing_down(path: Path) -> None:
    """What the door does not take yet stays with the one who types, not in the client's memory."""
    much = b"x" * 8_000_000
    may_read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await may_read.wait()
        await peer.opening()
        assert await peer.data(len(much)) == much
        await peer.say(Kind.EXIT, b"\x00")

    async with door(path, script):
        process = await asyncio.create_subprocess_exec(*lunash(path), stdin=asyncio.subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(much)
        _, typing = await asyncio.wait([asyncio.create_task(process.stdin.drain())], timeout=0.5)
        assert typing, "eight megabytes were taken though the door reads nothing"
        may_read.set()
        async with asyncio.timeout(LIMIT):
            await process.communicate()
        assert process.returncode == 0


async def test_terminal_is_raw_and_restored(path: Path) -> None:
    """With a terminal, keys such as Ctrl-C, Ctrl-Z and Ctrl-D go through as bytes; at the end all is as it was."""
    keys = b"\x03\x1a\x04\x11\x13\x1c\r\x7f"

    async def script(peer: Peer) -> None:
        await peer.opening()
        await peer.say(Kind.DATA, b"ready\r\n")
        assert await peer.data(len(keys)) == keys
        await peer.say(Kind.DATA, b"bye\r\n")
        await peer.say(Kind.EXIT, b"\x00")

    async with door(path, script), PtyProcess.start(*lunash(path)) as client:
        before = client.settings
        await client.expect(b"ready\r\n")
        assert client.raw
        client.type(keys)
        assert await client.expect(b"bye\r\n") == b"bye\r\n"
        assert await client.ended() == (0, b"")
        assert client.settings == before


async def test_what_was_typed_before_is_kept(path: Path) -> None:
    """A client that types before the terminal is raw loses nothing."""

    async def script(peer: Peer) -> None:
        await peer.opening()
        assert (await peer.data(5)).replace(b"\n", b"\r") == b"exit\r"
        await peer.say(Kind.EXIT, b"\x00")

    async with door(path, script), PtyProcess.start(*lunash(path)) as client:
        client.type(b"exit\r")
        assert await client.ended() == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
async def test_signal_ends_and_restores(path: Path, number: signal.Signals) -> None:
    """A signal ends the session with its own exit status and restores the terminal; the door sees the end."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.opening()
        await peer.say(Kind.DATA, b"ready")
        with pytest.raises(AssertionError, match="closed"):
            await peer.frame()
        gone.set()

    async with door(path, script), PtyProcess.start(*lunash(path)) as client:
        before = client.settings
        await client.expect(b"ready")
        client.process.send_signal(number)
        assert await client.ended() == (128 + number, b"")
        assert client.settings == before
        async with asyncio.timeout(LIMIT):
            await gone.wait()


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x02\x00", id="half a header"),
        pytest.param(encode(Kind.END), id="a frame that only clients send"),
        pytest.param(b"\xff" * 100, id="rubbish"),
    ],
)
async def test_broken_service_is_told_and_the_terminal_restored(path: Path, last: bytes) -> None:
    """A service that dies or talks rubbish in mid-session leaves a sane terminal, one sentence and status 255."""

    async def script(peer: Peer) -> None:
        await peer.opening()
        await peer.say(Kind.DATA, b"ready")
        assert await peer.data(1) == b"x"
        await peer.send(last)

    async with door(path, script), PtyProcess.start(*lunash(path)) as client:
        before = client.settings
        await client.expect(b"ready")
        client.type(b"x")
        assert await client.ended() == (255, b"Error:  The console service broke off the connection.\n")
        assert client.settings == before


async def test_last_words_are_read_though_the_door_is_shut(path: Path) -> None:
    """A door that answers and closes without reading what was sent is still understood."""

    async def script(peer: Peer) -> None:
        await peer.say(Kind.DATA, b"no\r\n")
        await peer.say(Kind.EXIT, b"\x01")
        peer.close()

    async with door(path, script):
        assert await run(*lunash(path, "help"), typed=b"x" * 1000) == (1, b"no\n", b"")


async def test_no_service(path: Path) -> None:
    """Where nobody listens, one sentence says so and the status is 255."""
    assert await run(*lunash(path, "help")) == (
        255,
        b"",
        b"Error:  The console service cannot be reached: No such file or directory.\n",
    )


async def test_path_that_is_too_long(tmp_path: Path) -> None:
    """A path that no socket can have is an unreachable service, not a crash."""
    status, output, errors = await run(*lunash(tmp_path / ("x" * 200)))
    assert (status, output) == (255, b"")
    assert errors.startswith(b"Error:  The console service cannot be reached: ")


async def test_command_that_is_too_long(path: Path) -> None:
    """A command that fits no frame is not sent."""
    status, output, errors = await run(*lunash(path, "x" * LARGEST_PAYLOAD))
    assert (status, output, errors) == (1, b"", b"Error:  The command is too long.\n")


async def test_output_that_nobody_reads_any_more(path: Path) -> None:
    """When the reader of the output is gone, `lunash` ends without a word."""

    async def script(peer: Peer) -> None:
        await peer.opening()
        await peer.frame()
        await peer.say(Kind.DATA, b"output")

    async with door(path, script):
        read_end, write_end = os.pipe()
        os.close(read_end)
        process = await asyncio.create_subprocess_exec(
            *lunash(path), stdin=asyncio.subprocess.DEVNULL, stdout=write_end, stderr=asyncio.subprocess.PIPE
        )
        os.close(write_end)
        async with asyncio.timeout(LIMIT):
            _, errors = await process.communicate()
        assert (process.returncode, errors) == (1, b"")


async def test_imports_next_to_nothing() -> None:
    """`lunash` starts without the daemon's parts and without asyncio: sshd starts it for every command."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import appliance.console.relay; print(*sorted(sys.modules))"
    status, output, _ = await run(sys.executable, "-I", "-S", "-c", code)
    modules = set(output.decode().split())
    assert status == 0
    assert modules.isdisjoint({"asyncio", "argparse", "logging", "serial", "structlog", "subprocess", "ssl"})
    assert {name for name in modules if name.startswith("appliance")} == {
        "appliance",
        "appliance.console",
        "appliance.console.frames",
        "appliance.console.relay",
        "appliance.errors",
    }
