# SPDX-License-Identifier: Apache-2.0
"""Whenever the process dies in a reset, the next one knows of it, and the same command completes it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.audit import AuditLog, verify
from appliance.hsm.journal import Journal
from appliance.hsm.manager import Manager
from appliance.hsm.model import Device, HsmClass, HsmState, Outcome
from appliance.hsm.reset import Report
from appliance.simulator.bus import FolderBus
from appliance.simulator.families import load, new_token
from tests.support.families import FAMILIES, Kind
from tests.support.killed_reset import TOKEN

ROOT = Path(__file__).resolve().parent.parent.parent
BOUND = 300.0  # seconds


# What the next process finds, and whether it knows of a reset that was begun.
STATES = {
    (HsmState.INITIALIZED, False),
    (HsmState.INITIALIZED, True),
    (HsmState.ZEROIZED, True),
    (HsmState.ZEROIZED, False),
}
HALF_DONE = {"openpgp": {(HsmState.TERMINATED, True)}}  # of the families whose reset has two halves


@dataclass(frozen=True)
class Ruins:
    """What each power cut left, one folder for each step of a reset; the last one was spared."""

    kind: Kind
    folders: list[Path]


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=list(FAMILIES))
def ruins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ruins:
    """Of a token with two keys."""
    kind: Kind = request.param
    root = tmp_path_factory.mktemp("ruins")
    new_token(root / "pristine", kind.serial, 2, kind.simulator.name)
    command = [sys.executable, "-m", "tests.support.killed_reset", kind.driver.family, str(root)]
    result = subprocess.run(command, cwd=ROOT, timeout=BOUND, text=True, capture_output=True, check=False)  # noqa: S603  # ours
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
    folders = (folder for folder in root.iterdir() if folder.name.isdecimal())
    return Ruins(kind, sorted(folders, key=lambda folder: int(folder.name)))


def flash(folder: Path) -> Any:
    """What the token remembers, as its family keeps it."""
    return load((folder / TOKEN).read_bytes())


def pristine(folder: Path) -> Any:
    """What it remembered before."""
    return load((folder.parent / "pristine").read_bytes())


def events(folder: Path) -> Iterator[str]:
    """The resets in the audit."""
    for line in (folder / "audit.jsonl").read_text().splitlines():
        record = json.loads(line)
        if str(record["event"]).startswith("reset-"):
            yield str(record.get("outcome", "intent"))


def test_the_steps_are_many(ruins: Ruins) -> None:
    """The commands to the card and the records are all among them."""
    assert len(ruins.folders) > 2 * 2 * ruins.kind.commands


def test_nothing_was_destroyed_unrecorded(ruins: Ruins) -> None:
    """Where the token is not as it was, the intent is on disk, in the journal and in the audit, or the outcome is."""
    touched = [folder for folder in ruins.folders if flash(folder) != pristine(folder)]
    serial = ruins.kind.serial
    assert 10 <= len(touched) < len(ruins.folders)

    for folder in touched:
        pending = [intent.serial for intent in Journal.open(folder / "pending.json").pending()]
        recorded = list(events(folder))
        assert (pending, recorded) in (
            ([serial], ["intent"]),
            ([serial], ["intent", "done"]),  # the journal is struck out last
            ([], ["intent", "done"]),
        ), folder.name


def test_every_power_cut_leaves_a_sound_audit(ruins: Ruins) -> None:
    """What was recorded can be verified, up to the step."""
    for folder in ruins.folders:
        AuditLog.open(folder / "audit.jsonl").close()  # sets a torn tail aside, as the next start does
        assert verify(folder / "audit.jsonl").ok, folder.name


async def complete(kind: Kind, folder: Path) -> tuple[Device, Device]:
    """Start anew on what was left and reset the token; what was shown before and after."""
    bus = FolderBus(folder)
    audit = AuditLog.open(folder / "audit.jsonl")
    journal = Journal.open(folder / "pending.json")
    with kind.reaching(bus.backend) as driver:
        before, report, after = await again(kind, Manager(bus, [driver], journal, audit))
    audit.close()
    assert report.outcome is Outcome.DONE, (folder.name, report)
    return before, after


async def again(kind: Kind, manager: Manager) -> tuple[Device, Report, Device]:
    """What another reset comes to, and what was shown before and after."""
    async with asyncio.timeout(BOUND):
        await manager.start()
        await manager.settled()
        before = manager.find(kind.serial, HsmClass.BACKUP)
        report = await manager.factory_reset(
            before, actor="admin", origin="Console", progress=lambda _: None, secret=kind.secret
        )
        await manager.settled()
        after = manager.find(kind.serial, HsmClass.BACKUP)
        await manager.stop()
    return before, report, after


async def test_the_same_command_completes_it(ruins: Ruins) -> None:
    """The next process shows the interrupted reset, and running the command again ends in factory state."""
    seen: set[tuple[HsmState, bool]] = set()
    for folder in ruins.folders:
        unfinished = bool(Journal.open(folder / "pending.json").pending())
        before, after = await complete(ruins.kind, folder)
        seen.add((before.state, unfinished))

        assert (before.interrupted is not None) == unfinished, folder.name
        assert (after.state, after.interrupted) == (HsmState.ZEROIZED, None), folder.name
        assert (flash(folder).keys, Journal.open(folder / "pending.json").pending()) == ({}, ()), folder.name

    assert seen == {*STATES, *HALF_DONE.get(ruins.kind.driver.family, set())}
