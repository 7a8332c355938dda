# SPDX-License-Identifier: Apache-2.0
"""The network door lets in whom the kernel names, and makes only network sessions."""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator, Mapping

import pytest

from appliance.audit import NoAudit
from appliance.chain import Field
from appliance.console.door import Door
from appliance.console.frames import Kind, encode, encode_open
from appliance.shell.invocation import Origin
from tests.support.door_client import LIMIT
from tests.support.door_house import NAMELESS_UID, NOBODY_UID, House, account, peer_name

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="to connect as another user takes root")


@pytest.fixture
def house() -> Iterator[House]:
    with House.build() as house:
        yield house


@pytest.fixture
async def door(house: House) -> AsyncIterator[Door]:
    async with house.open() as door:
        yield door


@pytest.mark.usefixtures("door")
async def test_session_is_on_the_network(house: House) -> None:
    """A session through this door is a network session of the account, from where SSH says, and it is audited."""
    async with house.client() as client:
        await client.open(source="192.0.2.7 40847")
        await client.expect(b"hello\r\n> ")
        [session] = house.sessions
        assert (session.account.name, session.origin, session.where) == ("admin", Origin.NETWORK, "192.0.2.7/40847")
        await client.type(b"exit\r")
        assert await client.ended() == 0
    assert await house.record("logout") == ("logout", "admin", "192.0.2.7/40847", "")
    assert [record[:3] for record in house.records()] == [
        ("login", "admin", "192.0.2.7/40847"),
        ("logout", "admin", "192.0.2.7/40847"),
    ]


@pytest.mark.usefixtures("door")
async def test_last_login_is_remembered(house: House) -> None:
    """What the next login shows as the last one is this one: when, and from which address."""
    async with house.client() as client:
        await client.open(source="2001:db8::7 40847")
        await client.expect(b"> ")
    saved = json.loads((house.state / "accounts.json").read_text())
    last = saved["accounts"]["admin"]["last_login"]
    assert last.startswith(("Thu Jan 01", "Wed Dec 31"))
    assert last.endswith(" from 2001:db8::7")


@as_root
@pytest.mark.parametrize(
    ("uid", "users", "accounts", "expected"),
    [
        pytest.param(0, {}, ["admin"], "admin", id="root is admin"),
        pytest.param(0, {"root": "ops"}, ["admin", "ops"], "ops", id="root is mapped"),
        pytest.param(0, {"root": "nobody"}, ["admin"], None, id="root is mapped to no account"),
        pytest.param(0, {}, ["root"], None, id="no admin, and an account root is not he"),
        pytest.param(NOBODY_UID, {}, ["admin", "nobody"], "nobody", id="same name"),
        pytest.param(NOBODY_UID, {"nobody": "ops"}, ["admin", "nobody", "ops"], "ops", id="the mapping comes first"),
        pytest.param(NOBODY_UID, {"nobody": "admin"}, ["admin"], "admin", id="mapped to admin"),
        pytest.param(NOBODY_UID, {"nobody": "gone"}, ["admin", "nobody"], None, id="mapped to no account"),
        pytest.param(NOBODY_UID, {"root": "nobody"}, ["admin"], None, id="another user is mapped"),
        pytest.param(NOBODY_UID, {}, ["admin"], None, id="no account"),
        pytest.param(NAMELESS_UID, {"": "admin"}, ["admin"], None, id="no name, and nobody is mapped by that"),
        pytest.param(NAMELESS_UID, {}, ["admin", str(NAMELESS_UID), ""], None, id="no name but accounts like it"),
    ],
)
async def test_kernel_says_who_it_is(
    house: House, uid: int, users: Mapping[str, str], accounts: list[str], expected: str | None
) -> None:
    """The uid of the connection leads to its account by the mapping, by its name, or not at all."""
    house.users = dict(users)
    house.accounts = {name: account(name) for name in accounts}
    async with house.open(), house.client(uid) as client:
        await client.open("yes", "192.0.2.7 1")
        status = await client.ended()
        assert [session.account.name for session in house.sessions] == ([expected] if expected else [])
        if expected:
            assert status == 0
            return
        sentence = f"Error:  User '{peer_name(uid)}' has no account on this appliance."
        assert client.seen.decode() == f"\r\n{sentence}\r\n\r\nCommand Result : 65535 (Luna Shell execution)\r\n"
        assert status == 1
        assert house.records() == [("door-rejected", peer_name(uid), "192.0.2.7/1", "no account")]


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize(
    ("source", "where"),
    [
        ("192.0.2.7 40847", "192.0.2.7/40847"),
        ("2001:DB8:0::7 22", "2001:db8::7/22"),
        ("fe80::1%eth0 22", "fe80::1/22"),
        ("192.0.2.7 00022", "192.0.2.7/22"),
        ("", "local"),
        ("Console", "local"),
        ("Console 1", "local"),
        ("UNKNOWN 65535", "local"),
        ("192.0.2.7", "local"),
        ("192.0.2.7 0", "local"),
        ("192.0.2.7 65536", "local"),
        ("192.0.2.7 -1", "local"),
        ("192.0.2.7 1 2", "local"),
        ("192.0.2.7  1", "local"),
        ("192.0.2.7 ٣", "local"),
        ("192.0.2.7\n 1", "local"),
        ("192.0.2.256 1", "local"),
        ("3221225991 1", "local"),
        ("x" * 10000 + " 1", "local"),
        ("192.0.2.7 " + "1" * 10000, "local"),
    ],
)
async def test_claimed_source_is_checked(house: House, source: str, where: str) -> None:
    """What the client says of its source is an address and a port in the audit, or `local` and its process id."""
    async with house.client() as client:
        await client.open("yes", source)
        assert await client.ended() == 0
    [session] = house.sessions
    assert session.where == (f"local/{os.getpid()}" if where == "local" else where)
    assert session.origin is Origin.NETWORK


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize(("command", "status"), [("yes", 0), ("no", 1), ("", 1)])
async def test_exit_status_of_a_command(house: House, command: str, status: int) -> None:
    """A command's status is 0 only if it did what was asked."""
    async with house.client() as client:
        await client.open(command)
        assert await client.ended() == status
        assert client.seen == f"ran {command}\r\n".encode()
    await house.record("logout")


