# SPDX-License-Identifier: Apache-2.0
"""What the users of `appliance-console ssh-user add` can do, and what they cannot: `test_ssh_user.py` runs this.

Every attempt that must fail is made by somebody for whom it succeeds, too.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.network_side import SERIAL, NetworkSide
from tests.support.own_etc import FREE, LUNASH, MEMBER, USER, environments, inside, own_server, sshd_says
from tests.support.process import PtyProcess, run
from tests.support.sshd import SshServer, held_port

if not inside():
    pytest.skip("runs where /etc is its own only", allow_module_level=True)

PROMPT = b"[local_host] lunash:>"


@pytest.fixture(
    scope="module",
    params=[("yes", "internal-sftp"), ("no", "/usr/lib/openssh/sftp-server")],
    ids=["pam,internal-sftp", "no-pam,sftp-server"],
)
def server(request: pytest.FixtureRequest) -> Iterator[SshServer]:
    """A running server with the three users."""
    pam, subsystem = request.param
    with own_server(pam=pam, subsystem=subsystem) as server:
        yield server


@pytest.fixture
async def side(server: SshServer) -> AsyncIterator[NetworkSide]:
    """The daemon, as far as the network sees it; every user but the free one is admin."""
    async with NetworkSide.run(server.socket, group="lunash", users={MEMBER: "admin"}) as side:
        yield side


async def test_one_command(server: SshServer, side: NetworkSide) -> None:
    """`ssh admin@box token backup list` is the command's output, and the audit has it as it was typed."""
    status, output, errors = await run(*server.ssh(USER, "token backup list"))

    assert (status, errors) == (0, b"")
    assert SERIAL.encode() in output
    assert output.endswith(b"\nCommand Result : 0 (Success)\n")
    assert b"\r" not in output
    assert [record["command"] for record in side.records("command")] == ["token backup list"]


async def test_one_command_on_a_terminal(server: SshServer, side: NetworkSide) -> None:
    """`ssh -t` makes a terminal of it, and the command the same."""
    async with PtyProcess.start(*server.ssh(USER, "-tt", "token backup list")) as person:
        await person.expect(b"Command Result : 0 (Success)\r\n")
        assert (await person.ended())[0] == 0
    assert [record["command"] for record in side.records("command")] == ["token backup list"]


@pytest.mark.usefixtures("side")
@pytest.mark.parametrize("user", [USER, MEMBER])
async def test_interactive_session(server: SshServer, user: str) -> None:
    """Without a command there is a prompt, and nothing of the machine's before it; the reset is refused."""
    async with PtyProcess.start(*server.ssh(user, "-tt")) as person:
        assert (await person.expect(PROMPT)).startswith(b"Network HSM 1.0")
        person.type(b"token backup factoryReset\r")
        assert b"can only be run from the local\r\nconsole" in await person.expect(PROMPT)
        person.type(b"exit\r")
        assert (await person.ended())[0] == 0


@pytest.mark.usefixtures("side")
async def test_the_forced_command_is_an_unknown_one(server: SshServer) -> None:
    """A client that asks for lunash itself gets no second one."""
    status, output, _ = await run(*server.ssh(USER, str(LUNASH)))

    assert status == 1
    assert b"Command Result : 65535 (Luna Shell execution)" in output


# --- what nobody in the group lunash can do ---


@pytest.fixture
def place(server: SshServer) -> Iterator[Path]:
    """A folder where every user may write."""
    folder = server.folder / "place"
    folder.mkdir()
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Listener:
    """Somebody whom a forwarded connection would reach."""

    address: str
    reached: asyncio.Event


@pytest.fixture
async def listener(server: SshServer) -> AsyncIterator[tuple[Listener, Listener]]:
    """One on a port and one on a Unix socket; both hang up at once."""
    place = server.folder / "s"
    by_port, by_path = asyncio.Event(), asyncio.Event()

    def answer(reached: asyncio.Event) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reached.set()
            writer.close()

        return hang_up

    tcp = await asyncio.start_server(answer(by_port), "127.0.0.1", 0)
    unix = await asyncio.start_unix_server(answer(by_path), place)
    place.chmod(0o777)
    async with tcp, unix:
        host, port = tcp.sockets[0].getsockname()
        yield Listener(f"{host}:{port}", by_port), Listener(str(place), by_path)
    place.unlink(missing_ok=True)  # from Python 3.13 on asyncio does it


def lies_in(folder: Path, file: Path) -> bool:
    """Whether the folder has it."""
    return file in folder.iterdir()


EVERYBODY = pytest.mark.parametrize(("user", "succeeds"), [(USER, False), (MEMBER, False), (FREE, True)])


@EVERYBODY
@pytest.mark.usefixtures("side")
async def test_sftp(server: SshServer, user: str, succeeds: bool) -> None:
    """No file is listed, whether sshd serves files itself or by another program."""
    status, output, _ = await run(*server.client("sftp"), "-b", "-", f"{user}@127.0.0.1", typed=b"ls /etc/passwd\n")

    assert (status == 0, b"\n/etc/passwd" in output) == (succeeds, succeeds)


