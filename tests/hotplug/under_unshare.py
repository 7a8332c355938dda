# SPDX-License-Identifier: Apache-2.0
"""A netlink socket that overflows leads to one scan and to no spinning: a real socket, in a namespace of its own.

`test_udev.py` runs this file under unshare, where nobody but the test speaks as udevd.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.hsm.hotplug import Event, Rescan, UdevSource, Unplugged
from tests.support.netlink import Udevd

BOUND = 30.0  # seconds
STORM = 2000  # messages; many more than fit
SMALL = 212_992  # bytes, the kernel's own choice of a receive buffer: about 166 messages

if os.environ.get("OWN_NAMESPACE") != "true":
    pytest.skip("runs under unshare only", allow_module_level=True)


def count_turns(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A list that grows by one with each turn of the running loop."""
    turns: list[object] = []
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]  # nothing public counts them
    select = selector.select

    def counted(timeout: float | None = None) -> object:
        turns.append(timeout)
        return select(timeout)

    monkeypatch.setattr(selector, "select", counted)
    return turns


@pytest.fixture
def udevd() -> Iterator[Udevd]:
    """Speaks as udevd."""
    made = Udevd()
    yield made
    made.close()


class Ear:
    """A source that listens, and what it delivered."""

    def __init__(self) -> None:
        self.source = UdevSource()
        self.heard: list[Event] = []
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Listen, with a receive buffer of the kernel's own choice instead of root's 128 MiB."""
        before = netlink_sockets()
        await self.source.start(self._deliver)
        fd = min(netlink_sockets() - before)  # the other is a duplicate of it
        with borrowed(fd) as theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL // 2)  # the kernel doubles it
        await self.until_scans(1)

    def _deliver(self, event: Event) -> None:
        self.heard.append(event)
        self._news.set()

    async def until(self, condition: Callable[[list[Event]], bool]) -> None:
        """Wait for something to be heard."""
        async with asyncio.timeout(BOUND):
            while not condition(self.heard):
                self._news.clear()
                await self._news.wait()

    async def until_scans(self, count: int) -> None:
        """Wait until there have been so many scans."""
        await self.until(lambda heard: heard.count(Rescan(())) >= count)


def storm(udevd: Udevd, name: str = "") -> None:
    """Say more than anybody can hear who does not listen meanwhile."""
    for number in range(STORM):
        udevd.say("remove", f"1-{name}{number}")


@contextmanager
def borrowed(fd: int) -> Iterator[socket.socket]:
    """Somebody else's socket by its descriptor, which stays open."""
    theirs = socket.socket(fileno=fd)
    try:
        yield theirs
    finally:
        theirs.detach()


def netlink_sockets() -> set[int]:
    """The descriptors of this process that are netlink sockets."""
    entries = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_socket()]
    found = set()
    for fd in (int(entry.name) for entry in entries):
        with borrowed(fd) as theirs:
            if theirs.family == socket.AF_NETLINK:
                found.add(fd)
    return found


@pytest_asyncio.fixture
async def ear() -> AsyncIterator[Ear]:
    """A source that has delivered its first scan."""
    made = Ear()
    await made.start()
    yield made
    made.source.close()


def place(number: int | str) -> Unplugged:
    """What is heard of a device that goes."""
    return Unplugged(f"/sys/devices/usb1/1-{number}")


async def test_udevd_is_heard(ear: Ear, udevd: Udevd) -> None:
    """What a listener is sent arrives."""
    udevd.say("remove", "1-7")
    await ear.until(lambda heard: len(heard) == 2)

    assert ear.heard == [Rescan(()), place(7)]


async def test_an_overflow_leads_to_one_scan_after_what_was_kept(ear: Ear, udevd: Udevd) -> None:
    """What was queued is kept in order, what came later is lost, and one scan after it all makes up for that."""
    storm(udevd)
    await ear.until_scans(2)
    kept = ear.heard[1:-1]

    assert kept == [place(number) for number in range(len(kept))]
    assert 0 < len(kept) < STORM
    assert ear.heard[-1] == Rescan(())


async def test_the_source_goes_on_after_an_overflow(ear: Ear, udevd: Udevd, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears what comes next, and the loop is asleep when nothing comes."""
    storm(udevd)
    await ear.until_scans(2)
    udevd.say("remove", "1-back")
    await ear.until(lambda heard: heard[-1] == place("back"))
    turns = count_turns(monkeypatch)
    await asyncio.sleep(0.2)  # a spinning loop makes thousands of turns meanwhile

    assert len(turns) < 10
    assert ear.heard[-2:] == [Rescan(()), place("back")]


async def test_each_overflow_has_its_scan(ear: Ear, udevd: Udevd) -> None:
    """One storm after the other."""
    for number in range(1, 4):
        storm(udevd, f"{number}.")
        await ear.until_scans(1 + number)

    assert ear.heard.count(Rescan(())) == 4


async def test_another_subsystem_is_not_heard(ear: Ear, udevd: Udevd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel filters by the hash in the message, libudev by the name."""
    monkeypatch.setattr("tests.support.netlink._hash", lambda _: 0)
    udevd.say("remove", "1-1")
    monkeypatch.undo()
    udevd.say("remove", "1-2")
    await ear.until(lambda heard: heard[-1] == place(2))

    assert place(1) not in ear.heard


def test_a_namespace_without_udevd_is_deaf() -> None:
    """Here the machine's udevd cannot be heard, although all looks well, and the source knows why."""
    assert UdevSource().deaf() == "udev is not running in this network namespace"


def test_a_namespace_with_udevd_is_not() -> None:
    """Where somebody listens to the kernel as udevd does, its events can be heard."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as kernel:
        kernel.bind((0, 1))
        assert UdevSource().deaf() == ""


async def test_a_closed_source_leaves_no_socket() -> None:
    """The monitor's descriptor goes with it."""
    before = netlink_sockets()
    ear = Ear()
    await ear.start()
    ear.source.close()

    assert netlink_sockets() == before
