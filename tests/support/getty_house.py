# SPDX-License-Identifier: Apache-2.0
"""A local console on a pty, with accounts and an audit trail of its own and a small shell."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from appliance.accounts.authenticator import Authenticator
from appliance.accounts.store import Account, AccountStore
from appliance.audit import AuditLog
from appliance.config import LineSettings
from appliance.console.getty import Getty
from appliance.console.line import SerialLine
from appliance.console.terminal import Terminal
from appliance.errors import StateError
from appliance.shell.invocation import Origin
from appliance.shell.session import Session
from tests.support import audit_trail
from tests.support.pty_line import PATIENCE, PtyLine

PROMPT = "[box] ttyS0 login: "
ISSUE = f"\r\nTest Box 1.0\r\n\r\nAuthorized Use Only\r\n\r\n{PROMPT}"
SHELL = "[box] lunash:>"
NOON = 1_000_000_000.0  # seconds since the epoch


class FakeLog:
    """Remembers what is logged."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def _log(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    debug = info = warning = error = _log


@cache
def initial_accounts() -> bytes:
    """The account file of a first start; the verifier in it takes time to make."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "accounts.json"
        AccountStore.open(path)
        return path.read_bytes()


class QuickAuthenticator(Authenticator):
    """Knows the password without the time that scrypt and the pauses take."""

    def __init__(self, store: AccountStore | None, path: Path) -> None:
        super().__init__(store, path)
        self._accounts = store
        self.asked: list[tuple[str, str, str]] = []

    async def login(self, line: str, name: str, password: str) -> Account | None:
        """`PASSWORD` opens every account that there is."""
        self.asked.append((line, name, password))
        return self._accounts.get(name) if self._accounts and password == "PASSWORD" else None  # noqa: S105  not secret


class SmallShell(Session):
    """Repeats what is typed; some words make it misbehave."""

    def __init__(self, terminal: Terminal, account: Account, origin: Origin, where: str) -> None:
        self._screen = terminal
        self.given = (account.name, origin, where)
        self.lines: list[str] = []
        self.cancelled = False
        self.go = asyncio.Event()  # ends a command that hangs, and the session with it

    async def run(self) -> None:
        """Until `exit`."""
        while True:
            self.lines.append(await self._screen.readline(SHELL, history=True))
            match self.lines[-1]:
                case "exit":
                    return
                case "crash":
                    raise RuntimeError("a fault of ours")
                case "state":
                    raise StateError(Path("some/file"), "damaged")
                case "hang":
                    await self._hang()
                    return
                case "flood":
                    while True:
                        await self._screen.write("x" * 1000)

    async def _hang(self) -> None:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@dataclass
class House:
    """Everything around one getty; change what you like before `open`."""

    folder: Path
    flow: str = "none"
    carrier: str = "ignore"
    login_timeout: float = 120.0
    idle_timeout: float = 600.0
    write_limit: float = 20.0
    pauses: tuple[float, float] = (0.01, 0.05)
    notices: Sequence[str] = ()
    store: AccountStore | None = None
    audit: AuditLog | None = None
    sessions: list[SmallShell] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.far = PtyLine(self.folder / "ttyS0")
        accounts = self.folder / "accounts.json"
        accounts.touch(mode=0o600)
        accounts.write_bytes(initial_accounts())
        self.store = AccountStore.open(accounts)
        self.audit = AuditLog.open(self.folder / "audit.jsonl")

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[PtyLine]:
        """Run the getty; the far end of its line."""
        assert self.audit is not None
        self.authenticator = QuickAuthenticator(self.store, self.folder / "lockout.json")
        self.line = SerialLine(
            LineSettings(port=str(self.far.port), flow=self.flow, carrier=self.carrier),
            write_limit=self.write_limit,
        )
        self.getty = Getty(
            self.line,
            self.authenticator,
            self._session,
            self.audit,
            store=self.store,
            banner="Test Box 1.0",
            hostname="box",
            login_timeout=self.login_timeout,
            idle_timeout=self.idle_timeout,
            notices=lambda: self.notices,
            pauses=self.pauses,
            clock=lambda: NOON,
        )
        self.task = asyncio.create_task(self.getty.run())
        try:
            yield self.far
        finally:
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=PATIENCE)
            self.far.hang_up()
            assert self.task.cancelled(), "the console ended by itself"

    def _session(self, terminal: Terminal, account: Account, origin: Origin, where: str) -> Session:
        self.sessions.append(SmallShell(terminal, account, origin, where))
        return self.sessions[-1]

    async def log_in(self) -> None:
        """From the prompt to the shell."""
        await self.far.read_until(PROMPT)
        await self.far.type("admin\r")
        await self.far.read_until("Password: ")
        await self.far.type("PASSWORD\r")
        await self.far.read_until(SHELL)

    def records(self) -> list[dict[str, Any]]:
        """What the audit holds."""
        return audit_trail.records(self.folder / "audit.jsonl")

    def events(self) -> list[tuple[str, str]]:
        """Event and actor of each record."""
        return [(record["event"], record["actor"]) for record in self.records()]


async def until(happened: Callable[[], bool]) -> None:
    """Wait, bounded, for something that nobody tells us."""
    async with asyncio.timeout(PATIENCE):
        while not happened():  # noqa: ASYNC110  that is what it is for
            await asyncio.sleep(0.01)
