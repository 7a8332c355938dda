# SPDX-License-Identifier: Apache-2.0
"""A name and a password lead to an account or to nothing, at the same cost whatever was wrong.

Failures are counted per line and outlast a restart, so that neither pulling the plug nor another name resets the pause.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from weakref import WeakValueDictionary

from appliance.accounts.lockout import Backoff
from appliance.accounts.password import NOBODY, check
from appliance.accounts.store import Account, AccountStore
from appliance.errors import StateError
from appliance.files import write_atomically
from appliance.log import get_logger

MOST_LINES = 64  # whose failures are kept; beyond that the oldest failure is forgotten
LARGEST_FILE = 1 << 16  # bytes

_log = get_logger(__name__)


class Authenticator:
    """Logs people in, on every line one at a time."""

    def __init__(
        self,
        store: AccountStore | None,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Failures are kept in the file `path`. Without a `store`, nobody can log in."""
        self._store = store
        self._path = path
        self._clock = clock
        self._sleep = sleep
        self._backoffs: dict[str, Backoff] | None = None  # read from the file at the first login
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # One thread: scrypt needs 32 MiB each time, and no hung device must keep a person from logging in. What is
        # done there is done to its end, also when the line hangs up meanwhile.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="login")

    async def login(self, line: str, name: str, password: str) -> Account | None:
        """The account of `name` if `password` is right, after the pause that earlier failures on `line` cost.

        `line` is a terminal or ``ip/port``; all connections from one address are one line.
        """
        line = line.partition("/")[0]
        loop = asyncio.get_running_loop()
        async with self._turns.setdefault(line, asyncio.Lock()):
            await self._sleep(await loop.run_in_executor(self._worker, self._delay, line))
            return await loop.run_in_executor(self._worker, self._attempt, line, name, password)

    def _delay(self, line: str) -> float:
        if self._backoffs is None:
            self._backoffs = _load(self._path)
        return self._backoffs.get(line, Backoff()).delay(self._clock())

    def _attempt(self, line: str, name: str, password: str) -> Account | None:
        account = self._store.get(name) if self._store else None
        backoffs = self._backoffs or {}
        before = backoffs.get(line, Backoff())
        if check(account.verifier if account else NOBODY, password) and account:
            self._remember({**backoffs, line: before.succeeded()})
            return account
        self._remember({**backoffs, line: before.failed(self._clock())})
        return None

    def _remember(self, backoffs: dict[str, Backoff]) -> None:
        failed = {line: backoff for line, backoff in backoffs.items() if backoff.failures}
        latest = sorted(failed, key=lambda line: failed[line].last)[-MOST_LINES:]
        kept = {line: failed[line] for line in latest}
        if kept == self._backoffs:
            return
        self._backoffs = kept
        try:
            write_atomically(self._path, _encode(kept), 0o600)
        except StateError as error:
            _log.warning("login failures not saved", reason=str(error))


def _load(path: Path) -> dict[str, Backoff]:
    """The failures on each line. A file that cannot be believed counts for nothing: it must not lock the console."""
    try:
        with path.open("rb") as file:
            return _decode(json.loads(file.read(LARGEST_FILE)))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        _log.error("login failures unknown", path=str(path), reason=str(error))
        return {}


def _encode(backoffs: dict[str, Backoff]) -> bytes:
    document = {line: {"failures": backoff.failures, "last": backoff.last} for line, backoff in backoffs.items()}
    return json.dumps(document, indent=1).encode("ascii") + b"\n"


def _decode(document: object) -> dict[str, Backoff]:
    """What `_encode` had. Raises `ValueError` for anything else."""
    backoffs = {}
    match document:
        case dict():
            entries = document.items()
        case _:
            raise ValueError("not an object")
    for line, entry in entries:
        match entry:
            case {"failures": int(failures), "last": float(last), **rest} if failures > 0 and not rest:
                backoffs[line] = Backoff(failures, last)
            case _:
                raise ValueError("not a count of failures")
    return backoffs
