# SPDX-License-Identifier: Apache-2.0
"""A client of the network door that misbehaves costs its own session and nothing else."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.console import connection as connection_module
from appliance.console import door as door_module
from appliance.console.door import MOST_SESSIONS, Door
from appliance.console.frames import LARGEST_PAYLOAD, Kind, encode, encode_open
from appliance.shell.invocation import Origin
from tests.support.door_client import LIMIT, DoorClient
from tests.support.door_house import House, peer_name


@pytest.fixture
def house() -> Iterator[House]:
    with House.build() as house:
        yield house


@pytest.fixture
async def door(house: House) -> AsyncIterator[Door]:
    async with house.open() as door:
        yield door


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(b"\xff" * 100_000, id="much of nothing"),
        pytest.param(encode(Kind.DATA, b"exit\r"), id="data before the opening"),
        pytest.param(encode(Kind.DATA, encode_open("yes", "")[3:]), id="opening that calls itself data"),
        pytest.param(encode(Kind.END), id="end before the opening"),
        pytest.param(encode(Kind.EXIT, b"\x00"), id="exit status from a client"),
        pytest.param(encode(Kind.OPEN, b"{}"), id="opening that says nothing"),
        pytest.param(encode(Kind.OPEN, b"[" * LARGEST_PAYLOAD), id="opening nested too deeply"),
        pytest.param(encode_open("yes", "") + b"\x07\x00\x00", id="rubbish right behind the opening"),
        pytest.param(encode_open("yes", "") + encode_open("yes", ""), id="two openings"),
        pytest.param(b"\x02\xff\xff" + b"x" * 65535, id="frame that is too long"),
    ],
)
async def test_rubbish_closes_the_connection(house: House, rubbish: bytes) -> None:
    """What does not begin as the format says is cut off without a word, audited, and nothing else happens."""
    async with house.client() as client:
        await client.send(rubbish)
        assert await client.ended() is None
        assert client.seen == b""
    event, actor, _, reason = await house.record("door-rejected")
    assert (event, actor) == ("door-rejected", peer_name(os.geteuid()))
    assert reason
    assert house.sessions == []
    await house.works()


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(b"\x00\x00\x00", id="no frame"),
        pytest.param(encode_open("yes", ""), id="second opening"),
        pytest.param(encode(Kind.EXIT, b"\x00"), id="exit status"),
        pytest.param(encode(Kind.END) + encode(Kind.DATA, b"x"), id="data after the end"),
        pytest.param(encode(Kind.END) + encode(Kind.END), id="two ends"),
    ],
)
async def test_rubbish_cuts_a_session(house: House, rubbish: bytes) -> None:
    """A session whose client breaks the format ends at once: what was typed before it is not run any more."""
    async with house.client() as client:
        await client.open()
        await client.expect(b"> ")
        await client.send(encode(Kind.DATA, b"not run\r") + rubbish)
        assert await client.ended() is None
        assert b"said" not in client.seen
    await house.record("logout")
    assert [record[0] for record in house.records()] == ["login", "door-rejected", "logout"]
    assert house.sessions[0].ended_by == "Hangup"
    await house.works()


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize("said", [b"", b"\x01", encode_open("yes", "")[:-1]], ids=["nothing", "one byte", "not all"])
async def test_slow_opening_is_cut(house: House, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """A client that does not say in time what it wants is cut off and audited."""
    monkeypatch.setattr(connection_module, "OPENING_LIMIT", 0.05)
    async with house.client() as client:
        await client.send(said)
        assert await client.ended() is None
    assert (await house.record("door-rejected"))[3] == "no opening in time"


@pytest.mark.usefixtures("door")
async def test_number_of_sessions_is_bounded(house: House) -> None:
    """One client more than there may be gets a sentence; when one leaves, the next is let in."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(house.client()) for _ in range(MOST_SESSIONS)]
        for client in clients:
            await client.open()
            await client.expect(b"> ")
        async with house.client() as extra:
            await extra.open()
            assert await extra.ended() == 1
            assert b"Error:  Too many sessions are open. Close one, or try again later.\r\n" in extra.seen
        await clients[0].type(b"exit\r")
        assert await clients[0].ended() == 0
        await clients[1].type(b"still here\r")
        await clients[1].expect(b"said 10 still here\r\n")
        await house.record("logout")
        await house.works()
    assert len(house.sessions) == MOST_SESSIONS + 1


