# SPDX-License-Identifier: Apache-2.0
"""A call in a thread of its own holds up neither the loop nor the end of the program."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from appliance.errors import DeviceError
from appliance.worker import in_thread
from tests.support.threads import no_thread_for

ROOT = Path(__file__).resolve().parent.parent.parent
BOUND = 30.0  # seconds


async def test_what_the_call_returns_is_the_result() -> None:
    """The call runs in another thread, under the name it was given."""
    async with asyncio.timeout(BOUND):
        assert await in_thread(lambda: threading.current_thread().name, "hsm 1-5") == "hsm 1-5"


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)], ids=repr)
async def test_what_the_call_raises_is_raised(error: BaseException) -> None:
    """Whatever it is, it reaches whoever waits, and nobody else."""

    def call() -> None:
        raise error

    future = in_thread(call, "hsm")
    async with asyncio.timeout(BOUND):
        await asyncio.wait([future])
    assert future.exception() is error


async def test_an_end_of_iteration_is_raised_too() -> None:
    """The one exception that no future can hold arrives as another; whoever waits does not wait for ever."""
    async with asyncio.timeout(BOUND):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await in_thread(lambda: next(iter(())), "hsm")


async def test_a_thread_that_cannot_be_had_is_trouble_with_the_device() -> None:
    """Whoever orders a call handles it as any other, and the call is not made."""
    made: list[None] = []

    with no_thread_for(lambda _: True), pytest.raises(DeviceError, match="no thread left"):
        in_thread(lambda: made.append(None), "hsm")
    assert made == []


async def test_the_loop_goes_on_meanwhile() -> None:
    """The call may block for as long as it likes."""
    gate = threading.Event()
    future = in_thread(lambda: gate.wait(BOUND), "hsm")
    await asyncio.sleep(0)
    assert not future.done()
    gate.set()

    async with asyncio.timeout(BOUND):
        assert await future


async def test_a_cancelled_wait_does_not_end_the_call() -> None:
    """It only means that nobody listens any more; the late result disturbs nobody."""
    gate, ended = threading.Event(), threading.Event()

    def call() -> None:
        gate.wait(BOUND)
        ended.set()

    future = in_thread(call, "hsm")
    future.cancel()
    gate.set()

    assert await asyncio.to_thread(ended.wait, BOUND)
    await asyncio.sleep(0)
    assert future.cancelled()


def test_a_call_may_outlive_the_loop() -> None:
    """When the loop has been closed, the result goes nowhere, and no exception is left in the thread."""
    gate = threading.Event()

    async def leave() -> None:
        in_thread(lambda: gate.wait(BOUND), "orphan")

    asyncio.run(leave())
    (orphan,) = (thread for thread in threading.enumerate() if thread.name == "orphan")
    gate.set()
    orphan.join(BOUND)

    assert not orphan.is_alive()


HUNG = """
import asyncio, time
from appliance.worker import in_thread

async def main():
    in_thread(lambda: time.sleep(3600), "hung")

asyncio.run(main())
"""


def test_a_hung_call_does_not_hold_up_the_end() -> None:
    """A program whose device hangs for ever can be stopped."""
    ended = subprocess.run([sys.executable, "-c", HUNG], cwd=ROOT, timeout=BOUND, check=False)  # noqa: S603  # ours

    assert ended.returncode == 0
