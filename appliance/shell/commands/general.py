# SPDX-License-Identifier: Apache-2.0
"""`help` and `exit`."""

from collections.abc import Callable
from dataclasses import replace

from appliance.shell.grammar import Command, Group, find
from appliance.shell.invocation import SUCCESS, Invocation, Reply
from appliance.shell.text import listing, usage


async def _exit(_: Invocation) -> Reply:
    return replace(SUCCESS, log_out=True)


EXIT = Command("exit", "e", "End this session", _exit)


def help_command(tree: Callable[[], Group]) -> Command:
    """The `help` command; it comes from a function because the tree it tells of contains it."""

    async def run(call: Invocation) -> Reply:
        role = call.account.role
        found = find(tree(), " ".join(call.words), role)
        if isinstance(found.entry, Group):
            await call.terminal.write(listing(found.path, found.entry, role))
        else:
            await call.terminal.write(f"{found.entry.description}.\n\n{usage(found.path, found.entry)}")
        return SUCCESS

    return Command("help", "?", "Show what can be typed here, or after other words", run, words="[<command>]")