@pytest.mark.usefixtures("door")
async def test_command_does_not_echo(house: House) -> None:
    """What is typed at a command's question is read but not sent back."""
    async with house.client() as client:
        await client.open("ask")
        await client.expect(b"sure? ")
        await client.type(b"yes\r")
        assert await client.ended() == 0
        assert client.seen == b"ran ask\r\nsure? "


@pytest.mark.usefixtures("door")
async def test_command_without_input_is_not_done(house: House) -> None:
    """A command that asks when nothing more will be typed has not done what was asked."""
    async with house.client() as client:
        await client.open("ask")
        await client.send(encode(Kind.END))
        assert await client.ended() == 1


@pytest.mark.usefixtures("door")
async def test_end_of_input_does_not_end_a_command(house: House) -> None:
    """A command whose input ends at once, as under `ssh -n`, still runs."""
    async with house.client() as client:
        await client.send(encode_open("yes", "") + encode(Kind.END))
        assert await client.ended() == 0
        assert client.seen == b"ran yes\r\n"


@pytest.mark.usefixtures("door")
async def test_end_of_input_ends_a_session_after_its_last_line(house: House) -> None:
    """All lines that were piped in are run before the session ends, and it ends well."""
    async with house.client() as client:
        await client.open()
        await client.type(b"one\ntwo\n")
        await client.send(encode(Kind.END))
        assert await client.ended() == 0
        assert b"said 3 one\r\n" in client.seen
        assert b"said 3 two\r\n" in client.seen


@pytest.mark.usefixtures("door")
async def test_keys_mean_what_the_terminal_makes_of_them(house: House) -> None:
    """Ctrl-C abandons the line, Ctrl-D on an empty line ends the session; both come as plain bytes."""
    async with house.client() as client:
        await client.open()
        await client.expect(b"> ")
        await client.type(b"half a li\x03")
        await client.expect(b"interrupted\r\n> ")
        await client.type(b"\x04")
        assert await client.ended() == 0


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize(
    "command",
    [
        pytest.param("two\nlines", id="line feed"),
        pytest.param("tab\tbed", id="tab"),
        pytest.param("a\x1b[2J", id="escape sequence"),
        pytest.param("nul\x00", id="NUL"),
        pytest.param("\udcff", id="a byte that is no UTF-8"),
        pytest.param("x" * 10000, id="long"),
    ],
)
async def test_the_shell_judges_every_command(house: House, command: str) -> None:
    """The door hands over what it gets: what is refused, and in which words, is decided behind it."""
    async with house.client() as client:
        await client.open(command)
        await client.ended()
    assert house.sessions[0].commands == [command]


