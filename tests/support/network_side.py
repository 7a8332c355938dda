# SPDX-License-Identifier: Apache-2.0
"""The daemon as far as the network sees it: the real door, shell, accounts and audit, before a manager that counts."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Never, Self, cast

from appliance.accounts.authenticator import Authenticator
from appliance.accounts.store import Account, AccountStore
from appliance.audit import AuditLog
from appliance.console.door import Door, listen
from appliance.console.terminal import Terminal
from appliance.hsm.attempts import Attempts
from appliance.hsm.builtin import BuiltinHsm
from appliance.hsm.manager import Manager
from appliance.hsm.model import Attachment, Device, HsmClass, HsmState, Intent, Probe
from appliance.shell.invocation import Origin, Services
from appliance.shell.session import Session
from tests.support import audit_trail
from tests.support.process import LIMIT

SERIAL = "667788"
_DEVICE = Device(
    Attachment("/sys/devices/usb1/1-1", 1, 4, 1_000_000, 0x234B, 0x0000),
    family="openpgp",
    hsm_class=HsmClass.BACKUP,
    serial=SERIAL,
    probe=Probe(SERIAL, HsmState.INITIALIZED, "a token", "3.4"),
)


class CountingManager:
    """One backup HSM that can be listed; whoever wants more than that is written down."""

    def __init__(self) -> None:
        self.wanted: list[str] = []

    async def settled(self) -> None:
        pass

    def interrupted(self) -> tuple[Intent, ...]:
        return ()

    def devices(self, hsm_class: HsmClass) -> tuple[Device, ...]:
        return (_DEVICE,) if hsm_class is HsmClass.BACKUP else ()

    def find(self, serial: str, _: HsmClass) -> Device:
        self.wanted.append(f"find {serial}")
        return _DEVICE

    async def factory_reset(self, device: Device, **_: Any) -> Never:
        self.wanted.append(f"reset {device.serial}")
        raise AssertionError("a reset was begun from the network")


class NetworkSide:
    """A running network door with the shell behind it."""

    def __init__(self, state: Path, socket: Path, group: str, users: Mapping[str, str]) -> None:
        self.manager = CountingManager()
        self._state = state
        self._socket = socket
        store = self._store = AccountStore.open(state / "accounts.json")
        self._audit = AuditLog.open(state / "audit.jsonl")
        self._services = Services(
            cast(Manager, self.manager),
            BuiltinHsm(cast(Manager, self.manager), Attempts(state / "attempts.json"), self._audit),
            store,
            Authenticator(store, state / "lockout.json"),
            self._audit,
            banner="Network HSM 1.0",
            hostname="local_host",
        )
        self._group = group
        self.door = Door(store, self._session, self._audit, users=users, idle_timeout=60)

    @classmethod
    @asynccontextmanager
    async def run(cls, socket: Path, *, group: str = "", users: Mapping[str, str] | None = None) -> AsyncIterator[Self]:
        """Serve at `socket`, with a state folder that is new and removed at the end."""
        state = Path(tempfile.mkdtemp(prefix="network-side-"))
        side = cls(state, socket, group, users or {})
        try:
            await side.door.start(listen(socket, group))
            yield side
        finally:
            await side.door.close()
            side._audit.close()
            side._store._changer.shutdown()  # a session that was cut off may have left it something to save
            _remove(socket, state)

    def records(self, *events: str) -> list[dict[str, Any]]:
        """The audit records of `events`."""
        return [record for record in audit_trail.records(self._state / "audit.jsonl") if record["event"] in events]

    async def record(self, event: str) -> None:
        """Return as soon as there is a record of `event`."""
        async with asyncio.timeout(LIMIT):
            while not self.records(event):  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0.005)

    def _session(self, terminal: Terminal, account: Account, origin: Origin, where: str) -> Session:
        return Session(terminal, account, origin, where, self._services)


def _remove(socket: Path, state: Path) -> None:
    socket.unlink()
    shutil.rmtree(state)
