# SPDX-License-Identifier: Apache-2.0
"""A session with everything around it, and no device, disk or account behind it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from appliance.accounts.authenticator import Authenticator
from appliance.accounts.store import Account, AccountStore, Role
from appliance.audit import AuditLog
from appliance.errors import StateError
from appliance.hsm.builtin import BuiltinHsm
from appliance.hsm.manager import Manager
from appliance.hsm.model import HsmClass, Intent
from appliance.shell.invocation import Origin, Services
from appliance.shell.session import Session
from tests.support.fake_builtin import FakeBuiltin
from tests.support.fake_manager import FakeManager, token
from tests.support.fake_terminal import Answer, FakeTerminal
from tests.support.vendor import FAILURE

RESET = "token backup factoryReset -serial 667788"


class FakeStore:
    """An account store that keeps nothing."""

    def __init__(self, *refusals: BaseException) -> None:
        self.refusals = list(refusals)
        self.passwords: list[str] = []

    async def set_password(self, name: str, new: str) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.passwords.append(new)


class FakeAuthenticator:
    """Knows one password."""

    def __init__(self, account: Account) -> None:
        self.account = account

    async def login(self, line: str, name: str, password: str) -> Account | None:
        return self.account if password == "PASSWORD" else None  # noqa: S105  the documented initial one


class FakeAudit:
    """Keeps records in memory, or cannot."""

    def __init__(self) -> None:
        self.records: list[dict[str, str | int]] = []
        self.full = False

    async def record(self, event: str, *, actor: str, origin: str, **fields: str | int) -> int:
        if self.full:
            raise StateError(Path("audit.jsonl"), "No space left on device")
        self.records.append({"event": event, "actor": actor, "origin": origin, **fields})
        return len(self.records)


@dataclass
class Shell:
    """A session and everything around it."""

    manager: FakeManager = field(default_factory=lambda: FakeManager([token()]))
    hsm: FakeBuiltin = field(default_factory=FakeBuiltin)
    origin: Origin = Origin.LOCAL_CONSOLE
    account: Account = field(default_factory=lambda: an_account())
    store: FakeStore = field(default_factory=FakeStore)
    audit: FakeAudit = field(default_factory=FakeAudit)

    def session(self, terminal: FakeTerminal) -> Session:
        services = Services(
            cast(Manager, self.manager),
            cast(BuiltinHsm, self.hsm),
            cast(AccountStore, self.store),
            cast(Authenticator, FakeAuthenticator(self.account)),
            cast(AuditLog, self.audit),
            "Network HSM 0.1",
            "local_host",
        )
        where = "Console" if self.origin is Origin.LOCAL_CONSOLE else "192.0.2.7/40847"
        return Session(terminal, self.account, self.origin, where, services)

    async def command(self, line: str, *answers: Answer) -> str:
        """Run one command; what was shown."""
        terminal = FakeTerminal(*answers)
        self.done = await self.session(terminal).run_command(line)
        return terminal.screen


def an_account(**changes: object) -> Account:
    account = Account("admin", Role.ADMIN, verifier=None, must_change=False)  # type: ignore[arg-type]  # never checked here
    return replace(account, **changes)  # type: ignore[arg-type]  # a builder for tables


INTENT = Intent("667788", "openpgp", HsmClass.BACKUP, "234b:0000", "SIM", "2026-01-30T11:24:00Z", "admin", "Console")


def frame(code: str, sentence: str, command: str = "token backup factoryReset") -> str:
    return f"\n\nError:  '{command}' failed. ({code})\n\nError:  {sentence}\n\n{FAILURE}"


UNKNOWN_SERIAL = (
    "C000040A : RC_OBJECT_NOT_IN_LIST",
    "Specified token does not exist.\n        Use 'token backup list' to list all available tokens.",
)
