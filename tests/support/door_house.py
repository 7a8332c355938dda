# SPDX-License-Identifier: Apache-2.0
"""A network door with everything behind it but a shell, which is a fake."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Self, cast

from appliance.accounts.password import NOBODY
from appliance.accounts.store import Account, AccountStore, Role
from appliance.audit import AuditLog
from appliance.console.door import Door, listen
from appliance.console.terminal import Terminal
from appliance.errors import EndOfFile, Interrupt
from appliance.shell.invocation import Origin
from appliance.shell.session import Session
from tests.support import audit_trail
from tests.support.door_client import LIMIT, DoorClient

NOBODY_UID = 65534  # of the user "nobody", everywhere
NAMELESS_UID = 54321  # of no user


class FakeSession:
    """A shell that says each line back; the command `yes` is done, others are not."""

    def __init__(self, terminal: Terminal, account: Account, origin: Origin, where: str) -> None:
        self.terminal = terminal
        self.account = account
        self.origin = origin
        self.where = where
        self.ended_by = ""
        self.commands: list[str] = []
        self.may_read = asyncio.Event()
        self.may_read.set()

    async def run(self) -> None:
        try:
            await self._run()
        except BaseException as error:
            self.ended_by = type(error).__name__
            raise

    async def _run(self) -> None:
        await self.terminal.write("hello\n")
        while True:
            await self.may_read.wait()
            try:
                line = await self.terminal.readline("> ")
            except Interrupt:
                await self.terminal.write("interrupted\n")
                continue
            except EndOfFile:
                return
            match line:
                case "exit":
                    return
                case "crash":
                    raise ZeroDivisionError
                case "much":
                    await self.terminal.write("x" * 10_000_000)
            await self.terminal.write(f"said {len(line)} {line[:40]}\n")

    async def run_command(self, line: str) -> bool:
        self.commands.append(line)
        await self.terminal.write(f"ran {line}\n")
        if line == "ask":
            return await self.terminal.readline("sure? ") == "yes"
        return line == "yes"


class House:
    """A door with everything behind it, at a socket of its own in a folder that every user may walk into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "door"
        self.state = folder / "state"
        self.state.mkdir(mode=0o700)
        self.sessions: list[FakeSession] = []
        self.audit: AuditLog = AuditLog.open(self.state / "audit.jsonl")
        self.accounts = {"admin": account("admin", Role.ADMIN)}
        self.users: dict[str, str] = {}
        self.idle_timeout = 600.0
        self.enabled = True

    @classmethod
    @contextmanager
    def build(cls) -> Iterator[Self]:
        """A house in a folder of its own; the folders that pytest makes are closed to other users."""
        folder = Path(tempfile.mkdtemp(prefix="door-"))
        folder.chmod(0o755)
        house = cls(folder)
        try:
            yield house
        finally:
            house.audit.close()
            shutil.rmtree(folder)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Door]:
        """Open the door to every user of the machine."""
        store = AccountStore(self.state / "accounts.json", self.accounts)
        door = Door(
            store,
            self.session,
            self.audit,
            users=self.users,
            idle_timeout=self.idle_timeout,
            enabled=self.enabled,
            clock=lambda: 0,
        )
        await door.start(listen(self.path, ""))
        self.path.chmod(0o666)
        try:
            yield door
        finally:
            await door.close()
            store._changer.shutdown()  # a session that was cut off may have left it something to save

    def client(self, uid: int = 0) -> AbstractAsyncContextManager[DoorClient]:
        """A connection to the door."""
        return DoorClient.connect(self.path, uid=uid)

    async def works(self) -> None:
        """The next client is served as if nothing had been."""
        async with self.client() as client:
            await client.open("yes")
            assert await client.ended() == 0

    def records(self) -> list[tuple[str, str, str, str]]:
        """Event, actor, origin and reason of all audit records."""
        records = audit_trail.records(self.state / "audit.jsonl")
        return [(r["event"], r["actor"], r["origin"], r.get("reason", "")) for r in records]

    async def record(self, event: str) -> tuple[str, str, str, str]:
        """The first record of `event`, as soon as it is there."""
        async with asyncio.timeout(LIMIT):
            while True:
                for record in self.records():
                    if record[0] == event:
                        return record
                await asyncio.sleep(0.005)

    def session(self, terminal: Terminal, account: Account, origin: Origin, where: str) -> Session:
        """A `SessionFactory`."""
        session = FakeSession(terminal, account, origin, where)
        self.sessions.append(session)
        return cast(Session, session)


def account(name: str, role: Role = Role.MONITOR) -> Account:
    """An account that nobody can log in to with a password."""
    return Account(name, role, NOBODY, must_change=False)


def peer_name(uid: int) -> str:
    """How the door names a Unix user."""
    return {0: "root", NOBODY_UID: "nobody"}.get(uid, f"uid {uid}")
