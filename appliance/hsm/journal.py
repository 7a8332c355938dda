# SPDX-License-Identifier: Apache-2.0
"""A factory reset that was begun and whose outcome is not recorded stands on disk, whatever happens.

The file holds one JSON object and is replaced as a whole. `begin` returns only when the intent is durable, so that no
destructive byte is sent before; the intent leaves the file with `finish` and in no other way.
"""

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Self

from appliance.errors import StateError
from appliance.files import write_atomically
from appliance.hsm.model import HsmClass, Intent

_VERSION = 1
_KEYS = {field.name for field in fields(Intent)}


class Journal:
    """The unfinished factory resets of one state folder. Every method may be called from any thread."""

    def __init__(self, path: Path, intents: Iterable[Intent] = ()) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._intents = tuple(intents)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The journal in the file `path`; no file means that nothing is unfinished.

        Raises `StateError` when the file cannot be read or is not what this class writes.
        """
        try:
            return cls(path, _parse(path.read_bytes()))
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            raise StateError(path, f"cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise StateError(path, f"is damaged: {error}") from error

    def pending(self) -> tuple[Intent, ...]:
        """All unfinished intents, the oldest first."""
        return self._intents

    def begin(self, intent: Intent) -> None:
        """Record the intent, durable on return; one of the same device is replaced. Raises `StateError`."""
        with self._lock:
            self._replace((*self._without(intent.serial, intent.family), intent))

    def finish(self, serial: str, family: str) -> None:
        """Strike the intent of this device out, durable on return. Raises `StateError`."""
        with self._lock:
            self._replace(self._without(serial, family))

    def _without(self, serial: str, family: str) -> tuple[Intent, ...]:
        return tuple(intent for intent in self._intents if (intent.serial, intent.family) != (serial, family))

    def _replace(self, intents: tuple[Intent, ...]) -> None:
        content = {"version": _VERSION, "intents": [asdict(intent) for intent in intents]}
        write_atomically(self._path, json.dumps(content, indent=1).encode("ascii") + b"\n", 0o600)
        self._intents = intents


class NoJournal(Journal):
    """Stands in for a journal that could not be opened: nothing is known to be unfinished, nothing can be begun."""

    def __init__(self, reason: str) -> None:
        super().__init__(Path("pending.json"))
        self._reason = reason

    def begin(self, intent: Intent) -> None:
        """Refuse. Raises `StateError`."""
        raise StateError(self._path, self._reason)

    def finish(self, serial: str, family: str) -> None:
        """Refuse. Raises `StateError`."""
        raise StateError(self._path, self._reason)


def _parse(data: bytes) -> list[Intent]:
    """The intents in the content of a journal file. Raises `ValueError` when it is anything else."""
    match json.loads(data):
        case {"version": 1, "intents": list(records), **rest} if not rest:
            return [_intent(record) for record in records]
    raise ValueError("it is not a journal of this version")


def _intent(record: object) -> Intent:
    if not isinstance(record, dict) or record.keys() != _KEYS:
        raise ValueError(f"an intent must have the keys {', '.join(sorted(_KEYS))}")
    if not all(isinstance(value, str) for value in record.values()):
        raise ValueError("the values of an intent must be strings")
    return Intent(**{**record, "hsm_class": HsmClass(record["hsm_class"])})
