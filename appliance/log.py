# SPDX-License-Identifier: Apache-2.0
"""The operational log is JSON lines on stderr, or in the journal with their fields; secrets do not reach it.

This is the only module that imports structlog. Everybody else asks `get_logger` and writes short lower-case events with
``key=value`` fields. The audit trail is something else: see `appliance.audit`.
"""

import logging
import os
import sys
import threading
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger as Logger
from structlog.typing import Processor

from appliance import journald

LONGEST_VALUE = 1024  # characters of one value; what comes from a device or a person may be of any length
LONGEST_TRACEBACK = 8192  # characters, of which the last are kept: they name the error
HIDDEN = "[hidden]"
SECRET_WORDS = frozenset(
    {"password", "passphrase", "passwords", "pin", "pins", "puk", "pw", "secret", "secrets", "verifier", "kek", "apdu"}
)

# Names of syslog levels as the numbers of sd-daemon(3), by the names of structlog.
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def configure(level: str) -> None:
    """Send events of `level` ("debug", "info", "warning", "error") and above to stderr, one JSON object per line.

    Where stderr is the journal, it gets them with their fields; should it not take one, that goes to stderr after all.

    Warnings of the standard library and of other libraries take the same way. Raises `KeyError` for another level.
    """
    threshold = {name.lower(): number for name, number in logging.getLevelNamesMapping().items()}[level]
    _configure_structlog(threshold, in_journal=_stderr_is_journal())
    # Below a warning, other libraries log what they transfer, and that includes PINs.
    logging.basicConfig(level=max(threshold, logging.WARNING), handlers=[_Forward()], force=True)


def get_logger(name: str) -> Logger:
    """The logger of one module; it binds at the first event, so that it may be made before `configure` is called.

    Until then only warnings and errors are written.
    """
    if not structlog.is_configured():
        _configure_structlog(logging.WARNING, in_journal=False)
    logger: Logger = structlog.get_logger(module=name)
    return logger


def _configure_structlog(threshold: int, *, in_journal: bool) -> None:
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        redact,
        _send_to_journal if in_journal else _json,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_StderrLogger,
        cache_logger_on_first_use=False,
    )


def redact(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor: values under the name of a secret are hidden, all others become plain and of bounded length."""
    return {key: _plain(key, value) for key, value in fields.items()}


def _plain(key: str, value: object) -> object:
    """`value` as something that JSON can say, without what must not be said."""
    if not SECRET_WORDS.isdisjoint(key.lower().replace("-", "_").split("_")):
        return HIDDEN
    match value:
        case None | bool() | int() | float():
            return value
        case bytes() | bytearray() | memoryview():
            return f"[{len(value)} bytes]"  # traffic of a device: may hold a PIN
        case Mapping():
            return {str(name): _plain(str(name), item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(key, item) for item in value]
    text = str(value)
    if key == "exception":
        return text[-LONGEST_TRACEBACK:]
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "[cut]"


_json = structlog.processors.JSONRenderer()


def _send_to_journal(logger: Any, method: str, fields: MutableMapping[str, Any]) -> str:
    """The last processor under systemd: the event is in the journal, and dropped here, or becomes a line for stderr.

    The line begins with the priority in the form of sd-daemon(3), which the journal takes off again.
    """
    line = str(_json(logger, method, fields))
    priority = PRIORITIES.get(method, 5)
    if journald.send(line, priority, fields):
        raise structlog.DropEvent
    return f"<{priority}>{line}"


def _stderr_is_journal() -> bool:
    """Whether stderr is the very stream that systemd connected to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    stream = _stderr()
    if stream is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed since, or replaced by an object without a descriptor
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _stderr() -> TextIO | None:
    """Where stderr leads now; None when the program was started with it closed."""
    return sys.stderr


_stderr_lock = threading.Lock()


class _StderrLogger:
    """Writes whole lines to what stderr is now; a stderr that is gone costs the line and nothing else."""

    def __init__(self, *_args: object) -> None:
        pass

    def msg(self, line: str) -> None:
        stream = _stderr()
        # There is nowhere to say that there is nowhere to write.
        with _stderr_lock, suppress(OSError, ValueError):
            if stream:
                stream.write(line + "\n")
                stream.flush()

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


class _Forward(logging.Handler):
    """Hands the records of the standard library's logging to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        get_logger(record.name).log(record.levelno, record.getMessage(), exc_info=record.exc_info)
