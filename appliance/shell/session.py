# SPDX-License-Identifier: Apache-2.0
"""One LunaSH session: read, run, print the result line.

Whether a command may run at all, by role and by origin, is decided in `Session._permitted_call` and nowhere else,
before any of its arguments is looked at.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from appliance.accounts.store import Account
from appliance.errors import Break, EndOfFile, Hangup, Interrupt, StateError, Timeout
from appliance.hsm.builtin import Person
from appliance.hsm.manager import Manager
from appliance.hsm.model import HsmClass, Intent
from appliance.log import get_logger
from appliance.shell import text
from appliance.shell.commands import TREE
from appliance.shell.commands.my import change_password
from appliance.shell.commands.token import as_attached, completion, without_completion
from appliance.shell.grammar import (
    AmbiguousWord,
    Command,
    Found,
    Group,
    UnknownCommand,
    UsageError,
    complete,
    find,
    parse,
)
from appliance.shell.invocation import FAILURE, Completer, Invocation, Origin, Reply, Services, Terminal

_log = get_logger(__name__)

_LONGEST_WORDS = 40  # characters of what was typed that an error repeats: it stays on one line of a terminal
_LONGEST_WITHIN = 25  # characters of a serial number that has no line of its own, for the same reason
_REFUSED = Reply(0, done=False, note="refused: not the local console")


class Session:
    """The shell of one account that has logged in, at one terminal."""

    def __init__(self, terminal: Terminal, account: Account, origin: Origin, where: str, services: Services) -> None:
        self._terminal = terminal
        self._account = account
        self._origin = origin
        self._where = where
        self._services = services
        self._person = Person(account.name, where)
        self._prompt = f"[{services.hostname}] lunash:>"
        self._attended = _Attended(terminal)

    async def answered(self) -> None:
        """Return when no command is at work: its outcome is recorded and shown, or it waits for the person."""
        await self._attended.pause.wait()

    async def run(self) -> None:
        """Greet, then run what is typed until `exit` or Ctrl-D. Raises `Timeout` and `Hangup`."""
        async with self._hsm_login():
            await self._run()

    async def _run(self) -> None:
        if self._origin is Origin.LOCAL_CONSOLE and self._account.must_change and not await self._first_password():
            return
        await self._greet()
        while True:
            try:
                line = await self._terminal.readline(self._prompt, history=True, complete=self._complete)
            except (Interrupt, Break):
                continue
            except EndOfFile:
                return
            if line.strip() and (await self._execute(line)).log_out:
                return

    async def run_command(self, line: str) -> bool:
        """Run one command; whether it did what it was asked."""
        if not line.strip():
            return True
        async with self._hsm_login():
            return (await self._execute(line)).done

    @asynccontextmanager
    async def _hsm_login(self) -> AsyncIterator[None]:
        """A login to the built-in HSM ends with the session, however that ends."""
        try:
            yield
        finally:
            await self._services.builtin.log_out(self._person)

    async def _first_password(self) -> bool:
        """Have the initial password changed; nothing else can be run before."""
        await self._terminal.write("You are required to change your password immediately (root enforced)\n")
        with self._attended.at_work():
            try:
                changed = await change_password(self._attended, self._services, self._account.name)
            except (Interrupt, EndOfFile, Break):
                changed = False
            except Timeout:
                await self._note("password", outcome="not done")
                raise
            except (Hangup, asyncio.CancelledError):  # the new one may be on its way to the disk
                await self._note("password", outcome="unknown", note="hung up")
                raise
            await self._note("password", outcome="done" if changed else "not done")
            await self._terminal.write("\n")
        return changed

    async def _greet(self) -> None:
        if self._account.last_login:
            await self._terminal.write(f"Last login: {self._account.last_login}\n\n")
        await self._terminal.write(f"{self._services.banner} Command Line Shell\n\n")
        for intent in self._services.manager.interrupted():
            await self._terminal.write(_warning(self._services.manager, intent))
        await self._terminal.write("Command Result: 0 (Success)\n")

    async def _execute(self, line: str) -> Reply:
        with self._attended.at_work():
            return await self._recorded_call(line)

    async def _recorded_call(self, line: str) -> Reply:
        try:
            found = find(TREE, line, self._account.role)
        except (UnknownCommand, AmbiguousWord) as problem:
            return await self._close(await self._not_a_command(problem), "(unknown command)")
        if isinstance(found.entry, Group):
            await self._terminal.write("\n" + text.error(f"'{found.path}' is not a complete command."))
            await self._terminal.write("\n" + text.listing(found.path, found.entry, self._account.role))
            return await self._close(FAILURE, found.path)
        await self._note("command", command=_recorded(line, found, found.entry))
        try:
            reply = await self._permitted_call(found, found.entry)
        except Timeout:
            await self._close(replace(FAILURE, note="aborted: no answer in time"), found.path)
            raise
        except (Hangup, asyncio.CancelledError):  # what it has begun goes on; at a question it was nothing
            await self._note("result", command=found.path, code=FAILURE.code, outcome="unknown", note="hung up")
            raise
        return await self._close(reply, found.path)

    async def _permitted_call(self, found: Found, command: Command) -> Reply:
        """Run a command that the role may use (`find` sees no other), if it may run where the session comes from."""
        await self._terminal.write("\n")
        if command.console_only_as and self._origin is not Origin.LOCAL_CONSOLE:
            await self._terminal.write(text.refusal(command.console_only_as))
            return _REFUSED
        try:
            arguments = parse(command, found.rest)
            return await command.run(
                Invocation(
                    self._attended,
                    self._account,
                    self._origin,
                    self._person,
                    self._where,
                    self._services,
                    found.path,
                    arguments.options,
                    arguments.words,
                )
            )
        except (UsageError, AmbiguousWord, UnknownCommand) as problem:
            await self._terminal.write(text.error(_sentence(problem)))
            await self._terminal.write("\n" + text.usage(found.path, command))
            return replace(FAILURE, note="usage")
        except (Interrupt, EndOfFile, Break):
            return replace(FAILURE, note="aborted")

    async def _not_a_command(self, problem: UnknownCommand | AmbiguousWord) -> Reply:
        await self._terminal.write("\n" + text.error(_sentence(problem)))
        return replace(FAILURE, note="unknown command")

    async def _close(self, reply: Reply, path: str) -> Reply:
        """Record how the command ended, then print the result line; nothing may follow it but the prompt."""
        outcome = "refused" if reply is _REFUSED else "done" if reply.done else "not done"
        await self._note("result", command=path, code=reply.code, outcome=outcome, note=reply.note)
        if not reply.log_out:
            await self._terminal.write(f"\n{reply.line}\n")
        return reply

    async def _note(self, event: str, **fields: str | int) -> None:
        """Audit without standing in the way: what must not happen unrecorded sees to that itself."""
        try:
            await self._services.audit.record(event, actor=self._account.name, origin=self._where, **fields)
        except StateError as problem:
            _log.error("audit record lost", audited=event, reason=problem.reason)

    def _complete(self, left: str) -> Sequence[str]:
        return complete(TREE, left, self._account.role)


class _Attended:
    """The terminal of a command, which tells when the command waits for the person: then nobody waits for it."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self.pause = asyncio.Event()
        self.pause.set()  # between two commands, too

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self.pause.clear()
        try:
            yield
        finally:
            self.pause.set()

    async def write(self, text: str) -> None:
        await self._terminal.write(text)

    async def readline(
        self, prompt: str, *, secret: bool = False, history: bool = False, complete: Completer | None = None
    ) -> str:
        self.pause.set()
        try:
            return await self._terminal.readline(prompt, secret=secret, history=history, complete=complete)
        finally:
            self.pause.clear()


