# SPDX-License-Identifier: Apache-2.0
"""The operational log: JSON lines on stderr, without secrets."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from appliance.log import HIDDEN, LONGEST_TRACEBACK, LONGEST_VALUE, configure, get_logger, redact

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """The global state of both logging libraries is what it was before the test."""
    handlers, level = logging.root.handlers[:], logging.root.level
    configured, settings = structlog.is_configured(), structlog.get_config()
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    if configured:
        structlog.configure(**settings)
    else:
        structlog.reset_defaults()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_record_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    """A record has its level, the time in UTC, the module and the fields, on stderr alone."""
    configure("info")

    get_logger("appliance.test").info("device found", serial="667788", count=2, ok=True, none=None)

    captured = capsys.readouterr()
    (record,) = lines(captured.err)
    assert captured.out == ""
    assert record.pop("time").endswith("Z")
    assert record == {
        "event": "device found",
        "level": "info",
        "module": "appliance.test",
        "serial": "667788",
        "count": 2,
        "ok": True,
        "none": None,
    }


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_is_a_threshold(level: str, written: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Records below the configured level are not written."""
    log = get_logger("appliance.test")  # made before `configure`, as every module does
    log.critical("also used before")
    capsys.readouterr()
    configure(level)

    log.debug("a")
    log.info("a")
    log.warning("a")
    log.error("a")

    assert [record["level"] for record in lines(capsys.readouterr().err)] == written


def test_an_unknown_level_is_an_error() -> None:
    """A level that does not exist is not taken for another one."""
    with pytest.raises(KeyError):
        configure("loud")


@pytest.mark.parametrize(
    "key", ["password", "new_password", "pin", "so_pin", "SO-PIN", "puk", "secret", "shared_secret", "verifier", "apdu"]
)
def test_a_secret_is_hidden(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value under the name of a secret is hidden, however deep it stands."""
    configure("info")

    get_logger("t").info("event", **{key: "hunter2"}, outer={key: "hunter2", "list": [{key: "hunter2"}]})

    text = capsys.readouterr().err
    assert "hunter2" not in text
    assert lines(text)[0][key] == HIDDEN


@pytest.mark.parametrize("key", ["port", "spinning", "serial", "keys", "opinion"])
def test_an_ordinary_value_is_not_hidden(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that only contains the letters of a secret's name is an ordinary one."""
    configure("info")

    get_logger("t").info("event", **{key: "shown"})

    assert lines(capsys.readouterr().err)[0][key] == "shown"


def test_foreign_text_cannot_forge_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters, line ends and broken encodings stay inside their value."""
    configure("info")
    hostile = 'x"\n{"event": "forged"}\r\x1b[2J\udcff\u2028'

    get_logger("t").info("event", model=hostile)

    text = capsys.readouterr().err
    assert text.isascii()
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert lines(text)[0]["model"] == hostile


def test_a_value_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """A long value is cut and says so; the event as well."""
    configure("info")

    get_logger("t").info("e" * 5000, model="m" * 5000)

    (record,) = lines(capsys.readouterr().err)
    assert record["model"] == "m" * LONGEST_VALUE + "[cut]"
    assert len(record["event"]) == LONGEST_VALUE + len("[cut]")


def test_bytes_are_only_counted() -> None:
    """Traffic of a device is not shown: it may hold a PIN."""
    fields = {"data": b"123456", "more": bytearray(b"1234"), "list": [memoryview(b"12345678")]}

    assert redact(None, "info", fields) == {"data": "[6 bytes]", "more": "[4 bytes]", "list": ["[8 bytes]"]}


def test_an_exception_is_a_field(capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback is one field of the record, of which the end is kept."""
    configure("info")
    message = "x" * (2 * LONGEST_TRACEBACK) + "the end"

    get_logger("t").error("failed", exc_info=RuntimeError(message))

    (record,) = lines(capsys.readouterr().err)
    assert record["level"] == "error"
    assert record["exception"].endswith("the end")
    assert len(record["exception"]) == LONGEST_TRACEBACK


@given(st.dictionaries(st.text(), st.recursive(st.text() | st.binary() | st.integers() | st.none(), st.lists)))
def test_any_fields_can_be_said_in_json(fields: dict[str, Any]) -> None:
    """Whatever is logged becomes JSON."""
    json.dumps(redact(None, "info", fields))


def test_other_libraries_take_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    """A warning of a library becomes a record; what a library says about its transfers does not, at any level."""
    configure("debug")

    logging.getLogger("asyncio").warning("took %.1f seconds", 1.5)
    logging.getLogger("usb.core").debug("PIN 123456")

    (record,) = lines(capsys.readouterr().err)
    assert record["event"] == "took 1.5 seconds"
    assert record["module"] == "asyncio"


def test_without_configuration_only_warnings_are_written(tmp_path: Path) -> None:
    """A program that did not call `configure` writes warnings to stderr and nothing to stdout."""
    program = "from appliance.log import get_logger; log = get_logger('t'); log.info('quiet'); log.warning('loud')"

    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603  our own interpreter

    assert ended.stdout == ""
    assert [record["event"] for record in lines(ended.stderr)] == ["loud"]


PRIORITIES = """
from appliance import journald
from appliance.log import configure, get_logger
journald.SOCKET = "/nowhere"
configure("debug")
log = get_logger("t")
log.debug("a"); log.info("a"); log.warning("a"); log.error("a")
"""


@pytest.mark.parametrize("in_journal", [True, False])
def test_the_journal_is_told_the_priority(in_journal: bool, tmp_path: Path) -> None:
    """Lines begin with a syslog priority exactly when stderr is the stream that JOURNAL_STREAM names.

    The journal's socket, to which they would go instead, is not there (see `test_journald.py`).
    """
    with (tmp_path / "stream").open("w+") as stream:
        status = os.fstat(stream.fileno())
        named = f"{status.st_dev}:{status.st_ino if in_journal else status.st_ino + 1}"
        environment = {**os.environ, "JOURNAL_STREAM": named}
        subprocess.run([sys.executable, "-c", PRIORITIES], cwd=ROOT, env=environment, stderr=stream, check=True)  # noqa: S603  our own interpreter
        stream.seek(0)
        starts = [line[:3] for line in stream]

    assert starts == (["<7>", "<6>", "<4>", "<3>"] if in_journal else ['{"m'] * 4)


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_a_lost_stderr_costs_only_the_line(closed: str) -> None:
    """A stderr that is closed or full does not end the program."""
    program = (
        "from appliance.log import configure, get_logger; configure('info'); get_logger('t').info('a'); print('on')"
    )

    ended = subprocess.run(  # noqa: S603  our own interpreter
        ["/bin/sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )

    assert ended.stdout == "on\n"
