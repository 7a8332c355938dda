# SPDX-License-Identifier: Apache-2.0
"""What was done, by whom and from where, is on disk before the answer; `verify` shows whether it still is.

The records stand in a chained file (see `appliance.chain`). The number and the hash of each also go to the operational
log, which is kept elsewhere: whoever may write the audit's files can forge them all, but not what has left the machine.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Protocol, Self

from appliance.chain import LONGEST_RECORD, ORIGIN, ChainFile, Field, Link, follow, parse, read_head
from appliance.errors import StateError
from appliance.files import write_atomically
from appliance.journald import AUDIT_RECORD
from appliance.log import get_logger

LOG_NAME = "audit.jsonl"  # in the state folder
FAILURE = "FAILURE"  # the outcome of an attempt that did not say how it ended
LONGEST_VALUE = 1024  # characters
RESERVED = frozenset({"seq", "time", "prev", "hash"})

Clock = Callable[[], datetime]

_log = get_logger(__name__)


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found: `records` good ones, and the `line` (from 1; 0: none in particular) at which that ended."""

    records: int
    ok: bool
    line: int = 0
    reason: str = ""


class Attempt:
    """Something that was begun; `outcome` says how it ended."""

    def __init__(self) -> None:
        self.word = FAILURE

    def outcome(self, word: str) -> None:
        self.word = word


class Chain(Protocol):
    """Where an `AuditLog` puts its records."""

    def add(self, time: str, record: dict[str, Field]) -> Link:
        """Append one record, durable on return. Raises `StateError`, and then nothing was appended."""

    def close(self) -> None:
        """Let others append."""


class AuditLog:
    """The audit trail of one state folder. Every method may be called from any thread."""

    def __init__(self, chain: Chain, *, now: Clock = utc_now) -> None:
        self._chain = chain
        self._now = now
        self._lock = threading.Lock()
        # A thread of its own keeps the order of `record`, and no hung device can use it up.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit")

    @classmethod
    def open(cls, path: Path, *, now: Clock = utc_now) -> Self:
        """Continue the log at `path`, or begin it; only its end is read.

        A last line that a power cut tore is set aside into ``audit.torn-<time>``, and a record says so. Raises
        `StateError` when the file cannot be used, is in use by another process, or ends in something else than the
        record that was written last.
        """
        try:
            chain, torn = ChainFile.open(path)
        except OSError as error:
            raise StateError(path, f"cannot be opened: {error.strerror or error}") from error
        log = cls(chain, now=now)
        try:
            if torn:
                name = f"{path.stem}.torn-{now():%Y%m%dT%H%M%S.%fZ}"
                write_atomically(path.with_name(name), torn, 0o600)
                chain.cut()
                log.append("recovered", actor="system", origin="system", torn=name, size=len(torn))
        except StateError:
            log.close()
            raise
        return log

    def append(self, event: str, *, actor: str, origin: str, **fields: Field) -> int:
        """Append one record, durable on return, and return its number.

        Long strings are cut and say so. Raises `StateError`, and then nothing was appended; `ValueError` for a field
        with the name of one of our own, or too many of them.
        """
        if not RESERVED.isdisjoint(fields):
            raise ValueError(f"reserved names: {', '.join(sorted(RESERVED.intersection(fields)))}")
        said: dict[str, Field] = {"actor": actor, "origin": origin, **fields}
        bounded = {key: _bounded(value) for key, value in said.items()}
        with self._lock:
            time = self._now().astimezone(UTC).isoformat(timespec="milliseconds")
            link = self._chain.add(time, {"event": event, **bounded})
        _log.info(AUDIT_RECORD, record=event, seq=link.seq, hash=link.hash, **bounded)
        return link.seq

    async def record(self, event: str, *, actor: str, origin: str, **fields: Field) -> int:
        """`append` without blocking the loop; records are written in the order of the calls, cancelled or not."""
        call = partial(self.append, event, actor=actor, origin=origin, **fields)
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._writer, call))

    @asynccontextmanager
    async def attempt(self, event: str, *, actor: str, origin: str, **fields: Field) -> AsyncIterator[Attempt]:
        """Record `event` at the end of the block with its outcome: `FAILURE` unless the block said another.

        Raises `StateError` when it cannot be recorded and the block itself raised nothing.
        """
        attempt = Attempt()
        try:
            yield attempt
        except BaseException:
            try:
                await self.record(event, actor=actor, origin=origin, **fields, outcome=attempt.word)
            except StateError as error:
                _log.error("audit record lost", audited=event, outcome=attempt.word, reason=str(error))
            raise
        await self.record(event, actor=actor, origin=origin, **fields, outcome=attempt.word)

    def close(self) -> None:
        """Write what was handed to `record`, and let the file go; whoever appends afterwards is refused."""
        self._writer.shutdown()
        with self._lock:  # a reset that has overrun its time may be about to append
            self._chain.close()


class NoAudit(AuditLog):
    """Stands in for an audit trail that could not be opened: everything that must be recorded is refused."""

    def __init__(self, reason: str) -> None:
        super().__init__(_NoChain(reason))


class _NoChain:
    def __init__(self, reason: str) -> None:
        self._reason = reason

    def add(self, time: str, record: dict[str, Field]) -> Link:
        raise StateError(Path(LOG_NAME), self._reason)

    def close(self) -> None:
        pass


def verify(path: Path) -> Verdict:
    """Read the whole log at `path` and find the first record that was altered, removed, added or moved.

    Needs no lock: the daemon may append meanwhile. Raises `StateError` when the log cannot be read.
    """
    try:
        head, trouble = read_head(path), ""  # before the log, so that it is not ahead of it
    except StateError as error:
        head, trouble = ORIGIN, str(error)
    previous = ORIGIN
    try:
        with path.open("rb") as file:
            for number in count(1):
                line = file.readline(LONGEST_RECORD + 1)
                if not line:
                    break
                try:
                    previous = follow(previous, parse(line), head)
                except ValueError as error:
                    return Verdict(previous.seq, ok=False, line=number, reason=str(error))
    except OSError as error:
        raise StateError(path, f"cannot be read: {error.strerror or error}") from error
    if head.seq > previous.seq:
        reason = f"the end is cut off: record {head.seq} was written"
        return Verdict(previous.seq, ok=False, line=previous.seq + 1, reason=reason)
    return Verdict(previous.seq, ok=not trouble, reason=trouble)


def _bounded(value: Field) -> Field:
    if isinstance(value, str) and len(value) > LONGEST_VALUE:
        return value[:LONGEST_VALUE] + "[cut]"
    return value
