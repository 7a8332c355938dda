# SPDX-License-Identifier: Apache-2.0
"""Through a real OpenSSH server, the network sees the appliance's shell and can reset nothing, whatever it tries."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.console.frames import Kind, encode, encode_open
from tests.support.door_client import DoorClient
from tests.support.network_side import SERIAL, NetworkSide
from tests.support.process import PtyProcess, run
from tests.support.sshd import SshServer, why_not
from tests.support.vendor import REFUSAL

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

OPERATOR = f"lunash-a{os.getpid()}"  # who is `admin` on the appliance
STRANGER = f"lunash-b{os.getpid()}"  # who has no account there
GROUP = f"lunash-g{os.getpid()}"
PROMPT = b"[local_host] lunash:>"


@pytest.fixture(scope="module")
def server() -> Iterator[SshServer]:
    with SshServer.start(OPERATOR, STRANGER, group=GROUP) as server:
        yield server


@pytest.fixture
async def side(server: SshServer) -> AsyncIterator[NetworkSide]:
    async with NetworkSide.run(server.socket, group=GROUP, users={OPERATOR: "admin"}) as side:
        yield side


@pytest.mark.usefixtures("side")
@pytest.mark.parametrize(
    ("command", "status", "last"),
    [
        ("token backup list", 0, b"\nCommand Result : 0 (Success)\n"),
        ("t b l", 0, b"\nCommand Result : 0 (Success)\n"),
        ("help", 0, b"\nCommand Result : 0 (Success)\n"),
        ("exit", 0, b"\n"),
        ("token backup show", 1, b"\nCommand Result : 65535 (Luna Shell execution)\n"),
        ("reboot", 1, b"\nCommand Result : 65535 (Luna Shell execution)\n"),
        ("/bin/sh", 1, b"\nCommand Result : 65535 (Luna Shell execution)\n"),
        ("help; /bin/sh", 1, b"\nCommand Result : 65535 (Luna Shell execution)\n"),
    ],
)
async def test_one_command(server: SshServer, command: str, status: int, last: bytes) -> None:
    """`ssh admin@box COMMAND` prints the command's output and nothing else, and tells whether it was done."""
    ended, output, errors = await run(*server.ssh(OPERATOR, command))
    assert (ended, errors) == (status, b"")
    assert output.endswith(last)
    assert b"\r" not in output
    assert b"lunash:>" not in output


async def test_list_shows_what_is_plugged_in(server: SshServer, side: NetworkSide) -> None:
    """The network may look; the audit has who, from where and what."""
    status, output, _ = await run(*server.ssh(OPERATOR, "-n", "token backup list"))
    assert status == 0
    assert SERIAL.encode() in output
    [command] = side.records("command")
    assert (command["actor"], command["command"]) == ("admin", "token backup list")
    assert command["origin"].startswith("127.0.0.1/")


@pytest.mark.parametrize(
    "command",
    [
        "token backup factoryReset",
        f"token backup factoryReset -serial {SERIAL}",
        f"token backup factoryReset -serial {SERIAL} -force",
        f"token backup factoryReset -force -s {SERIAL} -f",
        f"TOKEN BACKUP FACTORYRESET -SERIAL {SERIAL}",
        f"t b f -s {SERIAL} -f",
        "token backup factoryReset -serial",
        "token backup factoryReset --help 'x' \"",
        "token backup factoryReset -origin 'local console'",
    ],
)
async def test_reset_is_refused_to_the_letter(server: SshServer, side: NetworkSide, command: str) -> None:
    """The reset is refused before any argument is looked at, in the vendor's words; no device is looked for."""
    assert await run(*server.ssh(OPERATOR, command)) == (1, REFUSAL.encode(), b"")
    assert side.manager.wanted == []
    [result] = side.records("result")
    assert (result["actor"], result["outcome"]) == ("admin", "refused")
    assert result["origin"].startswith("127.0.0.1/")


async def test_interactive_session(server: SshServer, side: NetworkSide) -> None:
    """A person at a terminal gets prompt, echo and answers with CR LF; the reset is refused here, too."""
    async with PtyProcess.start(*server.ssh(OPERATOR, "-tt")) as person:
        greeting = await person.expect(PROMPT)
        assert b"Network HSM 1.0 Command Line Shell\r\n\r\n" in greeting
        person.type(b"token backup list\r")
        listing = await person.expect(PROMPT)
        assert listing.startswith(b"token backup list\r\n")
        assert b"Command Result : 0 (Success)\r\n" in listing
        person.type(b"half a li\x03")
        await person.expect(PROMPT)
        person.type(b"token backup factoryReset\r")
        refusal = await person.expect(PROMPT)
        assert refusal == b"token backup factoryReset\r\n" + REFUSAL.encode().replace(b"\n", b"\r\n") + PROMPT
        person.type(b"exit\r")
        assert (await person.ended())[0] == 0
    assert side.manager.wanted == []
    await side.record("logout")  # which comes after the exit status
    assert [record["event"] for record in side.records("login", "logout")] == ["login", "logout"]


async def test_confirmation_is_no_way_around(server: SshServer, side: NetworkSide) -> None:
    """`proceed`, typed after the refusal, is just an unknown command."""
    typed = f"token backup factoryReset -serial {SERIAL}\nproceed\nexit\n".encode()
    status, output, _ = await run(*server.ssh(OPERATOR), typed=typed)
    assert status == 0
    assert b"'proceed' is not a valid command." in output
    assert side.manager.wanted == []


