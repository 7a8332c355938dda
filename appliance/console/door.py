# SPDX-License-Identifier: Apache-2.0
"""The network door: whoever comes in here is on the network, whatever he says; who he is, the kernel tells.

It listens on a Unix socket and makes one session of each connection. OpenSSH has authenticated the Unix user, and
SO_PEERCRED (unix(7)) says which one it is; no password is asked here. This is the only module that makes
`Origin.NETWORK`.
"""

import asyncio
import errno
import grp
import ipaddress
import os
import pwd
import socket
import stat
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from appliance.accounts.store import Account, AccountStore
from appliance.audit import AuditLog
from appliance.console.connection import Connection
from appliance.console.frames import FrameError
from appliance.console.terminal import Terminal
from appliance.errors import ApplianceError, DeviceError, Hangup, StateError, Timeout
from appliance.log import get_logger
from appliance.shell.invocation import FAILURE, Origin
from appliance.shell.session import Session
from appliance.worker import in_thread

MOST_SESSIONS: Final = 10  # at a time, as many as the vendor's appliance allows on SSH
LOOKUP_LIMIT: Final = 10.0  # seconds for the name of a Unix user

SessionFactory = Callable[[Terminal, Account, Origin, str], Session]

_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_CLOSE_TIMEOUT = 5.0  # seconds for the sessions to write their last audit record

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as the kernel knows it."""

    pid: int
    uid: int
    user: str  # the name of its Unix user; "" when the uid has none

    @property
    def shown(self) -> str:
        """The user for people: printable ASCII, bounded."""
        return ascii(self.user)[1:-1][:64] if self.user else f"uid {self.uid}"


class Door:
    """The network door; `start` opens it."""

    def __init__(
        self,
        store: AccountStore,
        session: SessionFactory,
        audit: AuditLog,
        *,
        users: Mapping[str, str],
        idle_timeout: float,
        enabled: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`users` maps Unix users to accounts; `idle_timeout` is in seconds. Not enabled, it turns everybody away."""
        self._store = store
        self._session = session
        self._audit = audit
        self._users = users
        self._idle_timeout = idle_timeout
        self._enabled = enabled
        self._clock = clock
        self._server: asyncio.Server | None = None
        self._shut = False
        self._sessions: set[asyncio.Task[None]] = set()
        self._lookups: dict[int, asyncio.Future[str]] = {}  # of names, by uid
        self._refusals: set[asyncio.Task[None]] = set()  # of those who take up no place

    async def start(self, sock: socket.socket) -> None:
        """Serve the listening Unix socket `sock`, which is ours from now on. Raises `ApplianceError`."""
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise ApplianceError("The network door needs a Unix stream socket.")
        try:
            # From Python 3.13 on, `start_unix_server` would take the socket's path away at the end: systemd's, perhaps.
            self._server = await asyncio.start_server(self._accept, sock=sock, backlog=MOST_SESSIONS)
        except OSError as error:
            raise ApplianceError(f"The network door cannot listen: {error.strerror or error}.") from error

    def shut(self) -> None:
        """Let nobody in any more; the sessions go on until `close`.

        Where systemd holds the socket too, whoever comes waits there for the next daemon; else he is refused at once.
        """
        self._shut = True
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Let nobody in any more, and end the sessions."""
        self.shut()
        for task in self._sessions:
            task.cancel()
        if ending := self._sessions | self._refusals:
            await asyncio.wait(ending, timeout=_CLOSE_TIMEOUT)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        obstacle = ""
        if self._shut:  # the connection was taken from the queue just before
            obstacle = "The console service is being stopped. Try again later."
        elif len(self._sessions) >= MOST_SESSIONS:
            obstacle = "Too many sessions are open. Close one, or try again later."
        task = asyncio.create_task(self._serve(reader, writer, obstacle))
        tasks = self._refusals if obstacle else self._sessions
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, obstacle: str) -> None:
        """One connection from beginning to end; whatever happens in it stays in it. An obstacle is all it is told."""
        connection = Connection(reader, writer)
        try:
            pid, uid = _credentials(writer.get_extra_info("socket"))
            user = await self._user(uid)
            peer = Peer(pid, uid, user or "")
            if user is None:  # nor is root let in as `admin`: his name may be mapped to another account
                await self._reject(peer, f"local/{pid}", "no user name in time")
                await _refuse(connection, "The user database does not answer in time. Try again later.")
            elif obstacle:
                _log.warning("connection to the network door refused", user=peer.shown, reason=obstacle)
                await _refuse(connection, obstacle)
            else:
                await self._admit(connection, peer)
        except Hangup:
            _log.debug("connection to the network door is gone")
        except Exception:  # noqa: BLE001  the last resort: a fault in one session must not reach the others
            _log.error("session on the network door failed", exc_info=True)
        finally:
            connection.close()

    async def _user(self, uid: int) -> str | None:
        """The name of a Unix user, "" when it has none; None when the user database does not answer in time.

        One question serves all who wait for its answer: those that hang must not use up the threads.
        """
        lookup = self._lookups.get(uid)
        if lookup is None:
            try:
                lookup = self._lookups[uid] = in_thread(partial(_user_name, uid), "user name")
            except DeviceError as problem:
                _log.warning("user name not looked up", uid=uid, reason=str(problem))
                return None
            lookup.add_done_callback(lambda _: self._lookups.pop(uid))
        await asyncio.wait([lookup], timeout=LOOKUP_LIMIT)
        return lookup.result() if lookup.done() else None

    async def _admit(self, connection: Connection, peer: Peer) -> None:
        """Find out what is wanted, by whom and from where; let in who has an account."""
        where = f"local/{peer.pid}"
        try:
            command, source = await connection.opening()
        except FrameError as fault:
            return await self._reject(peer, where, str(fault))
        where = _where(source) or where
        if not self._enabled:
            await self._reject(peer, where, "switched off")
            return await _refuse(connection, "The network door is switched off on this appliance.")
        account = self._account(peer)
        if account is None:
            await self._reject(peer, where, "no account")
            return await _refuse(connection, f"User '{peer.shown}' has no account on this appliance.")
        recorded = True  # also where we are cancelled meanwhile
        try:
            try:
                await self._audit.record("login", actor=account.name, origin=where, user=peer.shown)
            except StateError as problem:
                recorded = False
                _log.error("login refused, it cannot be recorded", user=peer.shown, reason=problem.reason)
                return await _refuse(connection, "The audit trail cannot be written. Nobody can log in on the network.")
            await self._converse(connection, account, where, command)
        finally:
            if connection.fault:
                await self._reject(peer, where, connection.fault)
            if recorded:
                await self._note("logout", actor=account.name, origin=where)

    async def _converse(self, connection: Connection, account: Account, where: str, command: str | None) -> None:
        """Hold the session and tell the client how it ended."""
        terminal = Terminal(connection, idle_timeout=self._idle_timeout, echo=command is None)
        session = self._session(terminal, account, Origin.NETWORK, where)
        done = False
        try:
            if command is None:
                await self._store.note_login(account.name, f"{self._now()} from {where.rpartition('/')[0]}")
                await session.run()
                done = True
            else:
                done = await session.run_command(command)
        except Timeout:
            await terminal.write("\nThe session was idle for too long and is closed.\n")
        except Hangup:
            done = command is None  # the end of the input ends a session as `exit` does
        await connection.finish(0 if done else 1)

    def _account(self, peer: Peer) -> Account | None:
        """The account that the Unix user has here; uid 0 is `admin` unless it is mapped to another."""
        own_name = "admin" if peer.uid == 0 else peer.user
        name = self._users.get(peer.user, own_name) if peer.user else own_name
        return self._store.get(name) if name else None

    def _now(self) -> str:
        return time.strftime("%a %b %d %H:%M:%S", time.localtime(self._clock()))

    async def _reject(self, peer: Peer, where: str, reason: str) -> None:
        _log.warning("connection to the network door rejected", user=peer.shown, origin=where, reason=reason)
        await self._note("door-rejected", actor=peer.shown, origin=where, reason=reason)

    async def _note(self, event: str, *, actor: str, origin: str, **fields: str) -> None:
        """Audit what cannot be prevented any more."""
        try:
            await self._audit.record(event, actor=actor, origin=origin, **fields)
        except StateError as problem:
            _log.error("audit record lost", audited=event, reason=problem.reason)


def listen(path: Path, group: str) -> socket.socket:
    """A listening socket at `path` that `group`, if there is one of that name, and we ourselves may connect to.

    A socket that nobody listens on is replaced; anything else at `path` is left alone. Raises `StateError`.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        mask = os.umask(0o117)  # from the first moment on, nobody else may connect
        try:
            sock.bind(bytes(path))
        finally:
            os.umask(mask)
        _give_to(path, group)
        sock.listen(MOST_SESSIONS)  # until now every connection was refused
    except OSError as error:
        sock.close()
        raise StateError(path, f"cannot be listened on: {error.strerror or error}") from error
    except StateError:
        sock.close()
        raise
    return sock


