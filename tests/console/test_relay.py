# SPDX-License-Identifier: Apache-2.0
"""`lunash` relays and nothing more, and tells how it ended."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from appliance import cli
from appliance.console.frames import LARGEST_PAYLOAD, Kind
from appliance.console.relay import wanted
from tests.support.fake_door import ROOT, Peer, door, lunash
from tests.support.process import LIMIT, run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the door is."""
    return tmp_path / "door"


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


@pytest.mark.parametrize(
    ("asked", "variable", "expected"),
    [
        ("/usr/bin/lunash", "token backup list", "token backup list"),
        ("/usr/bin/lunash", "/usr/bin/lunash", "/usr/bin/lunash"),
        ("/usr/bin/lunash", "", ""),
        ("/usr/bin/lunash", None, None),
        ("help", "token backup list", "help"),
        (None, "token backup list", None),
    ],
)
def test_forced_command(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, variable: str | None, expected: str | None
) -> None:
    """Asked to run itself, as sshd's ForceCommand does, it takes what the client wanted, and only then."""
    monkeypatch.delenv("SSH_ORIGINAL_COMMAND", raising=False)
    if variable is not None:
        monkeypatch.setenv("SSH_ORIGINAL_COMMAND", variable)

    assert wanted(asked) == expected


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


def test_interrupt_before_that_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """While `lunash` still reads its own options, Ctrl-C leaves no traceback either."""

    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("argparse.ArgumentParser.parse_args", interrupted)

    assert cli.lunash() == 128 + signal.SIGINT


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
