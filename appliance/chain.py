# SPDX-License-Identifier: Apache-2.0
"""A file of JSON lines each of which holds the SHA-256 of the one before: nothing in it can change unseen.

A line is ``{"seq":1,"time":...,"prev":...,...,"hash":...}``. Its hash is over the bytes of the line without that last
member; ``prev`` is the hash of the line before, 64 zeros in the first. Beside ``NAME.jsonl`` stands ``NAME.head`` with
the number and the hash of the last line, written after the line is durable and therefore never ahead of it: it shows
that an end was cut off.
"""

import fcntl
import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from appliance.errors import StateError
from appliance.files import write_atomically

LONGEST_RECORD = 1 << 18  # bytes of a line

Field = str | int | bool

_LINE = re.compile(rb'(\{.*),"hash":"([0-9a-f]{64})"\}\n')
_HEAD = re.compile(rb'\{"seq": *([0-9]{1,18}),"hash":"([0-9a-f]{64})"\}\n')


@dataclass(frozen=True, slots=True)
class Link:
    """One record, as far as the chain is concerned."""

    seq: int
    prev: str
    hash: str


ORIGIN = Link(seq=0, prev="", hash="0" * 64)  # what the first record follows


class ChainFile:
    """The open and locked log file, with its head beside it."""

    def __init__(self, path: Path, log: int, head: int, size: int, last: Link) -> None:
        self._path = path
        self._log = log
        self._head = head
        self._size = size  # bytes of the log that are whole records
        self._last = last

    @classmethod
    def open(cls, path: Path) -> tuple[Self, bytes]:
        """The log and the torn line at its end, which `cut` takes off. Raises `StateError`, `OSError`."""
        log = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _lock(path, log)
            size = os.fstat(log).st_size
            last, torn = _last_record(path, os.pread(log, 2 * LONGEST_RECORD, max(0, size - 2 * LONGEST_RECORD)))
            _check_head(path, last, is_new=size == 0)
            write_atomically(_head_of(path), _head_line(last), 0o600)  # and makes the name of a new log durable
            head = os.open(_head_of(path), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (OSError, StateError):
            os.close(log)
            raise
        return cls(path, log, head, size - len(torn), last), torn

    def add(self, time: str, record: dict[str, Field]) -> Link:
        if self._log < 0:
            raise StateError(self._path, "closed")
        link, line = seal(self._last, time, record)
        try:
            self._check_untouched()
            if os.write(self._log, line) != len(line):
                raise OSError(None, "No space left on device")  # noqa: TRY301  handled like the error of the next write
            os.fsync(self._log)
        except OSError as error:
            with suppress(StateError):  # the next record finds the file longer than it should be, and is refused too
                self.cut()
            raise StateError(self._path, f"cannot be written: {error.strerror or error}") from error
        self._size += len(line)
        self._last = link
        with suppress(OSError):  # a head that lags behind only hides that much of a cut
            os.pwrite(self._head, _head_line(link), 0)
        return link

    def cut(self) -> None:
        """Take off what follows the last whole record. Raises `StateError`."""
        try:
            os.ftruncate(self._log, self._size)
            os.fsync(self._log)
        except OSError as error:
            raise StateError(self._path, f"cannot be cut: {error.strerror or error}") from error

    def close(self) -> None:
        os.close(self._head)
        os.close(self._log)
        self._head = self._log = -1  # the numbers may be somebody else's soon

    def _check_untouched(self) -> None:
        """The name still leads to our file, and nobody else wrote to it: a record must not go where nobody looks."""
        ours, named = os.fstat(self._log), self._path.stat()
        if not os.path.samestat(ours, named) or ours.st_size != self._size:
            raise StateError(self._path, "was replaced or changed by another program")


def follow(previous: Link, link: Link, head: Link) -> Link:
    """`link`, which is the one to follow `previous`. Raises `ValueError` with the reason if it is not."""
    if link.seq > previous.seq + 1:
        raise ValueError(f"record {previous.seq + 1} is missing: record {link.seq} stands in its place")
    if link.seq <= previous.seq:
        raise ValueError(f"record {link.seq} stands here a second time or out of its order")
    if link.prev != previous.hash:
        raise ValueError(f"record {link.seq} does not follow the record before it")
    if link.seq == head.seq and link.hash != head.hash:
        raise ValueError(f"record {link.seq} is not the one that audit.head names")
    return link


def seal(last: Link, time: str, record: dict[str, Field]) -> tuple[Link, bytes]:
    """The record that follows `last`, and its line. Raises `ValueError` when that would be too long."""
    seq = last.seq + 1
    body = json.dumps({"seq": seq, "time": time, "prev": last.hash, **record}, separators=(",", ":")).encode("ascii")
    digest = hashlib.sha256(body).hexdigest()
    line = body[:-1] + f',"hash":"{digest}"}}\n'.encode("ascii")
    if len(line) > LONGEST_RECORD:
        raise ValueError("too long for a record")
    return Link(seq, last.hash, digest), line


def parse(line: bytes) -> Link:
    """The record in `line`. Raises `ValueError` with the reason if it was not written by `seal`."""
    match = _LINE.fullmatch(line)
    if not match:
        raise ValueError("not a whole record")
    digest = match[2].decode()
    body = match[1] + b"}"
    if hashlib.sha256(body).hexdigest() != digest:
        raise ValueError("altered: the record does not have the hash that it states")
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("not a record: no JSON") from None
    match record:
        case {"seq": int(seq), "prev": str(prev)}:
            return Link(seq, prev, digest)
    raise ValueError("not a record: no number and no previous hash")


def _last_record(path: Path, end: bytes) -> tuple[Link, bytes]:
    """The last whole record and the torn line after it, both from the `end` of the log. Raises `StateError`."""
    whole, newline, torn = end.rpartition(b"\n")
    if len(torn) > LONGEST_RECORD:
        raise StateError(path, "damaged: ends in something that is no record")
    if not newline:
        return ORIGIN, torn
    try:
        return parse(whole[whole.rfind(b"\n") + 1 :] + newline), torn
    except ValueError as error:
        raise StateError(path, f"damaged: the last record is {error}") from error


def _lock(path: Path, log: int) -> None:
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StateError(path, "in use by another process") from error


def _head_of(path: Path) -> Path:
    return path.with_suffix(".head")


def _head_line(link: Link) -> bytes:
    """Always of the same length, so that overwriting it in place needs no room on the disk."""
    return f'{{"seq":{link.seq:18},"hash":"{link.hash}"}}\n'.encode("ascii")


def read_head(path: Path) -> Link:
    head = _head_of(path)
    try:
        with head.open("rb") as file:
            match = _HEAD.fullmatch(file.read(256))
    except OSError as error:
        raise StateError(head, f"cannot be read: {error.strerror or error}") from error
    if not match:
        raise StateError(head, "damaged")
    return Link(int(match[1]), "", match[2].decode())


def _check_head(path: Path, last: Link, *, is_new: bool) -> None:
    """The log goes as far as its head says. Raises `StateError`."""
    if is_new and not _head_of(path).exists():
        return
    head = read_head(path)
    if head.seq > last.seq:
        raise StateError(path, f"damaged: the end is cut off: record {head.seq} was written")
    if head.seq == last.seq and head.hash != last.hash:
        raise StateError(path, f"damaged: record {last.seq} is not the one that {_head_of(path).name} names")
