# SPDX-License-Identifier: Apache-2.0
"""The audit trail: what it holds, how it survives, and that no change to it goes unseen."""

import asyncio
import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from appliance import audit
from appliance.audit import AuditLog, NoAudit, Verdict, verify
from appliance.chain import LONGEST_RECORD, Field, Link
from appliance.errors import StateError

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 1, 30, 12, 0, 0, 250_000, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / audit.LOG_NAME


@pytest.fixture
def log(path: Path) -> Iterator[AuditLog]:
    log = AuditLog.open(path, now=lambda: NOON)
    yield log
    log.close()


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def filled(path: Path, number: int) -> None:
    """A closed log of `number` records."""
    log = AuditLog.open(path, now=lambda: NOON)
    for index in range(number):
        log.append("command", actor="admin", origin="Console", command="token backup list", index=index)
    log.close()


def failing(number: int) -> Callable[..., Any]:
    def fail(*_args: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_record_is_one_line(log: AuditLog, path: Path) -> None:
    """A record has its number, the time in UTC, the hash of the one before, who, from where and what."""
    first = log.append("login", actor="admin", origin="Console")
    second = log.append("command", actor="admin", origin="10.0.0.7/51234", command="hsm show", done=True, code=0)

    one, two = records(path)
    assert (first, second) == (1, 2)
    assert list(one) == ["seq", "time", "prev", "event", "actor", "origin", "hash"]
    assert one["prev"] == "0" * 64
    assert two == {
        "seq": 2,
        "time": "2026-01-30T12:00:00.250+00:00",
        "prev": one["hash"],
        "event": "command",
        "actor": "admin",
        "origin": "10.0.0.7/51234",
        "command": "hsm show",
        "done": True,
        "code": 0,
        "hash": two["hash"],
    }


def test_the_hash_is_over_the_line_without_it(log: AuditLog, path: Path) -> None:
    """Anybody can check a record: SHA-256 of the compact JSON without its last member."""
    log.append("login", actor="J\u00f6rg", origin="Console")

    (record,) = records(path)
    digest = record.pop("hash")
    assert digest == hashlib.sha256(json.dumps(record, separators=(",", ":")).encode()).hexdigest()


def test_the_time_is_utc(path: Path) -> None:
    """A clock of another zone is converted."""
    log = AuditLog.open(path, now=lambda: NOON.astimezone(timezone(timedelta(hours=5))))
    log.append("start", actor="", origin="")
    log.close()

    assert records(path)[0]["time"] == "2026-01-30T12:00:00.250+00:00"


def test_a_log_that_is_closed_takes_no_record(path: Path, tmp_path: Path) -> None:
    """It refuses, and does nothing to what got the numbers of its descriptors."""
    log = AuditLog.open(path)
    log.close()
    others = [tmp_path / str(number) for number in range(3)]
    with ExitStack() as stack:
        for other in others:
            other.write_bytes(b"theirs")
            stack.enter_context(other.open("r+b"))
        with pytest.raises(StateError, match=r": closed$"):
            log.append("start", actor="", origin="")

    assert [other.read_bytes() for other in others] == [b"theirs"] * 3


def test_a_log_is_closed_between_two_records() -> None:
    """Nobody is at the file when it is let go, and nobody comes before it is."""
    closed: list[bool] = []

    class Watched:
        def add(self, time: str, record: dict[str, Field]) -> Link:
            raise AssertionError("nothing is recorded")

        def close(self) -> None:
            closed.append(watched._lock.locked())

    watched = AuditLog(Watched())
    watched.close()

    assert closed == [True]


def test_the_files_are_private(log: AuditLog, path: Path) -> None:
    """Log and head can be read by the daemon alone."""
    log.append("start", actor="", origin="")

    for file in (path, path.with_name("audit.head")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_record_is_durable_on_return(log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is synced after the write and before the return."""
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))

    log.append("start", actor="", origin="")

    assert sizes == [path.stat().st_size]


@given(value=st.text(st.characters(codec=None, exclude_categories=())))
def test_any_text_is_kept_and_cannot_break_the_line(value: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever a device or a person sends stays inside its value, in ASCII."""
    path = tmp_path_factory.mktemp("audit") / audit.LOG_NAME
    log = AuditLog.open(path)
    log.append("plug", actor=value, origin="", model=value)
    log.close()

    assert path.read_bytes().isascii()
    assert path.read_bytes().count(b"\n") == 1
    assert verify(path).ok


def test_a_long_value_is_cut_and_says_so(log: AuditLog, path: Path) -> None:
    """A value of any length costs a bounded record."""
    log.append("command", actor="a" * 1025, origin="o" * 1024, command="\U0001f511" * 100_000)

    (record,) = records(path)
    assert record["actor"] == "a" * 1024 + "[cut]"
    assert record["origin"] == "o" * 1024
    assert record["command"] == "\U0001f511" * 1024 + "[cut]"
    assert path.stat().st_size < LONGEST_RECORD
    assert verify(path).ok


@pytest.mark.parametrize("name", ["seq", "time", "prev", "hash"])
def test_a_field_cannot_take_the_place_of_the_chain(name: str, log: AuditLog, path: Path) -> None:
    """The names of the chain are reserved."""
    with pytest.raises(ValueError, match=name):
        log.append("command", actor="", origin="", **{name: "0"})

    assert records(path) == []


def test_a_record_has_a_limit(log: AuditLog, path: Path) -> None:
    """So many fields that `verify` would not read the line are refused."""
    with pytest.raises(ValueError, match="too long"):
        log.append("command", actor="", origin="", **{f"f{index}": "\x00" * 1024 for index in range(64)})

    assert log.append("command", actor="", origin="") == 1


def test_the_chain_goes_to_the_operational_log(log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record is in the operational log with its number and hash, for whoever has only that."""
    captured = structlog.testing.LogCapture()
    monkeypatch.setattr(audit, "_log", structlog.wrap_logger(None, [captured], structlog.BoundLogger))

    log.append("login", actor="admin", origin="Console")

    (record,) = records(path)
    assert captured.entries == [
        {
            "event": "audit record",
            "log_level": "info",
            "record": "login",
            "actor": "admin",
            "origin": "Console",
            "seq": record["seq"],
            "hash": record["hash"],
        }
    ]


def test_a_log_is_continued(path: Path) -> None:
    """The chain goes on over a restart."""
    filled(path, 3)
    filled(path, 2)

    assert [record["seq"] for record in records(path)] == [1, 2, 3, 4, 5]
    assert verify(path) == Verdict(records=5, ok=True)


def test_only_the_end_is_read(path: Path) -> None:
    """Opening a long log does not depend on what stands at its beginning: that is for `verify`."""
    filled(path, 4000)
    with path.open("r+b") as file:
        file.write(b"X")

    log = AuditLog.open(path)

    assert log.append("start", actor="", origin="") == 4001
    log.close()
    assert verify(path) == Verdict(records=0, ok=False, line=1, reason="not a whole record")


def test_threads_do_not_mix(log: AuditLog, path: Path) -> None:
    """Appending from many threads gives whole records in one chain."""
    barrier = threading.Barrier(8)

    def append(_: int) -> None:
        barrier.wait(10)
        for _ in range(20):
            log.append("present", actor="", origin="")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(8)))

    assert verify(path) == Verdict(records=160, ok=True)


# Failures of the disk.


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_failed_write_appends_nothing(
    call: str, number: int, log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk refuses, the reason is raised, nothing stays, and the next record follows the one before."""
    log.append("start", actor="", origin="")
    before = path.read_bytes()

    monkeypatch.setattr(os, call, failing(number))
    with pytest.raises(StateError, match=os.strerror(number)):
        log.append("reset-intent", actor="admin", origin="Console")
    monkeypatch.undo()

    assert path.read_bytes() == before
    assert log.append("login", actor="admin", origin="Console") == 2
    assert verify(path) == Verdict(records=2, ok=True)


def test_a_short_write_is_taken_back(log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that a full disk took half of is removed."""
    write = os.write

    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[: len(data) // 2]))
    with pytest.raises(StateError, match="No space left"):
        log.append("start", actor="", origin="")
    monkeypatch.undo()

    assert path.read_bytes() == b""
    assert log.append("start", actor="", origin="") == 1


def test_a_write_that_cannot_be_taken_back_ends_the_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After half a record that stays, nothing is appended behind it; the next start sets it aside."""
    log = AuditLog.open(path)
    log.append("start", actor="", origin="")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:9]))
    monkeypatch.setattr(os, "ftruncate", failing(errno.EIO))
    with pytest.raises(StateError):
        log.append("login", actor="", origin="")
    monkeypatch.undo()

    with pytest.raises(StateError):
        log.append("reset-intent", actor="", origin="")

    log.close()
    AuditLog.open(path).close()
    assert [record["event"] for record in records(path)] == ["start", "recovered"]


def test_a_real_full_disk(path: Path) -> None:
    """A file that may not grow any further (RLIMIT_FSIZE) refuses records and stays whole."""
    program = """
import resource, signal, sys
from pathlib import Path
from appliance.audit import AuditLog
from appliance.errors import StateError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = AuditLog.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    while True:
        log.append("command", actor="admin", origin="Console")
except StateError as error:
    print(error.reason)
"""
    ended = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert ended.stdout.startswith("cannot be written: ")
    verdict = verify(path)
    assert verdict.ok
    assert verdict.records > 1


def test_a_head_that_cannot_be_written_costs_nothing(
    log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record counts, not its echo in the head; a head that lags behind is no damage."""
    log.append("start", actor="", origin="")
    monkeypatch.setattr(os, "pwrite", failing(errno.ENOSPC))
    log.append("login", actor="", origin="")

    assert verify(path) == Verdict(records=2, ok=True)


@pytest.mark.parametrize("change", ["removed", "replaced", "appended", "truncated"])
def test_a_log_that_somebody_else_touched_takes_no_record(change: str, log: AuditLog, path: Path) -> None:
    """A record does not go where nobody looks, nor behind what is not ours."""
    log.append("start", actor="", origin="")
    match change:
        case "removed":
            path.unlink()
        case "replaced":
            copy = path.read_bytes()
            path.unlink()
            path.write_bytes(copy)
        case "appended":
            path.write_bytes(path.read_bytes() * 2)
        case "truncated":
            os.truncate(path, 0)

    with pytest.raises(StateError):
        log.append("reset-intent", actor="", origin="")


# Opening.


@pytest.mark.parametrize("torn", [b"{", b'{"seq":4,"time":"2026', b"\x00" * 4096, b"\xff\xfe"])
def test_a_torn_line_is_set_aside(torn: bytes, path: Path) -> None:
    """What a power cut left of a record is kept beside the log, and the log says so."""
    filled(path, 3)
    with path.open("ab") as file:
        file.write(torn)

    AuditLog.open(path, now=lambda: NOON).close()

    aside = path.with_name("audit.torn-20260130T120000.250000Z")
    last = records(path)[-1]
    assert aside.read_bytes() == torn
    assert (last["seq"], last["event"], last["torn"], last["size"]) == (4, "recovered", aside.name, len(torn))
    assert verify(path) == Verdict(records=4, ok=True)


def test_a_torn_first_line_is_set_aside(path: Path) -> None:
    """A log may consist of nothing but a torn line."""
    filled(path, 0)
    path.write_bytes(b'{"seq":1,')

    AuditLog.open(path).close()

    assert [record["event"] for record in records(path)] == ["recovered"]


def test_a_torn_line_that_cannot_be_set_aside_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the torn line stays where it is, and the log is not opened."""
    filled(path, 1)
    with path.open("ab") as file:
        file.write(b"torn")
    before = path.read_bytes()

    def full(path: Path, _data: bytes, _mode: int) -> None:
        raise StateError(path, "No space left on device")

    monkeypatch.setattr(audit, "write_atomically", full)

    with pytest.raises(StateError, match="No space left"):
        AuditLog.open(path)

    assert path.read_bytes() == before


def last_line_altered(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])


def last_line_removed(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def last_line_torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def log_removed(path: Path) -> None:
    path.unlink()


def head_removed(path: Path) -> None:
    path.with_name("audit.head").unlink()


def head_damaged(path: Path) -> None:
    path.with_name("audit.head").write_bytes(b"{}\n")


def head_of_another_log(path: Path) -> None:
    head = path.with_name("audit.head")
    head.write_bytes(head.read_bytes()[: -len('"}\n') - 64] + b"0" * 64 + b'"}\n')


def rubbish_line(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"rubbish\n")


def endless_line(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x" * (3 * LONGEST_RECORD))


@pytest.mark.parametrize(
    "damage",
    [
        last_line_altered,
        last_line_removed,
        last_line_torn,
        log_removed,
        head_removed,
        head_damaged,
        head_of_another_log,
        rubbish_line,
        endless_line,
    ],
)
def test_a_log_with_a_damaged_end_is_not_continued(damage: Callable[[Path], None], path: Path) -> None:
    """A log that does not end in the last record that was written is left as evidence."""
    filled(path, 3)
    damage(path)
    before = path.read_bytes() if path.exists() else b""

    with pytest.raises(StateError):
        AuditLog.open(path)

    assert path.read_bytes() == before


def test_rubbish_is_not_set_aside_piece_by_piece(path: Path) -> None:
    """What is longer than a record was not torn by a power cut: it stays as it is."""
    filled(path, 0)
    endless_line(path)

    with pytest.raises(StateError, match="ends in something that is no record"):
        AuditLog.open(path)

    assert path.stat().st_size == 3 * LONGEST_RECORD


def test_two_daemons_do_not_share_a_log(path: Path) -> None:
    """A log that is open is refused to others, and free again when it is closed."""
    log = AuditLog.open(path)

    with pytest.raises(StateError, match="in use by another process"):
        AuditLog.open(path)

    log.close()
    AuditLog.open(path).close()


@pytest.mark.parametrize("kind", ["folder", "missing folder", "link", "pipe"])
def test_what_is_no_file_of_ours_is_refused(kind: str, path: Path, tmp_path: Path) -> None:
    """Something else in the log's place is an error, and is not written through."""
    match kind:
        case "folder":
            path.mkdir()
        case "missing folder":
            path = tmp_path / "missing" / "audit.jsonl"
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
        case "pipe":
            os.mkfifo(path)

    with pytest.raises(StateError):
        AuditLog.open(path)

    assert not (tmp_path / "elsewhere").exists()


# From the event loop.


async def test_records_keep_the_order_of_the_calls(log: AuditLog, path: Path) -> None:
    """Records are written in the order in which they were handed over."""
    async with asyncio.timeout(20):
        numbers = await asyncio.gather(*(log.record("plug", actor="", origin="", index=index) for index in range(50)))

    assert numbers == list(range(1, 51))
    assert [record["index"] for record in records(path)] == list(range(50))


async def test_a_record_is_written_although_nobody_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is cancelled while its record waits for the disk does not lose it."""
    log = AuditLog.open(path)
    gate = threading.Event()
    sync = os.fsync

    def slow(descriptor: int) -> None:
        gate.wait(10)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    tasks = [asyncio.create_task(log.record("logout", actor="", origin="", index=index)) for index in range(2)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    gate.set()
    log.close()

    assert [type(result) for result in ended] == [asyncio.CancelledError] * 2
    assert [record["index"] for record in records(path)] == [0, 1]


async def test_an_attempt_says_its_outcome(log: AuditLog, path: Path) -> None:
    """The outcome of an attempt stands in its record."""
    async with log.attempt("reset-outcome", actor="admin", origin="Console", serial="667788") as attempt:
        attempt.outcome("done")

    (record,) = records(path)
    assert (record["event"], record["serial"], record["outcome"]) == ("reset-outcome", "667788", "done")


async def test_an_attempt_that_says_nothing_failed(log: AuditLog, path: Path) -> None:
    """Without a word, the outcome is a failure."""
    async with log.attempt("reset-outcome", actor="admin", origin="Console"):
        pass

    assert records(path)[0]["outcome"] == "FAILURE"


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError()])
async def test_an_attempt_that_raises_failed(error: BaseException, log: AuditLog, path: Path) -> None:
    """An exception or a cancellation is recorded as a failure and goes on."""
    with pytest.raises(type(error)):
        async with log.attempt("reset-outcome", actor="admin", origin="Console"):
            raise error

    assert records(path)[0]["outcome"] == "FAILURE"


async def test_an_attempt_that_cannot_be_recorded_is_an_error() -> None:
    """Without an audit trail, an attempt ends in `StateError`, and an exception of its own comes first."""
    with pytest.raises(StateError):
        async with NoAudit("the disk is full").attempt("reset-outcome", actor="", origin="") as attempt:
            attempt.outcome("done")
    with pytest.raises(KeyError), structlog.testing.capture_logs():
        async with NoAudit("the disk is full").attempt("reset-outcome", actor="", origin=""):
            raise KeyError


async def test_no_audit_refuses_everything() -> None:
    """The stand-in for an audit trail that could not be opened says why it takes no record."""
    log = NoAudit("the disk is full")

    with pytest.raises(StateError, match="the disk is full"):
        log.append("reset-intent", actor="", origin="")
    with pytest.raises(StateError, match="the disk is full"):
        await log.record("reset-intent", actor="", origin="")
    log.close()


# Verification.


def test_an_empty_log_is_good(path: Path) -> None:
    """A log without records has nothing wrong."""
    filled(path, 0)

    assert verify(path) == Verdict(records=0, ok=True)


def test_a_missing_log_is_an_error(path: Path) -> None:
    """Where there is no log, nothing is verified."""
    with pytest.raises(StateError, match="No such file or directory"):
        verify(path)


def test_a_log_without_its_head_is_doubted(path: Path) -> None:
    """Without the head a cut end cannot be seen: that is said, after the chain itself was read."""
    filled(path, 3)
    path.with_name("audit.head").unlink()

    verdict = verify(path)

    assert (verdict.records, verdict.ok, verdict.line) == (3, False, 0)
    assert "audit.head" in verdict.reason


Mutation = Callable[[list[bytes]], list[bytes]]


@pytest.mark.parametrize(
    ("mutate", "line", "reason"),
    [
        (lambda r: [*r[:2], r[2].replace(b"admin", b"nimda"), *r[3:]], 3, "altered"),
        (lambda r: [*r[:2], *r[3:]], 3, "record 3 is missing: record 4 stands in its place"),
        (lambda r: r[1:], 1, "record 1 is missing: record 2 stands in its place"),
        (lambda r: [r[0], r[2], r[1], *r[3:]], 2, "record 2 is missing: record 3 stands in its place"),
        (lambda r: [*r[:3], r[2], *r[3:]], 4, "record 3 stands here a second time or out of its order"),
        (lambda r: r[:-1], 5, "the end is cut off: record 5 was written"),
        (lambda r: [], 1, "the end is cut off: record 5 was written"),
        (lambda r: [*r[:-1], r[-1][:-1]], 5, "not a whole record"),
        (lambda r: [*r, b"\n"], 6, "not a whole record"),
        (lambda r: [*r, b"rubbish"], 6, "not a whole record"),
        (lambda r: [*r[:2], r[2][:-1] + b" \n", *r[3:]], 3, "not a whole record"),
        (lambda r: [*r[:2], r[2].replace(b'":', b'": ', 1), *r[3:]], 3, "altered"),
    ],
)
def test_a_change_is_found_and_named(mutate: Mutation, line: int, reason: str, path: Path) -> None:
    """The verdict names the first line that is not what was written there."""
    filled(path, 5)
    path.write_bytes(b"".join(mutate(path.read_bytes().splitlines(keepends=True))))

    verdict = verify(path)

    assert (verdict.records, verdict.ok, verdict.line) == (line - 1, False, line)
    assert verdict.reason.startswith(reason)


def sealed(body: bytes) -> bytes:
    """A line with the hash that it should have: the work of somebody who knows the format."""
    return body[:-1] + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


@pytest.mark.parametrize(
    "body",
    [
        b'{"seq":"1","prev":"' + b"0" * 64 + b'"}',
        b'{"seq":1}',
        b'{"seq":1,"prev":1}',
        b'{"seq":-1,"prev":"' + b"0" * 64 + b'"}',
        b'{"seq":1,"prev":"' + b"1" * 64 + b'"}',
        b'{"seq":' + b"9" * 5000 + b',"prev":""}',
        b'{"a":' + b"[" * 100_000 + b"}",
        b"{nonsense}",
        b"{" + b"x" * LONGEST_RECORD + b"}",
    ],
)
def test_a_forged_record_is_found(body: bytes, path: Path) -> None:
    """A line that has a right hash and is no record of ours is an ordinary finding."""
    filled(path, 0)
    path.write_bytes(sealed(body))

    verdict = verify(path)

    assert (verdict.records, verdict.ok, verdict.line) == (0, False, 1)


def test_a_log_that_was_written_anew_is_found(path: Path, tmp_path: Path) -> None:
    """A whole chain that is right in itself, of the same length, is not the one whose end is known."""
    filled(path, 3)
    (tmp_path / "forged").mkdir()
    forged = tmp_path / "forged" / "audit.jsonl"
    log = AuditLog.open(forged)
    for _ in range(3):
        log.append("command", actor="somebody", origin="else")
    log.close()
    path.write_bytes(forged.read_bytes())

    assert verify(path) == Verdict(2, ok=False, line=3, reason="record 3 is not the one that audit.head names")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / audit.LOG_NAME
    filled(path, 7)
    return path


@st.composite
def mutations(draw: st.DrawFn) -> Mutation:
    """One or more changes that leave a log other than it was, or the same."""

    def change_byte(lines: list[bytes]) -> list[bytes]:
        data = bytearray(b"".join(lines))
        if data:
            data[position % len(data)] ^= bits
        return bytes(data).splitlines(keepends=True)

    def delete_byte(lines: list[bytes]) -> list[bytes]:
        data = b"".join(lines)
        return (data[: position % (len(data) + 1)] + data[position % (len(data) + 1) + 1 :]).splitlines(keepends=True)

    def insert(lines: list[bytes]) -> list[bytes]:
        data = b"".join(lines)
        return (data[: position % (len(data) + 1)] + rubbish + data[position % (len(data) + 1) :]).splitlines(
            keepends=True
        )

    def truncate(lines: list[bytes]) -> list[bytes]:
        data = b"".join(lines)
        return data[: position % (len(data) + 1)].splitlines(keepends=True)

    def delete(lines: list[bytes]) -> list[bytes]:
        return [line for index, line in enumerate(lines) if index != position % 7]

    def repeat(lines: list[bytes]) -> list[bytes]:
        return lines[: other % 8] + lines[position % 7 : position % 7 + 1] + lines[other % 8 :]

    def swap(lines: list[bytes]) -> list[bytes]:
        lines = lines[:]
        if lines:
            one, two = position % len(lines), other % len(lines)
            lines[one], lines[two] = lines[two], lines[one]
        return lines

    position = draw(st.integers(0, 10_000))
    other = draw(st.integers(0, 10_000))
    bits = draw(st.integers(1, 255))
    rubbish = draw(st.binary(min_size=1, max_size=20))
    return draw(st.sampled_from([change_byte, delete_byte, insert, truncate, delete, repeat, swap]))


@given(steps=st.lists(mutations(), min_size=1, max_size=3))
def test_any_change_is_found(steps: list[Mutation], original: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever bytes are altered, removed, added or moved, `verify` finds it, and never before the first of them."""
    before = lines = original.read_bytes().splitlines(keepends=True)
    for step in steps:
        lines = step(lines)
    copy = original.with_name("copy.jsonl")
    copy.with_suffix(".head").write_bytes(original.with_suffix(".head").read_bytes())
    copy.write_bytes(b"".join(lines))

    verdict = verify(copy)

    same = next((index for index, (one, two) in enumerate(zip(before, lines, strict=False)) if one != two), None)
    first = min(len(before), len(lines)) if same is None else same
    assert verdict.ok == (before == lines)
    assert verdict.records == first
    assert verdict.line == (0 if verdict.ok else first + 1)
