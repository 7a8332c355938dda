# SPDX-License-Identifier: Apache-2.0
"""Whenever the process dies in a reset, the next one knows of it, and the same command completes it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.audit import AuditLog, verify
from appliance.hsm.drivers import families
from appliance.hsm.journal import Journal
from appliance.hsm.manager import Manager
from appliance.hsm.model import Device, HsmClass, HsmState, Outcome
from appliance.hsm.usb import UsbBus
from appliance.simulator.bus import FolderBus
from appliance.simulator.families import new_token
from appliance.simulator.openpgp_flash import OpenPgpFlash
from tests.support.killed_reset import SERIAL, TOKEN
from tests.support.tokens import openpgp

ROOT = Path(__file__).resolve().parent.parent.parent
BOUND = 300.0  # seconds


@pytest.fixture(scope="module")
def ruins(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What each power cut left, one folder for each step of a reset; the last one was spared."""
    root = tmp_path_factory.mktemp("ruins")
    new_token(root / "pristine", SERIAL, 2)
    command = [sys.executable, "-m", "tests.support.killed_reset", str(root)]
    result = subprocess.run(command, cwd=ROOT, timeout=BOUND, text=True, capture_output=True, check=False)  # noqa: S603  # ours
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
    return sorted((folder for folder in root.iterdir() if folder.is_dir()), key=lambda folder: int(folder.name))


def flash(folder: Path) -> OpenPgpFlash:
    """What the token remembers."""
    return openpgp((folder / TOKEN).read_bytes())


def pristine(folder: Path) -> OpenPgpFlash:
    """What it remembered before."""
    return openpgp((folder.parent / "pristine").read_bytes())


def events(folder: Path) -> Iterator[str]:
    """The resets in the audit."""
    for line in (folder / "audit.jsonl").read_text().splitlines():
        record = json.loads(line)
        if str(record["event"]).startswith("reset-"):
            yield str(record.get("outcome", "intent"))


def test_the_steps_are_many(ruins: list[Path]) -> None:
    """The commands to the card and the records are all among them."""
    assert len(ruins) > 40


def test_nothing_was_destroyed_unrecorded(ruins: list[Path]) -> None:
    """Where the token is not as it was, the intent is on disk, in the journal and in the audit, or the outcome is."""
    touched = [folder for folder in ruins if flash(folder) != pristine(folder)]
    assert 10 < len(touched) < len(ruins)

    for folder in touched:
        pending = [intent.serial for intent in Journal.open(folder / "pending.json").pending()]
        recorded = list(events(folder))
        assert (pending, recorded) in (
            ([SERIAL], ["intent"]),
            ([SERIAL], ["intent", "done"]),  # the journal is struck out last
            ([], ["intent", "done"]),
        ), folder.name


def test_every_power_cut_leaves_a_sound_audit(ruins: list[Path]) -> None:
    """What was recorded can be verified, up to the step."""
    for folder in ruins:
        AuditLog.open(folder / "audit.jsonl").close()  # sets a torn tail aside, as the next start does
        assert verify(folder / "audit.jsonl").ok, folder.name


async def complete(folder: Path) -> tuple[Device, Device]:
    """Start anew on what was left and reset the token; what was shown before and after."""
    bus = FolderBus(folder)
    audit = AuditLog.open(folder / "audit.jsonl")
    manager = Manager(bus, families(UsbBus(bus.backend)), Journal.open(folder / "pending.json"), audit)
    async with asyncio.timeout(BOUND):
        await manager.start()
        await manager.settled()
        before = manager.find(SERIAL, HsmClass.BACKUP)
        report = await manager.factory_reset(before, actor="admin", origin="Console", progress=lambda _: None)
        await manager.settled()
        after = manager.find(SERIAL, HsmClass.BACKUP)
        await manager.stop()
    audit.close()
    assert report.outcome is Outcome.DONE, (folder.name, report)
    return before, after


async def test_the_same_command_completes_it(ruins: list[Path]) -> None:
    """The next process shows the interrupted reset, and running the command again ends in factory state."""
    seen: set[tuple[HsmState, bool]] = set()
    for folder in ruins:
        unfinished = bool(Journal.open(folder / "pending.json").pending())
        before, after = await complete(folder)
        seen.add((before.state, unfinished))

        assert (before.interrupted is not None) == unfinished, folder.name
        assert (after.state, after.interrupted) == (HsmState.ZEROIZED, None), folder.name
        assert (flash(folder).keys, Journal.open(folder / "pending.json").pending()) == ({}, ()), folder.name

    assert seen == {
        (HsmState.INITIALIZED, False),
        (HsmState.INITIALIZED, True),
        (HsmState.TERMINATED, True),
        (HsmState.ZEROIZED, True),
        (HsmState.ZEROIZED, False),
    }
