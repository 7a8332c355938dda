# SPDX-License-Identifier: Apache-2.0
"""The journal's own protocol, the numbers of the events, and the catalog that explains them."""

import ast
import errno
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import journald
from appliance.hsm.model import Outcome
from appliance.journald import MESSAGE_IDS, message_id, send

ROOT = Path(__file__).parents[2]
CATALOG = ROOT / "systemd/appliance-console.catalog"
MOST = 1 << 20  # bytes of one datagram, or datagrams in a queue; more than any kernel takes


class FakeJournal:
    """A datagram socket that takes what the journal would take."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))

    def entries(self) -> list[dict[str, str]]:
        """Everything that came since the last call, by field; a malformed field is an error."""
        found = []
        while True:
            try:
                found.append(dict(fields(self._socket.recv(MOST))))
            except BlockingIOError:
                return found

    def close(self) -> None:
        """Be gone, with the socket."""
        self._socket.close()
        self.path.unlink()


def fields(datagram: bytes) -> Iterator[tuple[str, str]]:
    """The fields of one entry; systemd, "Native Journal Protocol"."""
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, simple, value = line.partition(b"=")
        if not simple:
            (size,) = struct.unpack("<Q", datagram[:8])
            value, end, datagram = datagram[8 : 8 + size], datagram[8 + size : 9 + size], datagram[9 + size :]
            assert (len(value), end) == (size, b"\n")
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name)
        yield name.decode(), value.decode()


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJournal]:
    """What the code takes for the journal."""
    journal = FakeJournal(tmp_path / "socket")
    monkeypatch.setattr(journald, "SOCKET", str(journal.path))
    yield journal
    if journal.path.exists():
        journal.close()


def test_an_event_is_one_entry(journal: FakeJournal) -> None:
    """The journal is told the text, the priority, who says it, the number of the event, and its fields."""
    record = {"event": "audit record", "record": "login", "actor": "admin", "seq": 7, "level": "info", "time": "now"}

    assert send("the text", 6, record)

    assert journal.entries() == [
        {
            "MESSAGE": "the text",
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "appliance-console",
            "MESSAGE_ID": MESSAGE_IDS["login"],
            "HSM_RECORD": "login",
            "HSM_ACTOR": "admin",
            "HSM_SEQ": "7",
        }
    ]


def test_an_event_without_a_number_has_none(journal: FakeJournal) -> None:
    """An event of daily work is an entry without MESSAGE_ID."""
    assert send("the text", 6, {"event": "line open", "tty": "ttyS0"})

    (entry,) = journal.entries()
    assert entry.keys() == {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "HSM_TTY"}


@pytest.mark.parametrize("value", ["one\ntwo", "\n", "a=b\nMESSAGE=forged", "", "J\u00f6rg\n"])
def test_a_value_may_have_lines(value: str, journal: FakeJournal) -> None:
    """A line feed in a value is one of the value, and never begins a field."""
    assert send("the text", 6, {"event": "e", "exception": value})

    (entry,) = journal.entries()
    assert entry["MESSAGE"] == "the text"
    assert entry["HSM_EXCEPTION"] == value


def test_nothing_in_a_value_is_obeyed(journal: FakeJournal) -> None:
    """What a terminal might obey arrives as a visible escape: the catalog inserts values into its text."""
    assert send("the text", 6, {"event": "e", "model": "\x1b[2J\r\x00\udcff\u202e"})

    assert journal.entries()[0]["HSM_MODEL"] == r"\x1b[2J\r\x00\udcff\u202e"


def test_a_missing_journal_has_nothing(journal: FakeJournal) -> None:
    """Whoever logs is told that the journal does not have the event."""
    journal.close()

    assert not send("the text", 6, {"event": "e"})


def test_without_a_descriptor_left_the_journal_has_nothing(
    journal: FakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told of is on record by then, and must not look as if it were not."""

    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socket", none_left)

    assert not send("the text", 6, {"event": "e"})


def test_an_event_that_is_too_large_is_not_sent(journal: FakeJournal) -> None:
    """The journal does not get the half of it."""
    assert not send("x" * MOST, 6, {"event": "e"})
    assert journal.entries() == []


def test_a_journal_that_takes_nothing_blocks_nobody(journal: FakeJournal) -> None:
    """When its queue is full, whoever logs is told so."""
    assert not all(send("the text", 6, {"event": "e"}) for _ in range(MOST))


# --- by way of the log ---

LOGGING = """
import sys
from pathlib import Path
from appliance import journald
from appliance.audit import AuditLog
from appliance.log import configure, get_logger
journald.SOCKET = sys.argv[1]
configure("info")
audit = AuditLog.open(Path(sys.argv[2]))
audit.append("login-failed", actor="admin", origin="Console", tty="ttyS0", password="hunter2")
get_logger("t").warning("loud", pin="hunter2", outer={"so_pin": "hunter2"}, traffic=b"hunter2")
audit.close()
"""


def logged(journal: FakeJournal, folder: Path, *, under_systemd: bool = True) -> str:
    """What a program that logs writes to stderr, when that is what JOURNAL_STREAM names, or is not."""
    with (folder / "stderr").open("w+") as stream:
        status = os.fstat(stream.fileno())
        inode = status.st_ino if under_systemd else status.st_ino + 1
        environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{inode}"}
        command: list[str | Path] = [sys.executable, "-c", LOGGING, journal.path, folder / "audit.jsonl"]
        subprocess.run(command, cwd=ROOT, env=environment, stderr=stream, check=True)  # noqa: S603  # our own program
        stream.seek(0)
        return stream.read()


