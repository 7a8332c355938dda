# SPDX-License-Identifier: Apache-2.0
"""The daemon in this process: it comes to an orderly end, whatever happens before and meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from appliance.audit import AuditLog
from appliance.chain import Field
from appliance.config import Config, LineSettings, NetworkSettings
from appliance.console.door import listen
from appliance.console.frames import encode_open
from appliance.console.getty import Getty
from appliance.daemon import Daemon
from appliance.errors import ApplianceError
from appliance.hsm.manager import Manager
from appliance.hsm.usb import UsbBus
from appliance.shell.session import Session
from appliance.simulator.bus import FolderBus
from tests.support.door_client import DoorClient

PATIENCE = 20.0  # seconds; a bound for a machine that is busy, not a wait


class House:
    """A daemon whose serial port is missing."""

    def __init__(self, folder: Path) -> None:
        (folder / "bus").mkdir()
        source = FolderBus(folder / "bus")
        self.socket, self.state = folder / "door", folder / "state"
        config = Config(
            state=self.state,
            line=LineSettings(port=str(folder / "missing")),
            network=NetworkSettings(socket=self.socket),
        )
        self.ended = asyncio.Event()
        self.daemon = Daemon(config, source, UsbBus(source.backend))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The daemon, as soon as its network door is open; it is told to stop at the end, and has stopped then."""
        task = asyncio.create_task(self.daemon.run())
        task.add_done_callback(lambda _: self.ended.set())
        try:
            async with asyncio.timeout(PATIENCE):
                while not self.socket.exists() and not task.done():  # noqa: ASYNC110  nobody tells
                    await asyncio.sleep(0.01)
            yield
        finally:
            self.daemon.stop()
            async with asyncio.timeout(PATIENCE):
                await task

    def events(self) -> list[str]:
        """The audit trail's, which the daemon must have let go."""
        AuditLog.open(self.state / "audit.jsonl").close()
        return [json.loads(line)["event"] for line in (self.state / "audit.jsonl").read_text().splitlines()]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setattr("appliance.daemon._PORT_PATIENCE", 0.01)
    return House(tmp_path)


async def broken(*_: object) -> None:
    """A part with a defect."""
    raise ZeroDivisionError


def broken_at_once(*_: object) -> None:
    """The same, where nothing is awaited."""
    raise ZeroDivisionError


async def test_a_defect_beside_the_console_is_told_and_stops_no_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the log at once; the end still waits for a reset that runs, and records the stop."""
    stopped: list[Manager] = []

    async def stop(manager: Manager) -> None:
        stopped.append(manager)

    monkeypatch.setattr(Manager, "stop", stop)
    monkeypatch.setattr(Daemon, "_check_hearing", broken_at_once)
    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(house.daemon.run())
        async with asyncio.timeout(PATIENCE):
            while not [entry for entry in logs if entry["log_level"] == "critical"]:  # noqa: ASYNC110  as above
                await asyncio.sleep(0.01)
            house.daemon.stop()
            await running

    (told,) = [entry for entry in logs if entry["log_level"] == "critical"]
    assert isinstance(told["exc_info"], ZeroDivisionError)
    assert len(stopped) == 1
    assert house.events()[-1] == "stop"


async def test_a_defect_in_one_part_costs_that_part(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """HSMs that cannot be watched leave the network door and the console open, and both say so."""
    monkeypatch.setattr(Manager, "start", broken)
    with structlog.testing.capture_logs() as logs:
        async with house.running(), DoorClient.connect(house.socket) as client:
            await client.open("help")
            assert await client.ended() == 0

    assert [entry["part"] for entry in logs if entry["log_level"] == "critical"] == ["HSMs"]
    assert "error" in house.daemon._problems[-1]
    assert house.events()[-1] == "stop"


async def test_a_console_that_ends_by_itself_ends_the_daemon_in_order(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service manager starts another one; until then the defect is told once, and everything is closed."""
    monkeypatch.setattr(Getty, "run", broken)
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ApplianceError, match="ended by itself"):
                await house.daemon.run()

    assert [entry["task"] for entry in logs if entry["log_level"] == "critical"] == ["console"]
    assert house.events()[-1] == "stop"


async def test_a_command_at_work_says_what_it_came_to_before_the_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its last record takes: neither the record nor the answer is lost."""
    record, answered = AuditLog.record, Session.answered
    recording, may_end = asyncio.Event(), asyncio.Event()

    async def slow_record(audit: AuditLog, event: str, *, actor: str, origin: str, **fields: Field) -> int:
        if event == "result":
            recording.set()
            await may_end.wait()
        return await record(audit, event, actor=actor, origin=origin, **fields)

    async def waited_for(session: Session) -> None:
        may_end.set()
        await answered(session)

    monkeypatch.setattr(AuditLog, "record", slow_record)
    monkeypatch.setattr(Session, "answered", waited_for)
    async with house.running(), DoorClient.connect(house.socket) as client:
        await client.open("help")
        async with asyncio.timeout(PATIENCE):
            await recording.wait()
        house.daemon.stop()
        assert await client.ended() == 0

    assert house.events()[-3:] == ["result", "logout", "stop"]


async def test_nobody_who_sits_at_a_prompt_holds_up_the_end(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at that of the shell nor at the question of a command."""
    monkeypatch.setattr("appliance.daemon._LAST_WORDS", 10 * PATIENCE)
    async with house.running(), DoorClient.connect(house.socket) as idle, DoorClient.connect(house.socket) as asked:
        await idle.open()
        await idle.expect(b"lunash:>")
        await asked.open("my password set")
        await asked.expect(b"UNIX password: ")
        house.daemon.stop()
        assert await idle.ended() is None
        assert await asked.ended() is None

    assert house.events()[-1] == "stop"


async def test_whoever_comes_during_the_end_waits_for_the_next_daemon(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where systemd holds the socket, too: while a reset ends, a connection stays in its queue, untouched."""
    stop = Manager.stop
    stopping, may_stop = asyncio.Event(), asyncio.Event()

    async def slow_stop(manager: Manager) -> None:
        stopping.set()
        await may_stop.wait()
        await stop(manager)

    monkeypatch.setattr(Manager, "stop", slow_stop)
    inherited = listen(house.socket, "")
    with inherited.dup() as systemds:
        monkeypatch.setattr("appliance.systemd.listen_fds", lambda: (("lunash", inherited),))
        async with house.running(), DoorClient.connect(house.socket) as client:
            await client.open("help")
            assert await client.ended() == 0
            house.daemon.stop()
            async with asyncio.timeout(PATIENCE):
                await stopping.wait()
            async with DoorClient.connect(house.socket) as newcomer:
                await newcomer.open("help")
                may_stop.set()
                async with asyncio.timeout(PATIENCE):
                    await house.ended.wait()
                systemds.setblocking(False)
                connection, _ = systemds.accept()
                with connection:
                    assert connection.recv(4096) == encode_open("help", "")