@EVERYBODY
@pytest.mark.usefixtures("side")
@pytest.mark.parametrize("protocol", ["-s", "-O"], ids=["over-sftp", "old-protocol"])
@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
async def test_scp(server: SshServer, place: Path, user: str, succeeds: bool, protocol: str, back: bool) -> None:
    """No file is copied, in either direction and either protocol."""
    there = place / "passwd"
    names = (f"{user}@127.0.0.1:/etc/passwd", str(there)) if back else ("/etc/passwd", f"{user}@127.0.0.1:{there}")
    status, _, _ = await run(*server.client("scp"), protocol, *names)

    assert (status == 0, lies_in(place, there)) == (succeeds, succeeds)


@EVERYBODY
@pytest.mark.usefixtures("side")
async def test_connection_to_a_port(
    server: SshServer, listener: tuple[Listener, Listener], user: str, succeeds: bool
) -> None:
    """A connection to a port is not forwarded (-W; -L and -D ask the server for the same)."""
    status, _, _ = await run(*server.ssh(user, "-W", listener[0].address))

    assert (status == 0, listener[0].reached.is_set()) == (succeeds, succeeds)


@EVERYBODY
@pytest.mark.usefixtures("side")
async def test_connection_to_a_socket(
    server: SshServer, listener: tuple[Listener, Listener], user: str, succeeds: bool
) -> None:
    """Nor is one to a Unix socket."""
    with held_port() as port:
        command = server.ssh(user, "-tt", "-oExitOnForwardFailure=yes", f"-L127.0.0.1:{port}:{listener[1].address}")
        async with PtyProcess.start(*command) as person:
            await person.expect(PROMPT if user != FREE else b"$ ")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b""
            writer.close()

    assert listener[1].reached.is_set() is succeeds


@EVERYBODY
@pytest.mark.usefixtures("side")
@pytest.mark.parametrize("on", ["port", "socket"])
async def test_listening_on_the_appliance(server: SshServer, place: Path, user: str, succeeds: bool, on: str) -> None:
    """No port and no socket of the appliance leads to the client (-R)."""
    with held_port() as port:
        listens = f"127.0.0.1:{port}" if on == "port" else str(place / "s")
        command = server.ssh(user, "-oExitOnForwardFailure=yes", f"-R{listens}:127.0.0.1:9", "exit")
        status, _, errors = await run(*command)

    assert (status == 0, b"forwarding failed" not in errors) == (succeeds, succeeds)


@EVERYBODY
@pytest.mark.usefixtures("server")
def test_tunnel(user: str, succeeds: bool) -> None:
    """No tunnel device is offered (-w)."""
    assert (sshd_says(user)["permittunnel"] != "no") is succeeds


@EVERYBODY
@pytest.mark.usefixtures("side")
async def test_x11(server: SshServer, user: str, succeeds: bool) -> None:
    """No window is shown on the client's display."""
    _, _, errors = await run(*server.ssh(user, "-Y", "-v", "help"), env={**os.environ, "DISPLAY": ":7"})

    assert (b"X11 forwarding request failed" not in errors) is succeeds
    assert b"Requesting X11 forwarding" in errors


@EVERYBODY
@pytest.mark.usefixtures("side")
async def test_agent(server: SshServer, listener: tuple[Listener, Listener], user: str, succeeds: bool) -> None:
    """The client's agent is not within reach (-A)."""
    environment = {**os.environ, "SSH_AUTH_SOCK": listener[1].address}
    async with PtyProcess.start(*server.ssh(user, "-tt", "-A"), env=environment) as person:
        await person.expect(PROMPT if user != FREE else b"$ ")
        found = b"".join(environments(user))

    assert (b"SSH_AUTH_SOCK=" in found) is succeeds


@EVERYBODY
@pytest.mark.usefixtures("side")
async def test_environment(server: SshServer, user: str, succeeds: bool) -> None:
    """No variable of the client's gets there, although sshd takes every one for others."""
    command = server.ssh(user, "-tt", "-oSetEnv=LC_ALL=/tmp PYTHONPATH=/tmp LD_PRELOAD=x", "-oSendEnv=LANG")
    async with PtyProcess.start(*command) as person:
        await person.expect(PROMPT if user != FREE else b"$ ")
        found = b"".join(environments(user))

    assert [name in found for name in (b"LC_ALL=/tmp", b"PYTHONPATH=/tmp", b"LD_PRELOAD=x")] == [succeeds] * 3


@EVERYBODY
async def test_password(server: SshServer, user: str, succeeds: bool) -> None:
    """None is asked for."""
    status, _, errors = await run(*server.ssh(user, "-oPreferredAuthentications=none", "help"))

    assert status == 255
    assert (b"password" in errors) is succeeds
    assert b"Permission denied (publickey" in errors


@pytest.fixture
def rc_file(place: Path, user: str) -> Iterator[Path]:
    """What a script makes that root himself put into the user's ~/.ssh/rc."""
    script = Path("/home", user, ".ssh/rc")
    script.write_text(f"touch {place}/mark\n")
    yield place / "mark"
    script.unlink()


@EVERYBODY
@pytest.mark.usefixtures("side")
async def test_rc_file(server: SshServer, rc_file: Path, user: str, succeeds: bool) -> None:
    """Not even that is run."""
    await run(*server.ssh(user, "help"))

    assert lies_in(rc_file.parent, rc_file) is succeeds