def _warning(manager: Manager, intent: Intent) -> str:
    """A reset was interrupted, and how it is completed."""
    if intent.hsm_class is HsmClass.BUILTIN:
        return text.warning(
            "The factory reset of the built-in HSM was interrupted.\nComplete it by", "hsm factoryReset"
        )
    intent = as_attached(manager, intent)
    serial = text.shown(intent.serial)
    around = " " if len(serial) <= _LONGEST_WITHIN else "\n"
    command = completion(manager, intent)
    advice = "With the token attached, complete it by" if command else without_completion(manager, intent)
    return text.warning(f"The factory reset of token{around}{serial}{around}was interrupted.\n{advice}", command)


def _sentence(problem: UsageError | AmbiguousWord | UnknownCommand) -> str:
    match problem:
        case AmbiguousWord(word=word, candidates=candidates):
            return f"'{text.shown(word, _LONGEST_WORDS)}' is ambiguous: {', '.join(candidates)}."
        case UnknownCommand(words=words):
            typed = text.shown(words, _LONGEST_WORDS)
            return f"'{typed}' is not a valid command.\nUse 'help' to list all available commands."
        case _:
            return text.shown(str(problem), 70)


def _recorded(line: str, found: Found, command: Command) -> str:
    """The line as the audit has it, without what the command does not take: people type passwords there."""
    try:
        parse(command, found.rest)
    except (UsageError, AmbiguousWord):
        return f"{found.path} (and more)" if found.rest else line.strip()
    return line.strip()
