# SPDX-License-Identifier: Apache-2.0
"""`lunash` at a terminal hands on every key, sleeps between them, and leaves the terminal as it found it."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.console.frames import Kind, encode
from tests.support.fake_door import LUNASH, Peer, door, lunash
from tests.support.process import LIMIT, PtyProcess

# A client that gets a signal when it has nothing to do: after Python has looked for signals, before it waits. Nothing
# that `map` calls looks again, unlike os.kill. The client is a process group of its own.
SIGNAL_BEFORE_WAITING = """
import os, select, signal
from functools import partial
from operator import call

class Poll:
    def __init__(self):
        self._poll = select.poll()
        self.register, self.unregister = self._poll.register, self._poll.unregister

    def poll(self, timeout=None):
        late = partial(os.killpg, 0, signal.SIGTERM)
        return self._poll.poll(0) or list(map(call, (late, partial(self._poll.poll, timeout))))[1]

import selectors
selectors.PollSelector._selector_cls = Poll
"""


ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

# A client that tells when it is about to connect.
TELL_BEFORE_CONNECT = """
import os, socket

class Telling(socket.socket):
    def connect(self, address):
        os.write(1, b"connecting")
        super().connect(address)

socket.socket = Telling
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the door is."""
    return tmp_path / "door"


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
        await client.expect(b"ready\r\n")
        assert client.raw
        client.type(keys)
        assert await client.expect(b"bye\r\n") == b"bye\r\n"
        assert await client.ended() == (0, b"")
        assert client.settings == client.settings_before


async def test_what_was_typed_before_is_kept(path: Path) -> None:
    """A client that types before the terminal is raw loses nothing."""

    async def script(peer: Peer) -> None:
        await peer.opening()
        assert (await peer.data(5)).replace(b"\n", b"\r") == b"exit\r"
        await peer.say(Kind.EXIT, b"\x00")

    async with door(path, script), PtyProcess.start(*lunash(path)) as client:
        client.type(b"exit\r")
        assert await client.ended() == (0, b"")


@asynccontextmanager
async def waiting_client(path: Path) -> AsyncIterator[tuple[PtyProcess, socket.socket]]:
    """A client that waits for room in the full queue of a door which accepts nobody, and the door's socket."""
    program = TELL_BEFORE_CONNECT + LUNASH
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        first.shutdown(socket.SHUT_WR)  # all it ever says
        async with PtyProcess.start(sys.executable, "-c", program, path, "help") as client:
            await client.expect(b"connecting")
            await client.asleep()
            yield client, listener


async def test_a_full_queue_is_waited_for(path: Path) -> None:
    """A door that accepts nobody for a while is no door that is missing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(Kind.EXIT, b"\x00"))
        await reader.read(1)
        writer.close()

    async with waiting_client(path) as (client, listener), await asyncio.start_server(serve, sock=listener):
        assert await client.ended() == (0, b"")


@pytest.mark.parametrize("number", ENDING)
async def test_signal_while_it_connects_ends_it(path: Path, number: signal.Signals) -> None:
    """The exit status is that of the signal, and no traceback stands on the terminal."""
    async with waiting_client(path) as (client, _):
        client.process.send_signal(number)
        assert await client.ended() == (128 + number, b"")
        assert client.seen == b"connecting"


@pytest.mark.parametrize("number", ENDING)
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
        await client.expect(b"ready")
        client.process.send_signal(number)
        assert await client.ended() == (128 + number, b"")
        assert client.settings == client.settings_before
        async with asyncio.timeout(LIMIT):
            await gone.wait()


async def test_signal_just_before_it_waits_ends_it(path: Path) -> None:
    """A signal that comes when the client is about to wait is not noticed with the next key only."""

    async def script(peer: Peer) -> None:
        await peer.opening()
        with pytest.raises(AssertionError, match="closed"):
            await peer.frame()

    program = SIGNAL_BEFORE_WAITING + LUNASH
    async with door(path, script), PtyProcess.start(sys.executable, "-c", program, path) as client:
        assert await client.ended() == (128 + signal.SIGTERM, b"")
        assert client.settings == client.settings_before


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
        await client.expect(b"ready")
        client.type(b"x")
        assert await client.ended() == (255, b"Error:  The console service broke off the connection.\n")
        assert client.settings == client.settings_before
