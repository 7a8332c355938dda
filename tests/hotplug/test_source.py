# SPDX-License-Identifier: Apache-2.0
"""A connection to udev that fails makes the source deaf, not busy: the faults that no real udev produces on demand."""

import asyncio
import errno
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
import structlog

from appliance.hsm import hotplug
from appliance.hsm.hotplug import MOST_PER_TICK, Event, Rescan, UdevSource, Unplugged
from tests.support.threads import no_thread_for

ROOT = Path(__file__).resolve().parent.parent.parent
BOUND = 30.0  # seconds


class FakeMonitor:
    """A monitor on a real socket, whose messages and errors a test scripts."""

    def __init__(self) -> None:
        self.socket, self._sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.answers: list[Any] = []  # what each `poll` returns or raises; None once they are used up
        self.polls = 0

    def fileno(self) -> int:
        """The socket to wait on."""
        return self.socket.fileno()

    def filter_by(self, subsystem: str, device_type: str) -> None:
        """Nothing else comes anyway."""

    def start(self) -> None:
        """It has always listened."""

    def poll(self, timeout: int) -> Any:
        """The next answer."""
        self.polls += 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ring(self) -> None:
        """Make the socket readable, and it stays so."""
        self._sender.send(b"x")

    def close(self) -> None:
        """Let the sockets go."""
        self.socket.close()
        self._sender.close()


def gone(port: str) -> SimpleNamespace:
    """The message of a departure."""
    return SimpleNamespace(action="remove", sys_path=f"/sys/devices/{port}", properties={})


class Bench:
    """A source on a fake monitor, and what it delivered."""

    def __init__(self) -> None:
        self.monitor = FakeMonitor()
        self.source = UdevSource()
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    async def next(self) -> Event:
        """The next event."""
        async with asyncio.timeout(BOUND):
            return await self.events.get()


@pytest_asyncio.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A source that has delivered its first scan."""
    made = Bench()
    context = SimpleNamespace(list_devices=lambda **_: [])
    library = SimpleNamespace(
        Context=lambda: context, Monitor=SimpleNamespace(from_netlink=lambda *_, **__: made.monitor)
    )
    monkeypatch.setitem(sys.modules, "pyudev", library)
    await made.source.start(made.events.put_nowait)
    assert await made.next() == Rescan(())
    yield made
    made.source.close()
    made.monitor.close()


async def test_an_error_that_stands_is_not_polled_for_ever(bench: Bench) -> None:
    """An error that is not the socket's own cannot be cleared: the source stops listening and says so."""
    bench.monitor.answers = [gone("1-1"), OSError("Error while polling fd: 7"), gone("1-2")]
    bench.monitor.ring()
    assert await bench.next() == Unplugged("/sys/devices/1-1")
    polls = bench.monitor.polls
    for _ in range(20):
        await asyncio.sleep(0)

    assert bench.monitor.polls == polls
    assert bench.source.deaf() == "the connection to udev broke (Error while polling fd: 7)"


