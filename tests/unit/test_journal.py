# SPDX-License-Identifier: Apache-2.0
"""An unfinished reset stands on disk until it is struck out, and a journal that cannot be believed is not used."""

import json
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import StateError
from appliance.hsm.journal import Journal, NoJournal
from appliance.hsm.model import HsmClass, Intent

ONE = Intent("A1", "fake", HsmClass.BACKUP, "f055:0001", "USB 1", "2026-01-30T11:24:00+00:00", "admin", "Console")
TWO = replace(ONE, serial="B2")
SAME_SERIAL = replace(ONE, family="other")
AGAIN = replace(ONE, begun="2026-01-31T00:00:00+00:00")


def test_nothing_is_unfinished_at_first(tmp_path: Path) -> None:
    """Without a file there is nothing pending, and opening writes none."""
    assert Journal.open(tmp_path / "pending.json").pending() == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("begun", "finished", "pending"),
    [
        ([ONE], [], [ONE]),
        ([ONE, TWO], [], [ONE, TWO]),
        ([ONE, TWO], [ONE], [TWO]),
        ([ONE, SAME_SERIAL], [ONE], [SAME_SERIAL]),
        ([ONE, AGAIN], [], [AGAIN]),
        ([ONE, AGAIN], [ONE], []),
        ([ONE], [TWO], [ONE]),
        ([ONE, TWO], [TWO, ONE], []),
    ],
)
def test_what_is_pending_survives(
    tmp_path: Path, begun: list[Intent], finished: list[Intent], pending: list[Intent]
) -> None:
    """One intent for each device of a family; a new process sees the same."""
    path = tmp_path / "pending.json"
    journal = Journal.open(path)
    for intent in begun:
        journal.begin(intent)
    for intent in finished:
        journal.finish(intent.serial, intent.family)

    assert list(journal.pending()) == pending
    assert list(Journal.open(path).pending()) == pending


@given(st.builds(Intent, st.text(), st.text(), st.sampled_from(HsmClass), *[st.text()] * 5))
def test_any_string_survives(tmp_path_factory: pytest.TempPathFactory, intent: Intent) -> None:
    """Strings come from devices: whatever they hold is read back as it was."""
    path = tmp_path_factory.mktemp("journal") / "pending.json"
    Journal.open(path).begin(intent)

    assert Journal.open(path).pending() == (intent,)


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    """The file tells which devices are in use."""
    path = tmp_path / "pending.json"
    Journal.open(path).begin(ONE)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\0" * 512,
        "{",
        "[]",
        "[" * 100_000,
        "null",
        '{"version": 1}',
        '{"version": 2, "intents": []}',
        '{"version": 1, "intents": {}}',
        '{"version": 1, "intents": [], "more": 1}',
        '{"version": 1, "intents": ["A1"]}',
        '{"version": 1, "intents": [{"serial": "A1"}]}',
        '{"version": 1, "intents": [{"serial": "A1", "family": 1, "usb_id": "", "usb_serial": "", "begun": "", '
        '"actor": "", "origin": ""}]}',
        '{"version": 1, "intents": [{"serial": "A1", "family": "", "usb_id": "", "usb_serial": "", "begun": "", '
        '"actor": "", "origin": "", "extra": ""}]}',
    ],
)
def test_a_damaged_journal_is_named(tmp_path: Path, content: str) -> None:
    """A file that this class cannot have written is an error that names it, and is left as it is."""
    path = tmp_path / "pending.json"
    path.write_text(content)

    with pytest.raises(StateError, match=r"pending\.json: is damaged: ") as caught:
        Journal.open(path)
    assert caught.value.path == path
    assert path.read_text() == content


def test_bytes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    """So is a file in no known encoding."""
    (tmp_path / "pending.json").write_bytes(b'{"version": "\xff\xfe\xfd"}')

    with pytest.raises(StateError, match="is damaged"):
        Journal.open(tmp_path / "pending.json")


def test_an_unreadable_journal_is_named(tmp_path: Path) -> None:
    """A path that is no file cannot be read."""
    with pytest.raises(StateError, match="cannot be read"):
        Journal.open(tmp_path)


def test_what_cannot_be_written_is_not_begun(tmp_path: Path) -> None:
    """When the disk refuses, the error says so and nothing is pending that is not on disk."""
    folder = tmp_path / "state"
    folder.mkdir()
    journal = Journal.open(folder / "pending.json")
    folder.rmdir()

    with pytest.raises(StateError):
        journal.begin(ONE)
    assert journal.pending() == ()


def test_what_cannot_be_struck_out_stays(tmp_path: Path) -> None:
    """When the disk refuses, the intent remains, in memory as on disk."""
    folder = tmp_path / "state"
    folder.mkdir()
    journal = Journal.open(folder / "pending.json")
    journal.begin(ONE)
    folder.rename(tmp_path / "moved")

    with pytest.raises(StateError):
        journal.finish(ONE.serial, ONE.family)
    assert journal.pending() == (ONE,)
    assert Journal.open(tmp_path / "moved" / "pending.json").pending() == (ONE,)


def test_resets_of_several_devices_do_not_lose_each_other(tmp_path: Path) -> None:
    """Worker threads begin and finish at the same time; each intent is kept or gone as its own thread left it."""
    journal = Journal.open(tmp_path / "pending.json")
    intents = [replace(ONE, serial=str(number)) for number in range(16)]

    def work(intent: Intent) -> None:
        journal.begin(intent)
        if int(intent.serial) % 2:
            journal.finish(intent.serial, intent.family)

    threads = [threading.Thread(target=work, args=(intent,)) for intent in intents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert {intent.serial for intent in journal.pending()} == {str(number) for number in range(0, 16, 2)}
    assert json.loads((tmp_path / "pending.json").read_text())["version"] == 1


def test_without_a_journal_nothing_begins() -> None:
    """The stand-in for a journal that could not be opened refuses with the reason."""
    journal = NoJournal("pending.json is damaged")

    assert journal.pending() == ()
    with pytest.raises(StateError, match="is damaged"):
        journal.begin(ONE)
    with pytest.raises(StateError, match="is damaged"):
        journal.finish(ONE.serial, ONE.family)
