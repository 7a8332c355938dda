# SPDX-License-Identifier: Apache-2.0
"""What a command shows while a device is at work: nothing at first, then what goes on and the step that it is at."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from appliance.errors import Hangup
from appliance.shell.invocation import Terminal

AFTER = 2.0  # seconds of silence on the console that nobody should have to interpret


@dataclass(slots=True)
class Steps:
    """The step that an operation is at; set from its worker thread, read by the console."""

    current: str = "opening the token"
    told: bool = False

    def __call__(self, step: str) -> None:
        self.current = step


@asynccontextmanager
async def progress(terminal: Terminal, what: str) -> AsyncIterator[Steps]:
    """Tell the person, once the block has taken a moment, `what` is going on, and each step that it is told."""
    steps = Steps()
    telling = asyncio.create_task(_tell(terminal, what, steps))
    try:
        yield steps
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError, Hangup):
            await telling
    if steps.told:
        await terminal.write("\n\n")


async def _tell(terminal: Terminal, what: str, steps: Steps) -> None:
    await asyncio.sleep(AFTER)
    steps.told = True
    await terminal.write(what)
    shown = ""
    while True:
        if steps.current != shown:
            shown = steps.current
            await terminal.write(f"\n  {shown} ")
        await terminal.write(".")
        await asyncio.sleep(AFTER)
