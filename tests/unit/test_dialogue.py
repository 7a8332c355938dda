# SPDX-License-Identifier: Apache-2.0
"""What a command asks, and how it says that it is at work, apart from any command."""

import asyncio

from appliance.shell.dialogue import progress
from tests.support.fake_terminal import FakeTerminal


async def test_a_hang_up_in_the_moment_in_which_the_work_ends_is_not_lost() -> None:
    """Whoever ends the session, or the console, waits for it: a command that went on would keep him for ever."""
    work_ends, never = asyncio.Event(), asyncio.Event()

    async def command() -> None:
        async with progress(FakeTerminal(), "The token is being reset."):
            await work_ends.wait()
        await never.wait()

    running = asyncio.create_task(command())
    await asyncio.sleep(0)
    work_ends.set()
    await asyncio.sleep(0)  # it goes on, and ends what tells of the work
    running.cancel()
    _, pending = await asyncio.wait([running], timeout=5.0)
    never.set()

    assert not pending
    assert running.cancelled()
