# SPDX-License-Identifier: Apache-2.0
"""What a command is given when it runs, and what it gives back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from appliance.accounts.authenticator import Authenticator
from appliance.accounts.store import Account, AccountStore
from appliance.audit import AuditLog
from appliance.hsm.builtin import BuiltinHsm, Person
from appliance.hsm.manager import Manager


class Origin(Enum):
    """The door a session came through; decided once, there, and carried as a value.

    Only `console/getty.py` makes `LOCAL_CONSOLE` and only `console/door.py` makes `NETWORK`. Nothing converts one
    into the other.
    """

    LOCAL_CONSOLE = "local console"
    NETWORK = "network"


Completer = Callable[[str], Sequence[str]]  # what stands left of the cursor -> the whole words that can end it


class Terminal(Protocol):
    """What the shell needs of a terminal; `console/terminal.py` provides it. Both methods raise `Hangup`."""

    async def write(self, text: str) -> None:
        """Show text; ``\\n`` becomes CR LF."""

    async def readline(
        self, prompt: str, *, secret: bool = False, history: bool = False, complete: Completer | None = None
    ) -> str:
        """Ask for one line. Raises `Interrupt`, `EndOfFile`, `Break`, `Timeout`."""


@dataclass(frozen=True, slots=True)
class Services:
    """What commands may call on."""

    manager: Manager
    builtin: BuiltinHsm
    store: AccountStore
    authenticator: Authenticator
    audit: AuditLog
    banner: str
    hostname: str


@dataclass(frozen=True, slots=True)
class Invocation:
    """One command, found, permitted and parsed."""

    terminal: Terminal
    account: Account
    origin: Origin
    person: Person  # this session, to the built-in HSM
    where: str  # the audit's origin: "Console", or "ip/port"
    services: Services
    command: str  # canonical spelling, e.g. "token backup factoryReset"
    options: Mapping[str, str]  # by canonical name without the dash; a switch that was given maps to ""
    words: tuple[str, ...]  # what was typed after a command that takes words


@dataclass(frozen=True, slots=True)
class Reply:
    """How a command ended: the code of the result line, and whether what was asked has been done.

    The two differ twice: the vendor ends with code 0 the refusal of a console command on the network, and the login to
    the built-in HSM that zeroizes it.
    """

    code: int
    done: bool
    note: str = ""  # for the audit, when there is more to say than done or not
    log_out: bool = False

    @property
    def line(self) -> str:
        """The result line, exactly (Luna Network HSM 6.3, token backup factoryreset)."""
        return f"Command Result : {self.code} ({'Success' if self.code == 0 else 'Luna Shell execution'})"


SUCCESS = Reply(0, done=True)
FAILURE = Reply(65535, done=False)
