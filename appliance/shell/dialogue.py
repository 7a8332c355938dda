# SPDX-License-Identifier: Apache-2.0
"""What a command asks a person, and how it says that it is at work."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from appliance.errors import Break, EndOfFile, Hangup, Interrupt, Timeout
from appliance.hsm.manager import Manager
from appliance.shell.invocation import FAILURE, Invocation, Reply, Terminal

_SETTLING = 0.8  # seconds
_PROGRESS_AFTER = 2.0  # seconds of silence on the console that nobody should have to interpret


async def settled(manager: Manager) -> None:
    """Give devices that were just plugged in a moment to say what they are; one that hangs keeps nobody waiting."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_SETTLING):
            await manager.settled()


async def confirm(call: Invocation, caution: str, prompt: str) -> Reply | None:
    """Ask for `proceed`; None when it was typed, else the reply that ends the command."""
    await call.terminal.write(caution)
    answer = await ask(call, prompt)
    if isinstance(answer, Reply):
        return answer
    if answer.strip() == "proceed":
        await call.terminal.write("\n")
        return None
    return await aborted(call, "not confirmed")


async def ask(call: Invocation, prompt: str, *, secret: bool = False) -> str | Reply:
    """What was typed, else the reply that ends the command. Raises `Timeout`."""
    try:
        return await call.terminal.readline(prompt, secret=secret)
    except (Interrupt, EndOfFile, Break) as event:
        return await aborted(call, type(event).__name__.lower())
    except Timeout:
        await aborted(call, "timeout")
        raise


async def aborted(call: Invocation, why: str) -> Reply:
    """Say that nothing was done because the person wanted it so."""
    await call.terminal.write(f"\n'{call.command}' aborted.\n")
    return replace(FAILURE, note=f"aborted: {why}")


@dataclass(slots=True)
class Steps:
    """The step that a reset is at; set from the worker thread, read by the console."""

    current: str = "opening it"
    told: bool = False

    def __call__(self, step: str) -> None:
        self.current = step


@asynccontextmanager
async def progress(terminal: Terminal, sentence: str) -> AsyncIterator[Steps]:
    """Tell the person, after a moment, that the reset is at work and how far it is."""
    steps = Steps()
    telling = asyncio.create_task(_tell(terminal, sentence, steps))
    try:
        yield steps
    finally:
        telling.cancel()
        await asyncio.wait([telling])  # to await the task itself could take a cancellation of the caller for its own
        with suppress(asyncio.CancelledError, Hangup):
            telling.result()
    if steps.told:
        await terminal.write("\n\n")


async def _tell(terminal: Terminal, sentence: str, steps: Steps) -> None:
    await asyncio.sleep(_PROGRESS_AFTER)
    steps.told = True
    await terminal.write(sentence)
    shown = ""
    while True:
        if steps.current != shown:
            shown = steps.current
            await terminal.write(f"\n  {shown} ")
        await terminal.write(".")
        await asyncio.sleep(_PROGRESS_AFTER)
