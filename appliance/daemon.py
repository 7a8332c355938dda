# SPDX-License-Identifier: Apache-2.0
"""The composition root: every part is built here, started and stopped in order.

The console is the last door. Whatever else cannot start (the audit, the account file, the network door, udev) is said
in the log and above the login prompt, and the console runs without it; what must not happen without it refuses.
"""

import asyncio
import signal
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from weakref import WeakSet

from appliance import __version__, systemd
from appliance.accounts.authenticator import Authenticator
from appliance.accounts.store import Account, AccountStore
from appliance.audit import LOG_NAME, AuditLog, NoAudit
from appliance.config import Config
from appliance.console.door import Door, listen
from appliance.console.getty import Getty
from appliance.console.line import SerialLine
from appliance.console.terminal import Terminal
from appliance.errors import ApplianceError, StateError
from appliance.files import lock_folder
from appliance.hsm.attempts import Attempts
from appliance.hsm.builtin import BuiltinHsm
from appliance.hsm.drivers import Driver, families
from appliance.hsm.drivers.builtin import builtin
from appliance.hsm.hotplug import HotplugSource, UdevSource
from appliance.hsm.journal import Journal, NoJournal
from appliance.hsm.manager import Manager
from appliance.hsm.model import HsmClass
from appliance.hsm.usb import UsbBus
from appliance.log import configure, get_logger
from appliance.shell.invocation import Origin, Services
from appliance.shell.session import Session

_log = get_logger(__name__)

_RESCAN_INTERVAL = 60.0  # seconds; a look at what is plugged, should an event have been lost without a trace
_PORT_PATIENCE = 2.0  # seconds in which a port that is there is open
_MEND = "Mend that, then restart the appliance."
_MARGIN = 20.0  # seconds to record an outcome and close everything
_LAST_WORDS = 12.0  # of these, in which whoever ordered a reset reads what it came to, before his session ends


def run(config: Config) -> int:
    """Serve the console of this machine until SIGTERM; the exit status."""
    configure(config.log.level)
    asyncio.run(Daemon(config, UdevSource(), UsbBus()).run())
    return 0