def _remove_stale(path: Path) -> None:
    """Remove the socket that an earlier process left at `path`. Raises `StateError`, `OSError`."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StateError(path, "is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(bytes(path))
    if answer != errno.ECONNREFUSED:
        raise StateError(path, "is in use by another process")
    path.unlink()


def _give_to(path: Path, group: str) -> None:
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid, follow_symlinks=False)
    except (KeyError, PermissionError) as error:
        _log.warning("the network door keeps its own group", path=str(path), group=group, reason=str(error))


def _credentials(sock: socket.socket) -> tuple[int, int]:
    """The process and the uid that connected, as the kernel noted them at that moment (unix(7), SO_PEERCRED)."""
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


def _user_name(uid: int) -> str:
    """Blocks: the user database may be on the network."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _where(source: str) -> str:
    """The audit's origin "ip/port" from the client's word for it; "" when that is no address and port.

    It is information, not proof: a user of this machine can state any address.
    """
    address, _, port = source.partition(" ")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        return ""
    try:
        return f"{ipaddress.ip_address(address.partition('%')[0])}/{int(port)}"
    except ValueError:
        return ""


async def _refuse(connection: Connection, sentence: str) -> None:
    """Say why nothing is done here, and end."""
    await Terminal(connection, echo=False).write(f"\nError:  {sentence}\n\n{FAILURE.line}\n")
    await connection.finish(1)