@pytest.mark.usefixtures("side")
async def test_password_is_never_echoed(server: SshServer) -> None:
    """Neither the terminal that sshd made nor the shell shows a password that is typed for a single command."""
    async with PtyProcess.start(*server.ssh(OPERATOR, "-tt", "my password set")) as person:
        await person.expect(b"(current) UNIX password: ")
        person.type(b"SecretWord\r")
        await person.expect(b"Command Result : 65535 (Luna Shell execution)")
        assert (await person.ended())[0] == 1
        assert b"SecretWord" not in person.seen


FORGED = {
    "TTY": "/dev/ttyS0",
    "SSH_TTY": "/dev/ttyS0",
    "SSH_CONNECTION": "Console 1 Console 1",
    "SSH_CLIENT": "Console",
    "ORIGIN": "local console",
    "USER": "admin",
    "LOGNAME": "admin",
    "PYTHONPATH": "/nowhere",
    "PYTHONINSPECT": "1",
    "TERM": "vt100",
}


async def test_environment_changes_nothing(server: SshServer, side: NetworkSide) -> None:
    """No variable that a client sends makes a local console of it, or another person, or hides where it is."""
    variables = " ".join(f'{name}="{value}"' for name, value in FORGED.items())
    command = server.ssh(OPERATOR, "-o", f"SetEnv={variables}", f"token backup factoryReset -serial {SERIAL} -force")
    assert await run(*command) == (1, REFUSAL.encode(), b"")
    assert side.manager.wanted == []
    [result] = side.records("result")
    assert result["actor"] == "admin"
    assert result["origin"].startswith("127.0.0.1/")


async def test_lunash_on_a_serial_terminal_is_the_network(server: SshServer, side: NetworkSide) -> None:
    """Root, at a terminal of this machine, with every sign of a serial console, is on the network with `lunash`."""
    async with PtyProcess.start(server.folder / "shell", env=FORGED) as person:
        await person.expect(PROMPT)
        person.type(f"token backup factoryReset -serial {SERIAL} -force\r".encode())
        assert REFUSAL.encode().replace(b"\n", b"\r\n") in await person.expect(PROMPT)
        person.type(b"\x04")
        assert await person.ended() == (0, b"")
    assert side.manager.wanted == []
    [result] = side.records("result")
    assert result["origin"] == f"local/{person.process.pid}"


async def test_stranger_is_shown_out(server: SshServer, side: NetworkSide) -> None:
    """A Unix user without an account gets a sentence, for a command and for a session alike, and that is audited."""
    sentence = f"Error:  User '{STRANGER}' has no account on this appliance.".encode()
    for command in (["token backup list"], []):
        status, output, errors = await run(*server.ssh(STRANGER, *command))
        assert (status, errors) == (1, b"")
        lines = output.replace(b"\r", b"")
        assert lines == b"\n" + sentence + b"\n\nCommand Result : 65535 (Luna Shell execution)\n"
    rejected = side.records("door-rejected", "login")
    assert [(record["event"], record["actor"]) for record in rejected] == [("door-rejected", STRANGER)] * 2


async def test_no_daemon(server: SshServer) -> None:
    """While the console service does not run, the client says so and ends with 255."""
    status, output, errors = await run(*server.ssh(OPERATOR, "token backup list"))
    assert (status, output) == (255, b"")
    assert errors == b"Error:  The console service cannot be reached: No such file or directory.\n"


async def test_daemon_that_ends(server: SshServer, side: NetworkSide) -> None:
    """A daemon that stops in the middle of a session ends it with a sentence and 255."""
    async with PtyProcess.start(*server.ssh(OPERATOR, "-tt")) as person:
        await person.expect(PROMPT)
        await side.door.close()
        await person.expect(b"Error:  The console service broke off the connection.")
        assert (await person.ended())[0] == 255


TYPED = st.sampled_from(
    [
        b"token backup factoryReset\r",
        f"token backup factoryReset -serial {SERIAL} -force\r".encode(),
        b"proceed\r",
        b"help\r",
        b"exit\r",
        b"\x03",
        b"\x04",
        b"\t",
    ]
)
FRAMES = st.one_of(
    st.builds(encode, st.just(Kind.DATA), st.one_of(TYPED, st.binary(min_size=1, max_size=64))),
    st.builds(encode, st.just(Kind.OPEN), st.binary(min_size=1, max_size=64)),
    st.just(encode(Kind.END)),
    st.just(encode_open(None, "Console 1")),
    st.builds(encode_open, st.one_of(TYPED.map(lambda typed: typed.decode().strip()), st.text(max_size=20)), st.text()),
    st.binary(min_size=1, max_size=64),
)
CLIENTS = st.lists(st.tuples(st.booleans(), st.lists(FRAMES, max_size=6)), min_size=1, max_size=4)


def test_rubbish_on_the_socket_changes_nothing(server: SshServer) -> None:
    """Whatever is written to the socket, frames or not, nothing is reset and the next person is served."""

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(CLIENTS)
    def hold(clients: list[tuple[bool, list[bytes]]]) -> None:
        asyncio.run(serve(clients))

    async def serve(clients: list[tuple[bool, list[bytes]]]) -> None:
        async with NetworkSide.run(server.socket) as side:
            for opens, frames in clients:
                await _write_all(server, [encode_open(None, ""), *frames] if opens else frames)
            async with DoorClient.connect(server.socket) as client:
                await client.open("token backup list")
                assert await client.ended() == 0
            assert side.manager.wanted == []

    hold()


async def _write_all(server: SshServer, frames: list[bytes]) -> None:
    async with DoorClient.connect(server.socket) as client:
        for frame in frames:
            try:
                await client.send(frame)
            except OSError:  # it was cut off already
                return
