# SPDX-License-Identifier: Apache-2.0
"""`demo --usbip` exports the bus of the demonstration, and says in one sentence why it cannot."""

import asyncio
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.hsm.drivers.openpgp import OpenPgpDriver
from appliance.hsm.model import HsmState
from appliance.hsm.usb import UsbBus
from appliance.simulator.families import new_token
from tests.support.process import LIMIT, PtyProcess
from tests.support.usbip_client import UsbIpBackend
from tests.support.usbip_wire import Wire

DEMO = (sys.executable, "-m", "appliance", "demo")
USBIP = shutil.which("usbip", path="/usr/sbin:/sbin:/usr/bin")


@contextmanager
def listening() -> Iterator[int]:
    """A port that is in use."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


@asynccontextmanager
async def demo(folder: Path, address: str) -> AsyncIterator[str]:
    """The demonstration with two tokens, and where it exports them."""
    bus = folder / "bus"
    bus.mkdir()
    for serial in ("00000001", "00000002"):
        new_token(bus / f"{serial}.token", serial, with_keys=1)
    arguments = ("--port-only", "--bus", bus, "--state", folder / "state", "--usbip", address)
    with (folder / "demo.stderr").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*DEMO, *arguments, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT):
            port, exported = [(await process.stdout.readline()).decode().strip() for _ in range(2)]
        assert port.startswith("/dev/pts/")
        yield exported
    finally:
        process.terminate()
        async with asyncio.timeout(LIMIT):
            assert await process.wait() == 0


async def until_exported(address: tuple[str, int], count: int) -> None:
    """Wait until the demonstration has found that many devices."""
    async with asyncio.timeout(LIMIT):
        while len(await (await Wire.connect(address)).devices()) != count:  # noqa: ASYNC110  another process
            await asyncio.sleep(0.01)
    await Wire.close_all()


async def listed(exported: str, count: int) -> str:
    """What `usbip list` says, once the demonstration has found that many devices."""
    assert USBIP is not None
    host, _, port = exported.rpartition(":")
    async with asyncio.timeout(LIMIT):
        while True:
            tool = await asyncio.create_subprocess_exec(
                *(USBIP, "--tcp-port", port, "list", "-r", host), stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            said, _ = await tool.communicate()
            if said.count(b"(234b:0000)") == count:
                assert tool.returncode == 0
                return said.decode()


@pytest.mark.skipif(USBIP is None, reason="the Debian package usbip is not installed")
async def test_the_tool_of_linux_lists_the_devices(tmp_path: Path) -> None:
    """Bus ids, ids and classes as `usbip list -r` reads them; what is unplugged is no longer listed."""
    async with demo(tmp_path, "127.0.0.1:0") as exported:
        said = await listed(exported, 2)
        assert re.findall(r"^ +(\d+-\d+): .*\(234b:0000\)$", said, re.MULTILINE) == ["1-2", "1-3"]
        assert said.count("Chip/SmartCard / unknown subclass / unknown protocol (0b/00/00)") == 2

        (tmp_path / "bus" / "00000001.token").rename(tmp_path / "away")
        assert " 1-3: " in await listed(exported, 1)


async def test_a_token_of_the_demonstration_is_reset_over_the_network(tmp_path: Path) -> None:
    """While the demonstration's own daemon looks at it too."""
    async with demo(tmp_path, "127.0.0.1:0") as exported:
        host, _, port = exported.rpartition(":")

        def reset() -> HsmState:
            client = UsbIpBackend(host, int(port), bus_id="1-3")
            try:
                with OpenPgpDriver(UsbBus(client)).open(client.attach()) as connection:
                    assert connection.probe().serial == "2"
                    connection.factory_reset(lambda _: None)
                    return connection.probe().state
            finally:
                client.detach()

        await until_exported((host, int(port)), 2)
        assert await asyncio.to_thread(reset) is HsmState.ZEROIZED


async def test_a_person_at_the_terminal_is_told_how_to_list_them(tmp_path: Path) -> None:
    """In the interactive form, before the login prompt; IPv6 too."""
    arguments = ("--state", str(tmp_path / "state"), "--usbip", "[::1]:0")
    async with PtyProcess.start(*DEMO, *arguments) as terminal:
        said = await terminal.expect(b" list -r ::1\r\n")
        told = re.search(rb"\n  USB/IP   usbip --tcp-port (\d+) list -r ::1\r\n$", said)
        assert told
        await Wire.connect(("::1", int(told[1])))
        await Wire.close_all()
        await terminal.expect(b"login: ")
        terminal.type(b"\x1d")
        assert await terminal.ended() == (0, b"")


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:port", "192.0.2.1:3240", "host.invalid:3240"])
def test_a_bad_address_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str], address: str) -> None:
    """And exit status 1, before anything is served."""
    status = main(["demo", "--port-only", "--bus", str(tmp_path), "--state", str(tmp_path), "--usbip", address])

    said = capfd.readouterr()
    complaints = [line for line in said.err.splitlines() if not line.startswith("{")]  # but for the log
    assert (status, said.out) == (1, "")
    assert len(complaints) == 1
    assert re.fullmatch(r"appliance-console: USB/IP: [^\n]*\.", complaints[0])


def test_a_port_in_use_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And exit status 1."""
    with listening() as port:
        address = f"127.0.0.1:{port}"
        status = main(["demo", "--port-only", "--bus", str(tmp_path), "--state", str(tmp_path), "--usbip", address])

    said = f"appliance-console: USB/IP: cannot listen at 127.0.0.1, port {port}: Address already in use."
    assert status == 1
    assert said in capfd.readouterr().err.splitlines()


def test_loopback_is_the_default_and_the_help_warns(capsys: pytest.CaptureFixture[str]) -> None:
    """What another address means stands where the option is explained."""
    with pytest.raises(SystemExit):
        main(["demo", "--help"])

    said = " ".join(capsys.readouterr().out.split())
    assert "(default: 127.0.0.1:3240)" in said
    assert "there is no authentication: an address other than loopback exposes them" in said
