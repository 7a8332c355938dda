# SPDX-License-Identifier: Apache-2.0
"""A connection to the network door is a stream that takes no more than it can hold and keeps nobody waiting."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.console.connection import Connection
from appliance.console.frames import LARGEST_PAYLOAD, Kind, encode, encode_open
from appliance.errors import Hangup
from tests.support.door_client import LIMIT, DoorClient


@asynccontextmanager
async def pair(path: Path) -> AsyncIterator[tuple[Connection, DoorClient]]:
    """A connection that is opened, and its client."""
    accepted: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_unix_server(lambda *ends: accepted.set_result(Connection(*ends)), path)
    async with server, DoorClient.connect(path, uid=os.geteuid()) as client:
        await client.open()
        async with asyncio.timeout(LIMIT):
            connection = await accepted
            assert await connection.opening() == (None, "")
        try:
            yield connection, client
        finally:
            connection.close()


async def read_all(connection: Connection) -> bytes:
    """What can be read until the hang-up."""
    data = b""
    try:
        async with asyncio.timeout(LIMIT):
            while True:
                data += await connection.read()
    except Hangup:
        return data


async def test_what_came_before_the_end_is_read(tmp_path: Path) -> None:
    """Input is read to its end, then it is a hang-up for ever, while output still goes out."""
    async with pair(tmp_path / "door") as (connection, client):
        await client.type(b"last words")
        await client.send(encode(Kind.END))
        assert await read_all(connection) == b"last words"
        assert await read_all(connection) == b""
        await connection.write(b"answer")
        await connection.finish(0)
        connection.close()
        assert (await client.ended(), client.seen) == (0, b"answer")


async def test_hang_up_is_seen_without_reading(tmp_path: Path) -> None:
    """A client that leaves is noticed at once; what it typed last is not read, and writing is a hang-up too."""
    async with pair(tmp_path / "door") as (connection, client):
        await client.type(b"dangerous\r")
        client.writer.close()
        async with asyncio.timeout(LIMIT):
            await connection.hung_up()
        assert await read_all(connection) == b""
        with pytest.raises(Hangup):
            await connection.write(b"x")
        with pytest.raises(Hangup):
            await connection.finish(0)


async def test_reader_that_waits_hears_of_the_hang_up(tmp_path: Path) -> None:
    """A read that waits when the client leaves ends in a hang-up."""
    async with pair(tmp_path / "door") as (connection, client):
        reading = asyncio.create_task(connection.read())
        await asyncio.sleep(0)
        client.writer.close()
        with pytest.raises(Hangup):
            await asyncio.wait_for(reading, LIMIT)


async def test_input_is_forgotten_on_demand(tmp_path: Path) -> None:
    """What was typed before a flush is not read after it; what is typed later is."""
    async with pair(tmp_path / "door") as (connection, client):
        await client.type(b"ahead" + b"x" * 2000)
        assert (await connection.read()).startswith(b"ahead")
        connection.flush_input()
        await client.type(b"later")
        assert await connection.read() == b"later"


async def test_flood_is_held_back_and_nothing_lost(tmp_path: Path) -> None:
    """Of two megabytes that nobody reads, a bounded part is taken; when they are read, all of them come, in order."""
    flood = bytes(range(256)) * 8192
    async with pair(tmp_path / "door") as (connection, client):
        for start in range(0, len(flood), LARGEST_PAYLOAD):
            client.writer.write(encode(Kind.DATA, flood[start : start + LARGEST_PAYLOAD]))
        client.writer.write(encode(Kind.END))
        for _ in range(1000):  # turns of the loop: what can move has moved then
            await asyncio.sleep(0)
        assert client.unsent > len(flood) // 2
        assert await read_all(connection) == flood


async def test_others_get_their_turn_between_reads(tmp_path: Path) -> None:
    """However much there is to read, it comes in small pieces, and other tasks run before each."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with pair(tmp_path / "door") as (connection, client):
        await client.type(b"x" * LARGEST_PAYLOAD)
        await connection.read()
        counting = asyncio.create_task(count())
        for number in range(LARGEST_PAYLOAD // 1024 - 1):
            assert len(await connection.read()) == 1024
            assert turns > number
        counting.cancel()


@given(output=st.binary(max_size=20000))
@settings(max_examples=20, deadline=None)
def test_any_output_arrives_whole(tmp_path_factory: pytest.TempPathFactory, output: bytes) -> None:
    """Output of any length and content arrives as it was written."""

    async def hold() -> None:
        async with pair(tmp_path_factory.mktemp("door") / "door") as (connection, client):
            await connection.write(output)
            await connection.finish(1)
            connection.close()
            assert (await client.ended(), client.seen) == (1, output)

    asyncio.run(hold())


async def test_opening_comes_with_more(tmp_path: Path) -> None:
    """What is sent together with the opening is input like any other."""
    accepted: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_unix_server(lambda *ends: accepted.set_result(Connection(*ends)), tmp_path / "door")
    async with server, DoorClient.connect(tmp_path / "door", uid=os.geteuid()) as client:
        await client.send(encode_open("help", "x") + encode(Kind.DATA, b"ab") + encode(Kind.END))
        async with asyncio.timeout(LIMIT):
            connection = await accepted
            assert await connection.opening() == ("help", "x")
        assert await read_all(connection) == b"ab"
        connection.close()