@pytest.mark.usefixtures("door")
async def test_the_last_place_is_given_to_one_of_two(house: House) -> None:
    """Of two clients who come in the same moment the first gets the place that is free, and only the other none."""
    async with AsyncExitStack() as stack:
        for _ in range(MOST_SESSIONS - 1):
            client = await stack.enter_async_context(house.client())
            await client.open()
            await client.expect(b"> ")
        both = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for sock in both:
            sock.connect(str(house.path))  # nothing is awaited in between, so that both are accepted together
        first, second = [DoorClient(*await asyncio.open_unix_connection(sock=sock)) for sock in both]
        for client in (first, second):
            stack.callback(client.writer.close)
        await first.open("yes")
        await second.open("yes")
        assert await first.ended() == 0
        assert await second.ended() == 1
        assert b"Too many sessions are open." in second.seen


@pytest.mark.usefixtures("door")
async def test_client_that_does_not_read_is_cut(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output that nobody takes costs the session after a bounded time; another session goes on meanwhile."""
    monkeypatch.setattr(connection_module, "WRITE_LIMIT", 0.2)
    async with house.client() as deaf, house.client() as other:
        deaf.deafen()
        await deaf.open()
        await other.open()
        await deaf.type(b"much\r")
        await other.expect(b"> ")
        await other.type(b"hello\r")
        await other.expect(b"said 5 hello\r\n")
        assert (await house.record("logout"))[1] == "admin"
        assert sorted(session.ended_by for session in house.sessions) == ["", "Hangup"]  # whoever was let in first
        await other.type(b"exit\r")
        assert await other.ended() == 0


@pytest.mark.usefixtures("door")
async def test_flood_of_input_hurts_nobody_else(house: House) -> None:
    """A client that types a megabyte at a busy session is held back; others work, and it may leave at any time."""
    async with house.client() as other:
        async with house.client() as flood:
            await flood.open()
            await flood.expect(b"> ")
            house.sessions[0].may_read.clear()
            await flood.type(b"\r")
            await flood.expect(b"said 0 \r\n")
            for _ in range(100):
                flood.writer.write(encode(Kind.DATA, b"y" * 10_000))
            await other.open()
            await other.type(b"hello\r")
            await other.expect(b"said 5 hello\r\n")
            flood.writer.transport.abort()
        house.sessions[0].may_read.set()
        assert (await house.record("logout"))[0] == "logout"
        await other.type(b"exit\r")
        assert await other.ended() == 0


@pytest.mark.usefixtures("door")
async def test_fault_in_one_session_stays_there(house: House) -> None:
    """A session that crashes takes its own connection with it and nothing else, and is logged out."""
    async with house.client() as broken, house.client() as other:
        await other.open()
        await other.expect(b"> ")
        await broken.open()
        await broken.type(b"crash\r")
        assert await broken.ended() is None
        assert (await house.record("logout"))[1] == "admin"
        await other.type(b"hello\r")
        await other.expect(b"said 5 hello\r\n")


async def test_a_user_database_that_hangs_lets_nobody_in(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even root, who may be mapped. However often he comes, it costs one thread, and he gets in when it answers."""
    answer = threading.Event()

    def hanging(_: int) -> str:
        answer.wait(LIMIT)
        return "root"

    monkeypatch.setattr(door_module, "_user_name", hanging)
    monkeypatch.setattr(door_module, "LOOKUP_LIMIT", 0.05)
    async with house.open():
        for _ in range(2):
            async with house.client() as client:
                await client.open("yes")
                assert await client.ended() == 1
                assert b"Error:  The user database does not answer in time. Try again later.\r\n" in client.seen
        assert [thread.name for thread in threading.enumerate()].count("user name") == 1
        assert house.sessions == []
        assert [(event, reason) for event, _, _, reason in house.records()] == [
            ("door-rejected", "no user name in time")
        ] * 2
        monkeypatch.setattr(door_module, "LOOKUP_LIMIT", LIMIT)
        answer.set()
        await house.works()


FRAMES = st.one_of(
    st.builds(encode, st.sampled_from([Kind.OPEN, Kind.DATA]), st.binary(min_size=1, max_size=64)),
    st.just(encode(Kind.END)),
    st.builds(encode, st.just(Kind.EXIT), st.binary(min_size=1, max_size=1)),
    st.builds(encode_open, st.one_of(st.none(), st.text(max_size=20)), st.text(max_size=20)),
    st.binary(min_size=1, max_size=40),
)


def test_random_clients_change_nothing(house: House) -> None:
    """After any sequence of frames and bytes the door serves the next client, and no session was a local one."""

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.lists(FRAMES, max_size=5), min_size=1, max_size=4))
    def hold(clients: list[list[bytes]]) -> None:
        asyncio.run(_serve_all(house, clients))

    hold()
    assert house.sessions
    assert {session.origin for session in house.sessions} == {Origin.NETWORK}


async def _serve_all(house: House, clients: list[list[bytes]]) -> None:
    async with house.open():
        for frames in clients:
            async with house.client() as client:
                for frame in frames:
                    try:
                        await client.send(frame)
                    except OSError:  # it was cut off already
                        break
        await house.works()
    house.path.unlink()
