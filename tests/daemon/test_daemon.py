# SPDX-License-Identifier: Apache-2.0
"""The daemon in this process, where something that it needs is missing."""

import asyncio
from pathlib import Path

import pytest

from appliance.config import Config, LineSettings, NetworkSettings
from appliance.console.door import listen
from appliance.daemon import Daemon
from appliance.hsm.builtin import BuiltinHsm
from appliance.hsm.manager import Manager
from appliance.hsm.usb import UsbBus
from appliance.simulator.bus import FolderBus
from tests.support.door_client import DoorClient

PATIENCE = 20.0  # seconds; a bound for a machine that is busy, not a wait


async def ask(tmp_path: Path, config: Config, socket: Path) -> bytes:
    """What the network is answered while the daemon runs."""
    (tmp_path / "bus").mkdir()
    source = FolderBus(tmp_path / "bus")
    daemon = Daemon(config, source, UsbBus(source.backend))
    running = asyncio.create_task(daemon.run())
    try:
        async with asyncio.timeout(PATIENCE):
            while not socket.exists():  # noqa: ASYNC110,ASYNC240  nobody tells; a local folder answers at once
                await asyncio.sleep(0.01)
            async with DoorClient.connect(socket) as client:
                await client.open("help")
                await client.ended()
                return bytes(client.seen)
    finally:
        daemon.stop()
        await running


async def test_the_network_is_served_while_the_port_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices and the network door do not wait for ever for a serial port."""
    monkeypatch.setattr("appliance.daemon._PORT_PATIENCE", 0.01)
    socket = tmp_path / "door"
    line = LineSettings(port=str(tmp_path / "missing"))
    config = Config(state=tmp_path / "state", line=line, network=NetworkSettings(socket=socket))

    assert b"The following commands are available" in await ask(tmp_path, config, socket)


async def test_a_socket_of_systemd_is_answered_though_the_door_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `enabled = false`, whoever connects to the socket unit's socket is told so instead of waiting for ever."""
    monkeypatch.setattr("appliance.daemon._PORT_PATIENCE", 0.01)
    socket = tmp_path / "door"
    inherited = listen(socket, "")
    monkeypatch.setattr("appliance.systemd.listen_fds", lambda: (("lunash", inherited),))
    line = LineSettings(port=str(tmp_path / "missing"))
    config = Config(state=tmp_path / "state", line=line, network=NetworkSettings(enabled=False))

    assert b"switched off" in await ask(tmp_path, config, socket)


@pytest.mark.parametrize(
    ("login", "reset", "seconds"), [(False, False, 0), (False, True, 140), (True, False, 380), (True, True, 500)]
)
async def test_the_end_asks_systemd_for_the_time_that_it_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: bool, reset: bool, seconds: int
) -> None:
    """A reset that runs is not cut short, nor is one that a login leads to: with its question before and after it."""
    told: list[dict[str, object]] = []
    monkeypatch.setattr("appliance.systemd.notify", lambda **state: told.append(state))
    monkeypatch.setattr(BuiltinHsm, "busy", property(lambda _: login))
    monkeypatch.setattr(Manager, "busy", property(lambda _: reset))
    (tmp_path / "bus").mkdir()
    source = FolderBus(tmp_path / "bus")
    config = Config(state=tmp_path / "state", line=LineSettings(port=str(tmp_path / "missing")))
    daemon = Daemon(config, source, UsbBus(source.backend))
    daemon.stop()
    async with asyncio.timeout(PATIENCE):
        await daemon.run()

    assert [state["EXTEND_TIMEOUT_USEC"] for state in told if "STOPPING" in state] == [seconds * 1_000_000]
