# SPDX-License-Identifier: Apache-2.0
"""What is done with the built-in HSM, killed with SIGKILL: python -m tests.support.killed_builtin WHAT PRISTINE FOLDER.

``reset``: again and again, each on a copy of the state folder PRISTINE in FOLDER, one step later each time, until one
comes to its end. ``login``: once, in FOLDER itself, as the password is given to the library.
"""

import asyncio
import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

from appliance.audit import AuditLog
from appliance.hsm.attempts import Attempts
from appliance.hsm.builtin import BuiltinHsm
from appliance.hsm.drivers import builtin
from appliance.hsm.manager import Manager
from appliance.hsm.model import Secret
from appliance.hsm.pkcs11.client import Library
from appliance.log import configure
from appliance.programs import run
from tests.support.builtin_house import ADMIN, softhsm_driver
from tests.support.killed_reset import Countdown, WatchedAudit, WatchedJournal
from tests.support.luna_house import Plugs


async def reset(folder: Path, step: Countdown) -> None:
    """What the console does; a step is each of the driver's, and each side of a record and of SoftHSM's program."""

    def watched(*command: str, variables: dict[str, str]) -> str:
        step()
        said = run(*command, variables=variables)
        step()
        return said

    setattr(builtin, "run", watched)  # noqa: B010  # mypy knows no `run` there; this process ends with the reset
    journal, audit = WatchedJournal.open(folder / "pending.json"), WatchedAudit.open(folder / "audit.jsonl")
    journal.step = audit.step = step
    manager = Manager(Plugs(), [softhsm_driver(folder)], journal, audit)
    async with asyncio.timeout(60):
        await manager.start()
        await manager.settled()
        await audit.record("idle", actor="system", origin="system")  # what the arrival has to record is on disk
        step.armed = True
        await BuiltinHsm(manager, Attempts(folder / "builtin-attempts.json"), audit).factory_reset(ADMIN, step)
        step.armed = False
        await manager.stop()
    audit.close()


async def log_in(folder: Path) -> None:
    """Spend an attempt, and be killed."""
    Library.log_in = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]  # this process ends with it
    audit = AuditLog.open(folder / "audit.jsonl")
    manager = Manager(Plugs(), [softhsm_driver(folder)], WatchedJournal.open(folder / "pending.json"), audit)
    async with asyncio.timeout(60):
        await manager.start()
        await manager.settled()
        hsm = BuiltinHsm(manager, Attempts(folder / "builtin-attempts.json"), audit)
        await hsm.log_in(Secret("whatever"), ADMIN, 1)


def survived(folder: Path, steps: int | None) -> bool:
    """Whether a process of its own came to its end before that many steps of a reset; None: a login."""
    child = os.fork()
    if child == 0:
        asyncio.run(log_in(folder) if steps is None else reset(folder, Countdown(steps)))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
        sys.exit(f"step {steps}: {status}")
    return status == 0


def main(what: str, pristine: Path, folder: Path) -> None:
    """Kill at step 1, 2, 3 ... until there is no such step; or once."""
    configure("error")
    if what == "login":
        sys.exit(survived(folder, None))
    for steps in count(1):
        copy = folder / str(steps)
        shutil.copytree(pristine, copy)
        if survived(copy, steps):
            return


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