async def test_idle_session_ends(house: House) -> None:
    """A session at which nobody types is told so and closed."""
    house.idle_timeout = 0.05
    async with house.open(), house.client() as client:
        await client.open()
        assert await client.ended() == 1
        assert client.seen.endswith(b"\r\nThe session was idle for too long and is closed.\r\n")
        assert house.sessions[0].ended_by == "Timeout"


@pytest.mark.usefixtures("door")
async def test_hang_up_logs_out(house: House) -> None:
    """A client that just goes ends its session, and that is audited."""
    async with house.client() as client:
        await client.open()
        await client.expect(b"> ")
    await house.record("logout")
    assert house.sessions[0].ended_by == "Hangup"


async def test_door_that_closes_logs_out(house: House) -> None:
    """When the daemon ends, so do the sessions, and the audit says so; nobody can connect any more."""
    async with house.open() as door, house.client() as client:
        await client.open()
        await client.expect(b"> ")
        await door.close()
        assert house.records()[-1][0] == "logout"
        assert await client.ended() is None
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_unix_connection(house.path)


async def test_a_door_that_is_shut_keeps_its_sessions(house: House) -> None:
    """When the end begins, nobody comes in any more; whoever is inside can still finish."""
    async with house.open() as door, house.client() as client:
        await client.open()
        await client.expect(b"> ")
        door.shut()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_unix_connection(house.path)
        await client.type(b"hello\r")
        await client.expect(b"said 5 hello\r\n")


async def test_whoever_comes_as_the_door_closes_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was accepted in the last moment gets a sentence, and no session that is cut off at once."""
    accept, closing = Door._accept, []

    def accept_late(door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        door.shut()
        accept(door, reader, writer)
        closing.append(asyncio.create_task(door.close()))

    monkeypatch.setattr(Door, "_accept", accept_late)
    async with house.open(), house.client() as client:
        await client.open()
        assert await client.ended() == 1
        assert b"Error:  The console service is being stopped. Try again later.\r\n" in client.seen
    assert house.sessions == []


async def test_whoever_is_cut_off_at_the_login_is_logged_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that is on its way to the trail when the door closes has its logout there, too."""
    append, begun, may_write = house.audit.append, asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow_append(event: str, *, actor: str, origin: str, **fields: Field) -> int:
        loop.call_soon_threadsafe(begun.set)
        may_write.wait(LIMIT)
        return append(event, actor=actor, origin=origin, **fields)

    monkeypatch.setattr(house.audit, "append", slow_append)
    async with house.open() as door, house.client() as client:
        await client.open()
        async with asyncio.timeout(LIMIT):
            await begun.wait()
        closing = asyncio.create_task(door.close())
        await asyncio.sleep(0)  # now the session is told to end
        may_write.set()
        await closing
    assert [record[0] for record in house.records()] == ["login", "logout"]
    assert house.sessions == []


async def test_nobody_gets_in_unrecorded(house: House) -> None:
    """When the audit trail cannot be written, the network is told so and gets no session."""
    house.audit.close()
    house.audit = NoAudit("the disk is full")
    async with house.open(), house.client() as client:
        await client.open()
        assert await client.ended() == 1
        assert b"Error:  The audit trail cannot be written." in client.seen
        assert house.sessions == []


async def test_a_door_that_is_switched_off_says_so(house: House) -> None:
    """Where systemd holds the socket, clients connect all the same; they get a sentence instead of silence."""
    house.enabled = False
    async with house.open(), house.client() as client:
        await client.open("yes")
        assert await client.ended() == 1
        assert b"Error:  The network door is switched off on this appliance." in client.seen
        assert house.sessions == []
    event, _, _, why = house.records()[0]
    assert (event, why) == ("door-rejected", "switched off")
