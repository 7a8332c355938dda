# SPDX-License-Identifier: Apache-2.0
"""The same factory reset again and again, killed with SIGKILL one step later each time, until one comes to its end.

``python -m tests.support.killed_reset FAMILY FOLDER``: FOLDER holds ``pristine``, the file of a simulated token. For
each number of steps there is a folder with the token, the journal and the audit as the power cut left them. A step is
each side of each command to the card and of each record on disk. A killed process is a fork: what it needs is loaded.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from itertools import count
from pathlib import Path

from appliance.audit import AuditLog
from appliance.hsm.journal import Journal
from appliance.hsm.manager import Manager
from appliance.hsm.model import HsmClass, Intent
from appliance.hsm.reset import Report
from appliance.log import configure
from appliance.simulator.bus import FolderBus
from tests.support.families import FAMILIES, Kind

TOKEN = "a.token"  # noqa: S105  # the name of a file


class Countdown:
    """The power fails at a given step, counted from when it is armed."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self.armed = False

    def __call__(self, *_: object) -> None:
        """A step."""
        self._left -= self.armed
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class WatchedJournal(Journal):
    """A journal whose writing takes steps."""

    step: Countdown

    def begin(self, intent: Intent) -> None:
        """Before, and after."""
        self.step()
        super().begin(intent)
        self.step()

    def finish(self, serial: str, family: str) -> None:
        """Before, and after; it is the last step of a reset: the question that follows is none."""
        self.step()
        super().finish(serial, family)
        self.step()
        self.step.armed = False


class WatchedAudit(AuditLog):
    """An audit trail whose writing takes steps."""

    step: Countdown

    def append(self, event: str, *, actor: str, origin: str, **fields: str | int | bool) -> int:
        """Before, and after."""
        self.step()
        number = super().append(event, actor=actor, origin=origin, **fields)
        self.step()
        return number


async def reset(kind: Kind, folder: Path, step: Countdown) -> Report:
    """What the console does: start, find the token, reset it."""
    bus = FolderBus(folder, observe=step)
    journal, audit = WatchedJournal.open(folder / "pending.json"), WatchedAudit.open(folder / "audit.jsonl")
    journal.step = audit.step = step
    with kind.reaching(bus.backend) as driver:
        report = await watched(kind, Manager(bus, [driver], journal, audit), step)
    audit.close()
    return report


async def watched(kind: Kind, manager: Manager, step: Countdown) -> Report:
    """The steps of the reset itself count, and no others."""
    async with asyncio.timeout(60):
        await manager.start()
        await manager.settled()
        device = manager.find(kind.serial, HsmClass.BACKUP)
        step.armed = True
        report = await manager.factory_reset(
            device, actor="admin", origin="Console", progress=lambda _: None, secret=kind.secret
        )
        step.armed = False
        await manager.stop()
    return report


def survived(kind: Kind, folder: Path, steps: int) -> bool:
    """Whether a reset in a process of its own came to its end before that many steps."""
    child = os.fork()
    if child == 0:
        report = asyncio.run(reset(kind, folder, Countdown(steps)))
        print(report.outcome, flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
        sys.exit(f"step {steps}: {status}")
    return status == 0


def main(kind: Kind, root: Path) -> None:
    """Kill at step 1, 2, 3 ... until there is no such step."""
    configure("error")
    tempfile.tempdir = str(root)  # what the killed leave behind is the caller's
    kind.prepare()
    for steps in count(1):
        folder = root / str(steps)
        folder.mkdir()
        shutil.copy(root / "pristine", folder / TOKEN)
        if survived(kind, folder, steps):
            return


if __name__ == "__main__":
    main(FAMILIES[sys.argv[1]], Path(sys.argv[2]))
