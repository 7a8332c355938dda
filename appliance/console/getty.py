# SPDX-License-Identifier: Apache-2.0
"""The local console: whoever types on the serial line stands in front of the appliance.

For ever: open the line, show the banner, have somebody log in, hold the session, and start over. This is the only
module that makes `Origin.LOCAL_CONSOLE`.
"""

import asyncio
import re
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from appliance.accounts.authenticator import Authenticator
from appliance.accounts.store import Account, AccountStore
from appliance.audit import AuditLog
from appliance.console.line import SerialLine
from appliance.console.terminal import Terminal, visible
from appliance.errors import Break, EndOfFile, Hangup, Interrupt, LineUnavailable, StateError, Timeout
from appliance.log import get_logger
from appliance.shell.invocation import Origin
from appliance.shell.session import Session

SessionFactory = Callable[[Terminal, Account, Origin, str], Session]  # terminal, account, origin, where

USER_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
UNKNOWN: Final = "(unknown)"  # stands in the log for a name that is none: people type passwords at the wrong prompt
WHERE: Final = "Console"
COLUMNS: Final = 80
PAUSES: Final = (1.0, 30.0)  # seconds between two tries to open the line: the first and the longest pause

_log = get_logger(__name__)


class Getty:
    """The dialogue on one serial line, from the banner to the logout, again and again."""

    def __init__(
        self,
        line: SerialLine,
        authenticator: Authenticator,
        session: SessionFactory,
        audit: AuditLog,
        *,
        store: AccountStore | None,
        banner: str,
        hostname: str,
        login_timeout: float,
        idle_timeout: float,
        notices: Callable[[], Sequence[str]],
        pauses: tuple[float, float] = PAUSES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`notices` are sentences shown above each login prompt; times are in seconds."""
        self._line = line
        self._authenticator = authenticator
        self._session = session
        self._audit = audit
        self._store = store
        self._banner = banner
        self._prompt = f"[{hostname}] {line.name} login: "
        self._login_timeout = login_timeout
        self._idle_timeout = idle_timeout
        self._notices = notices
        self._first_pause, self._longest_pause = pauses
        self._pause = self._first_pause
        self._prompted = False  # the login prompt went out since the line was opened
        self._clock = clock
        self.opened = line.held

    async def run(self) -> NoReturn:
        """Serve the line until cancelled; whoever is logged in then is logged out."""
        loop = asyncio.get_running_loop()
        while True:
            await self._open()
            begun, self._prompted = loop.time(), False
            try:
                await self._serve()
            finally:
                self._line.close()
            lasted = loop.time() - begun
            if lasted < self._first_pause and not self._prompted:
                await self._rest()  # a line that is gone at once must not keep us busy
            else:  # a cable that was pulled soon is no fault that gets worse
                self._pause = self._first_pause
                await asyncio.sleep(max(0.0, self._first_pause - lasted))

    async def _open(self) -> None:
        """Return when the line is open, however long that takes."""
        said = ""
        while True:
            try:
                await self._line.open()
            except LineUnavailable as problem:
                if problem.reason != said:
                    _log.error("line unavailable", port=str(problem.path), reason=problem.reason)
                said = problem.reason
                await self._rest()
            else:
                _log.info("line open", tty=self._line.name)
                return

    async def _rest(self) -> None:
        """Pause, each time longer until the line is of use again."""
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, self._longest_pause)

    async def _serve(self) -> None:
        """One opening of the line; a hang-up ends whatever is going on, also in the middle of a command."""
        dialogues = asyncio.create_task(self._dialogues())
        lost = asyncio.create_task(self._line.hung_up())
        try:
            await asyncio.wait((dialogues, lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
            await _end(dialogues)  # whoever is logged in is logged out, and that is recorded
        with suppress(Hangup, asyncio.CancelledError):
            dialogues.result()
        _log.info("line hung up", tty=self._line.name)

    async def _dialogues(self) -> None:
        """One person after the other, until the line has to be hung up from our side."""
        while True:
            self._line.flush_input()
            terminal = Terminal(self._line, idle_timeout=self._idle_timeout)
            try:
                account = await self._log_in(terminal)
                await self._converse(terminal, account)
            except Timeout:
                _log.info("login timed out", tty=self._line.name)
            except Hangup:
                raise
            except Exception:  # noqa: BLE001  the last resort: a fault must not cost the last door to the appliance
                _log.error("console session failed", exc_info=True)
                await terminal.write("\nError:  Internal error. The session is ended; the log says more.\n\n")
                await self._rest()
            if self._line.watches_carrier:  # a modem holds the call until DTR falls
                await self._line.drain()
                return

    async def _log_in(self, terminal: Terminal) -> Account:
        """The account of whoever logs in. Raises `Timeout` and `Hangup`."""
        await terminal.write(self._issue())
        while True:
            try:
                name, password = await self._credentials(terminal)
            except Break:
                await terminal.write(self._issue())
                continue
            except (Interrupt, EndOfFile):
                continue
            except Timeout:
                await terminal.write(f"Login timed out after {self._login_timeout:g} seconds.\n\n")
                raise
            if account := await self._authenticator.login(self._line.name, name, password):
                return account
            await self._record("login-failed", self._known(name))
            terminal.flush_input()  # what was typed for a dialogue that went on would be taken for a name
            await terminal.write("\nLogin incorrect\n")

    def _issue(self) -> str:
        """What stands above the prompt (lunash.md, 5.1)."""
        notices = "".join(f"{_folded(notice)}\n" for notice in self._notices())
        return f"\n{self._banner}\n\nAuthorized Use Only\n\n" + (f"{notices}\n" if notices else "")

    async def _credentials(self, terminal: Terminal) -> tuple[str, str]:
        """A name that is not empty, and a password. Raises whatever `Terminal.readline` does.

        The time for both counts from the first byte, so that nothing happens at a prompt where nobody is.
        """
        loop = asyncio.get_running_loop()
        name = ""
        while not name:
            await terminal.write(self._prompt)
            self._prompted = True
            await terminal.typed()
            self._pause = self._first_pause
            deadline = loop.time() + self._login_timeout
            name = (await terminal.finish_line(self._prompt, timeout=self._login_timeout)).strip()
        password = await terminal.readline("Password: ", secret=True, timeout=deadline - loop.time())
        return name if USER_NAME.fullmatch(name) else UNKNOWN, password

    def _known(self, name: str) -> str:
        """The name, if it is that of an account."""
        return name if self._store is not None and self._store.get(name) else UNKNOWN

    async def _converse(self, terminal: Terminal, account: Account) -> None:
        """The session of one account, from login to logout."""
        end = "fault"
        try:
            if problem := await self._record("login", account.name):
                await terminal.write(f"\nWARNING:  The audit trail is not available: {problem}.\n")
            if self._store is not None:
                moment = time.strftime("%a %b %d %H:%M:%S", time.localtime(self._clock()))
                await self._store.note_login(account.name, f"{moment} on {self._line.name}")
            await terminal.write("\n")
            await self._session(terminal, account, Origin.LOCAL_CONSOLE, WHERE).run()
            end = "exit"
        except Timeout:
            end = "timed out"
            await terminal.write("\nSession timed out.\n")
        except (Hangup, asyncio.CancelledError):
            end = "hung up"
            raise
        finally:
            await self._record("logout", account.name, end=end)

    async def _record(self, event: str, actor: str, **fields: str) -> str:
        """Audit without ever standing in the way of the console; why it could not be recorded, or ""."""
        try:
            await self._audit.record(event, actor=actor, origin=WHERE, tty=self._line.name, **fields)
        except StateError as problem:
            _log.error("audit record lost", audited=event, reason=str(problem))
            return visible(problem.reason)
        return ""


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task and return when it has ended, also when we ourselves are cancelled meanwhile."""
    task.cancel()
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


def _folded(notice: str) -> str:
    """A notice in lines that a terminal does not have to break."""
    return textwrap.fill(notice, COLUMNS - 1, break_long_words=False, break_on_hyphens=False)