def test_under_systemd_an_event_is_in_the_journal_only(journal: FakeJournal, tmp_path: Path) -> None:
    """The text is the line of JSON that is written elsewhere; a record of the audit trail comes with its fields."""
    assert logged(journal, tmp_path) == ""

    audited, warning = journal.entries()
    assert audited["MESSAGE_ID"] == MESSAGE_IDS["login-failed"]
    assert (audited["HSM_ACTOR"], audited["HSM_ORIGIN"], audited["HSM_TTY"]) == ("admin", "Console", "ttyS0")
    assert [audited["PRIORITY"], warning["PRIORITY"]] == ["6", "4"]
    text = json.loads(audited["MESSAGE"])
    assert (text["event"], text["record"], text["actor"]) == ("audit record", "login-failed", "admin")
    assert (str(text["seq"]), text["hash"]) == (audited["HSM_SEQ"], audited["HSM_HASH"])


def test_no_secret_is_in_the_journal(journal: FakeJournal, tmp_path: Path) -> None:
    """What is hidden in the line is hidden in the fields."""
    logged(journal, tmp_path)

    audited, warning = journal.entries()
    assert (audited["HSM_PASSWORD"], warning["HSM_PIN"]) == ("[hidden]", "[hidden]")
    assert "hunter2" not in f"{audited} {warning}"


def test_without_systemd_the_journal_is_left_alone(journal: FakeJournal, tmp_path: Path) -> None:
    """A program that somebody started by hand writes its lines to stderr."""
    lines = logged(journal, tmp_path, under_systemd=False).splitlines()

    assert [json.loads(line)["event"] for line in lines] == ["audit record", "loud"]
    assert journal.entries() == []


def test_what_the_journal_does_not_take_goes_to_stderr(journal: FakeJournal, tmp_path: Path) -> None:
    """Without the socket the stream is left, on which a line begins with its priority."""
    journal.close()

    lines = logged(journal, tmp_path).splitlines()

    assert [line[:3] for line in lines] == ["<6>", "<4>"]
    assert [json.loads(line[3:])["event"] for line in lines] == ["audit record", "loud"]


# --- numbers and catalog ---


def catalog() -> dict[str, str]:
    """The entries of the catalog file by their numbers."""
    entries = re.split(r"^-- (.*)\n", CATALOG.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(entries[::2], entries[1::2], strict=True))


def nodes() -> Iterator[ast.AST]:
    """The syntax of every module but the one with the numbers."""
    for path in sorted((ROOT / "appliance").rglob("*.py")):
        if path.name != "journald.py":
            yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def audited_events() -> set[str]:
    """The event in every call that records one, by the names that such methods have in this house."""
    recorders = {"record", "append", "attempt", "_record", "_note", "_append"}
    found = set()
    for node in nodes():
        match node:
            case ast.Call(func=ast.Attribute(attr=name), args=[ast.Constant(str(event)), *_]) if (
                name in recorders and event
            ):
                found.add(event)
    return found


def words() -> set[str]:
    """Every string and every keyword argument in the sources."""
    found = set()
    for node in nodes():
        match node:
            case ast.Constant(str(text)):
                found.add(text)
            case ast.keyword(arg=str(name)):
                found.add(name)
    return found


def test_every_number_has_its_entry_and_every_entry_its_number() -> None:
    """The catalog explains what the code numbers, and nothing else; no number is given twice."""
    assert sorted(catalog()) == sorted(MESSAGE_IDS.values())
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)
    assert [number for number in MESSAGE_IDS.values() if not re.fullmatch("[0-9a-f]{32}", number)] == []


def test_every_audited_event_has_a_number() -> None:
    """Whatever is in the audit trail can be looked up; what can be looked up is an event of the code."""
    events = {event.partition(":")[0] for event in MESSAGE_IDS}

    assert {"start", "login", "reset-intent", "reset-outcome"} <= audited_events()
    assert audited_events() - events == set()
    assert events - words() == set()


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_of_a_reset_has_its_own_number(outcome: Outcome) -> None:
    """What is to be done after a reset depends on how it ended."""
    fields = {"event": "audit record", "record": "reset-outcome", "outcome": str(outcome.value)}

    assert message_id(fields) == MESSAGE_IDS[f"reset-outcome: {outcome.value}"]


def test_the_entries_name_fields_that_exist() -> None:
    """A field in the text of an entry is one that some event has."""
    named = set(re.findall("HSM_([A-Z_]+)", CATALOG.read_text(encoding="utf-8")))

    assert {name.lower() for name in named} - words() == set()


def test_no_field_stands_in_a_command() -> None:
    """What a device calls itself is nothing that a person types as it is shown."""
    lines = [line for entry in catalog().values() for line in entry.splitlines()]
    commands = [line for line in lines if line.startswith("    ") or re.search(" -[a-z]", line)]

    assert len(commands) > 6
    assert [line for line in commands if "@" in line] == []


@pytest.mark.skipif(not shutil.which("journalctl"), reason="journalctl is not installed")
def test_systemd_understands_the_catalog(tmp_path: Path) -> None:
    """Compiled by systemd, every entry is there, with its subject, and belongs to the console."""
    folder = tmp_path / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    shutil.copy(CATALOG, folder)

    def journalctl(option: str) -> str:
        command = ["journalctl", f"--root={tmp_path}", option]
        result = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # below tmp_path only
        assert result.stderr == ""
        return result.stdout

    journalctl("--update-catalog")
    lines = journalctl("--list-catalog").splitlines()

    assert [line.split(" ", 1)[0] for line in lines] == sorted(MESSAGE_IDS.values())
    assert [line for line in lines if not re.match("[0-9a-f]{32} appliance-console: .", line)] == []