class Daemon:
    """All parts of one console, wired together."""

    def __init__(self, config: Config, source: HotplugSource, bus: UsbBus) -> None:
        """Raises `StateError` when another daemon works in the state folder."""
        self._config = config
        self._source = source
        self._problems: list[str] = []  # what does not work, one sentence each, for the banner
        self._deafness: set[str] = set()  # reasons that were complained of
        self._without_accounts = False
        self._sessions: WeakSet[Session] = WeakSet()
        self._stop = asyncio.Event()
        state = config.state
        self._take_folder(state)
        # The accounts first: that there is no audit trail yet is how they know a first start.
        store = self._open_store(state / "accounts.json")
        self._audit = self._open_audit(state / LOG_NAME)
        self._manager = Manager(
            source,
            self._drivers(bus),
            self._open_journal(state / "pending.json"),
            self._audit,
            pki_serials=config.hsm.pki_serials,
            operation_timeout=config.hsm.operation_timeout,
            probe_timeout=config.hsm.probe_timeout,
        )
        authenticator = Authenticator(store, state / "lockout.json")
        self._services = Services(
            self._manager,
            BuiltinHsm(self._manager, Attempts(state / "builtin-attempts.json"), self._audit),
            store,
            authenticator,
            self._audit,
            config.banner,
            config.hostname,
        )
        self._getty = Getty(
            SerialLine(config.line),
            authenticator,
            self._session,
            self._audit,
            store=store,
            banner=config.banner,
            hostname=config.hostname,
            login_timeout=config.line.login_timeout,
            idle_timeout=config.line.idle_timeout,
            notices=lambda: self._problems,
        )
        network = config.network
        self._check_hearing()
        self._door = Door(
            store,
            self._session,
            self._audit,
            users=network.users,
            idle_timeout=network.idle_timeout,
            enabled=network.enabled,
        )

    async def run(self) -> None:
        """Serve until `stop`, SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        await self._note("start", version=__version__)
        console = asyncio.create_task(self._getty.run(), name="console")
        others = asyncio.create_task(self._start_others(), name="others")
        for task in (console, others):
            task.add_done_callback(_tell_defect)
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((console, stop), return_when=asyncio.FIRST_COMPLETED)
            if console.done():
                raise ApplianceError("The console ended by itself.")  # let systemd start us anew
        finally:
            systemd.notify(STOPPING=1, STATUS="Stopping.", EXTEND_TIMEOUT_USEC=self._patience_usec())
            await _cancel(others)
            self._door.shut()  # whoever comes while a reset ends waits for the next daemon
            await self._services.builtin.finished()
            await self._manager.stop()  # first of all a reset that runs comes to its end
            await self._answered()
            await _cancel(console)
            await self._door.close()
            await self._note("stop")
            self._audit.close()

    def stop(self) -> None:
        """Begin an orderly end."""
        self._stop.set()

    async def _start_others(self) -> None:
        """Start what the login prompt does not wait for; then feed the watchdog."""
        with suppress(TimeoutError):  # without its port the console has no use for them, but the network has
            async with asyncio.timeout(_PORT_PATIENCE):
                await self._getty.opened.wait()
        await self._try("HSMs", self._manager.start)
        self._check_hearing()  # starting may have brought up more
        await self._try("Network door", self._open_door)
        await self._getty.opened.wait()
        systemd.notify(READY=1, STATUS=self._status())
        _log.info("ready", port=self._config.line.port)
        await self._feed_watchdog()

    async def _try(self, part: str, start: Callable[[], Awaitable[None]]) -> None:
        """Start a part; a defect of ours costs this part, and neither the others nor the console."""
        try:
            await start()
        except Exception:  # noqa: BLE001  the last resort
            sentence = f"{part}: not available because of an internal error. The log says more."
            self._problems.append(sentence)
            _log.critical("part not available", part=part, reason=sentence, exc_info=True)

    async def _feed_watchdog(self) -> None:
        """Say that this loop works, for as long as it does; look at USB anew now and then on the same occasion."""
        timeout = systemd.watchdog_timeout()
        if timeout is None:
            return
        pause = timeout / 2
        for beat in count(1):
            await asyncio.sleep(pause)
            systemd.notify(WATCHDOG=1, STATUS=self._status())
            if beat % max(1, round(_RESCAN_INTERVAL / pause)) == 0:
                self._source.rescan()

    async def _open_door(self) -> None:
        network = self._config.network
        inherited = systemd.listen_fds()
        if not (network.enabled or inherited):  # a socket of systemd's takes connections whether we serve it or not
            return
        try:
            await self._door.start(inherited[0][1] if inherited else listen(network.socket, network.group))
        except ApplianceError as error:
            self._complain("network door", f"The network door is closed: {error}")

    def _session(self, terminal: Terminal, account: Account, origin: Origin, where: str) -> Session:
        session = Session(terminal, account, origin, where, self._services)
        self._sessions.add(session)
        return session

    async def _answered(self) -> None:
        """Wait until every command at work has said what it came to; not for a person, nor for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                for session in tuple(self._sessions):
                    await session.answered()

    def _status(self) -> str:
        backup, pki = (len(self._manager.devices(hsm_class)) for hsm_class in (HsmClass.BACKUP, HsmClass.PKI))
        unfinished = len(self._manager.interrupted())
        tokens = f"Backup tokens: {backup}. PKI tokens: {pki}."
        return f"Console on {self._config.line.port}. {tokens} Interrupted resets: {unfinished}."

    def _patience_usec(self) -> int:
        """How long the end may take: a reset that runs is not cut short, nor one that a login just now leads to."""
        logins = 3 * self._services.builtin.busy  # it, the question after it, a reset
        operations = logins + self._manager.busy  # for which that may be waiting
        return int((operations * self._config.hsm.operation_timeout + _MARGIN) * 1_000_000) if operations else 0

    def _check_hearing(self) -> None:
        if (deaf := self._source.deaf()) and deaf not in self._deafness:
            self._deafness.add(deaf)
            self._complain("plug events", f"USB plug events cannot be heard: {deaf}.")

    def _take_folder(self, folder: Path) -> None:
        """Have the state folder for this process alone. Raises `StateError` when another daemon has it.

        Two that keep their accounts there would each believe their own copy, and bring old passwords back.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_folder(folder)  # until the process ends
            if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                self._complain(
                    "state folder", f"Others can replace what is in the state folder {folder}: its mode must be 0700."
                )
        except OSError as error:
            self._complain("state folder", f"The state folder {folder} cannot be made or locked: {error.strerror}.")

    def _drivers(self, bus: UsbBus) -> tuple[Driver, ...]:
        """One driver of each family, and that of the built-in HSM."""
        drivers = families(bus, self._config.hsm)
        try:
            inside = builtin(bus, self._config.hsm.builtin, self._config.state / "builtin")
        except ApplianceError as error:
            self._complain("built-in HSM", f"The built-in HSM is not available: {error}.")
            return drivers
        return (*drivers, inside) if inside else drivers

    def _open_store(self, path: Path) -> AccountStore:
        try:
            return AccountStore.open(path)
        except StateError as error:
            self._without_accounts = True
            self._complain("accounts", f"Nobody can log in. The accounts are not available: {error}. {_MEND}")
            return AccountStore(path, {})

    def _open_audit(self, path: Path) -> AuditLog:
        if self._without_accounts and not path.exists():  # a trail would tell the next start that there had been some
            return NoAudit("not begun without accounts")
        try:
            return AuditLog.open(path)
        except StateError as error:
            self._complain("audit trail", f"No token can be reset. The audit trail is not available: {error}. {_MEND}")
            return NoAudit(error.reason)

    def _open_journal(self, path: Path) -> Journal:
        try:
            return Journal.open(path)
        except StateError as error:
            self._complain(
                "unfinished resets",
                f"No token can be reset. The record of unfinished resets is not available: {error}. {_MEND}",
            )
            return NoJournal(error.reason)

    def _complain(self, part: str, sentence: str) -> None:
        self._problems.append(sentence)
        _log.error("part not available", part=part, reason=sentence)

    async def _note(self, event: str, **fields: str) -> None:
        try:
            await self._audit.record(event, actor="system", origin="system", **fields)
        except StateError as error:
            _log.error("audit record lost", audited=event, reason=error.reason)


async def _cancel(task: asyncio.Task[None]) -> None:
    """End a task, and return when it has ended; what it may have died of stops nobody."""
    task.cancel()
    await asyncio.wait([task])


def _tell_defect(task: asyncio.Task[None]) -> None:
    """Say at once what a task died of: nobody waits for its result."""
    if not task.cancelled() and (defect := task.exception()):
        _log.critical("task died", task=task.get_name(), exc_info=defect)