async def test_an_overflow_found_by_reading_is_an_overflow(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the buffer overflows between looking and reading, the reading fails, once: say so, scan, and go on."""
    captured = structlog.testing.LogCapture()
    monkeypatch.setattr(hotplug, "_log", structlog.wrap_logger(None, [captured], structlog.BoundLogger))
    lost = OSError(errno.ENOBUFS, "No buffer space available")
    bench.monitor.answers = [gone("1-1"), lost, gone("1-2")]
    bench.monitor.ring()

    assert [await bench.next() for _ in range(3)] == [
        Unplugged("/sys/devices/1-1"),
        Unplugged("/sys/devices/1-2"),
        Rescan(()),
    ]
    assert [entry["event"] for entry in captured.entries] == ["udev events lost"]


async def test_scans_go_on_without_the_connection(bench: Bench) -> None:
    """What cannot be heard can still be looked for."""
    bench.monitor.answers = [OSError("Error while polling fd: 7")]
    bench.monitor.ring()
    bench.source.rescan()

    assert await bench.next() == Rescan(())


async def test_a_moment_without_threads_is_made_good(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be read is looked for as soon as there is a thread again."""
    monkeypatch.setattr(hotplug, "NO_THREAD", 0.001)
    refused = asyncio.Event()

    def is_ours(thread: threading.Thread) -> bool:
        if thread.name == "udev":
            refused.set()
        return thread.name == "udev"

    with no_thread_for(is_ours):
        bench.source.rescan()
        async with asyncio.timeout(BOUND):
            await refused.wait()

    assert await bench.next() == Rescan(())


async def test_a_flood_does_not_hold_the_loop(bench: Bench) -> None:
    """After a bounded number of messages others have their turn; the rest follows, although nothing rings again."""
    bench.monitor.answers = [gone(str(number)) for number in range(3 * MOST_PER_TICK)]
    bench.monitor.ring()
    taken: list[int] = []
    while bench.monitor.answers:
        before = bench.monitor.polls
        await asyncio.sleep(0)
        taken.append(bench.monitor.polls - before)
    heard = [await bench.next() for _ in range(3 * MOST_PER_TICK)]

    assert max(taken) <= 2 * MOST_PER_TICK  # the socket and the continuation may fall into one turn
    assert heard == [Unplugged(f"/sys/devices/{number}") for number in range(3 * MOST_PER_TICK)]


def undecodable(*_: object) -> str:
    """What pyudev does with bytes that are no text."""
    raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


async def test_a_property_that_is_no_text_costs_nothing(bench: Bench) -> None:
    """The message it came with counts all the same."""
    message = gone("1-1")
    message.properties = SimpleNamespace(get=undecodable)
    bench.monitor.answers = [message]
    bench.monitor.ring()

    assert await bench.next() == Unplugged("/sys/devices/1-1")


async def test_a_defect_does_not_look_like_a_quiet_bus(bench: Bench) -> None:
    """When events cannot be processed any more, the source says that it is deaf."""
    bench.source.close()
    source = UdevSource()

    def stumble(_: Event) -> None:
        raise IndexError("list index out of range")

    await source.start(stumble)
    async with asyncio.timeout(BOUND):
        while source.deaf() != "the plug events cannot be processed":  # noqa: ASYNC110  # it has no event for that
            await asyncio.sleep(0.005)
    source.close()


def missing(*_: object, **__: object) -> None:
    """What pyudev does without libudev."""
    raise ImportError("No library named udev")


def forbidden(*_: object, **__: object) -> None:
    """What pyudev does without a netlink socket."""
    raise OSError("Could not create udev monitor")


@pytest.mark.parametrize(
    ("context", "monitor", "reason"),
    [
        (missing, forbidden, "libudev cannot be used (No library named udev)"),
        (lambda: SimpleNamespace(list_devices=lambda **_: []), forbidden, "libudev cannot be used (Could not create"),
    ],
    ids=["no library", "no socket"],
)
async def test_without_libudev_the_start_succeeds(
    monkeypatch: pytest.MonkeyPatch, context: Callable[[], Any], monitor: Callable[..., Any], reason: str
) -> None:
    """The console is the last door: there is a first scan, and the reason why nothing can be heard."""
    library = SimpleNamespace(Context=context, Monitor=SimpleNamespace(from_netlink=monitor))
    monkeypatch.setitem(sys.modules, "pyudev", library)
    source = UdevSource()
    events: asyncio.Queue[Event] = asyncio.Queue()
    async with asyncio.timeout(BOUND):
        await source.start(events.put_nowait)
        first = await events.get()
    source.close()

    assert first == Rescan(())
    assert source.deaf().startswith(reason)


# A program in which one of the calls that read sysfs hangs, once it does.
HUNG = """
import asyncio, sys, time
from types import SimpleNamespace
from appliance.hsm import hotplug

async def main(where):
    loop, hanging = asyncio.get_running_loop(), asyncio.Event()

    def hang(*_, **__):
        loop.call_soon_threadsafe(hanging.set)
        time.sleep(3600)

    def no_monitor(*_, **__):
        raise OSError("none")

    context = SimpleNamespace(list_devices=hang if where == "scan" else lambda **_: [])
    monitor = SimpleNamespace(from_netlink=no_monitor)
    sys.modules["pyudev"] = SimpleNamespace(Context=hang if where == "open" else lambda: context, Monitor=monitor)
    hotplug.read_attachment = hang
    source = hotplug.UdevSource()
    starting = asyncio.create_task(source.start(lambda event: None))
    if where == "read":
        source._take(SimpleNamespace(action="add", sys_path="/sys/devices/1-1", properties={}))
    await hanging.wait()
    starting.cancel()
    source.close()

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("where", ["open", "scan", "read"])
def test_a_device_that_holds_up_the_reader_does_not_hold_up_the_end(where: str) -> None:
    """A read of sysfs that hangs for ever is left alone when the program ends."""
    program = [sys.executable, "-c", HUNG, where]
    ended = subprocess.run(program, cwd=ROOT, timeout=BOUND, check=False)  # noqa: S603  ours

    assert ended.returncode == 0
