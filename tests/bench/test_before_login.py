# SPDX-License-Identifier: Apache-2.0
"""What the console costs before anybody logs in, beside Debian's agetty in the same run.

No time is asserted: a busy machine is no fault. The table is for people to read.
"""

import compileall
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import appliance
from tests.support.pty_child import console, read_until, running, terminal

PROMPT = b"login:"
IDLE = 5.0  # seconds for which an idle process is watched


@dataclass(frozen=True, slots=True)
class Cost:
    """What one program takes until its prompt and while nobody types."""

    prompt: float  # seconds from exec to the prompt
    resident: int  # KiB, shared pages counted in full (VmRSS)
    proportional: int  # KiB, shared pages divided among those who share them (Pss)
    wakeups: int  # times it gave up the processor by itself within IDLE, in all threads


def measure(command: Sequence[str | Path], master: int) -> Cost:
    """Start a program, wait for its prompt on the pty, watch it while nobody types, end it."""
    begin = time.monotonic()
    with running(command) as process:
        read_until(master, PROMPT, process)
        prompt = time.monotonic() - begin
        proc = Path("/proc") / str(process.pid)
        settle(proc)
        before = switches(proc)
        time.sleep(IDLE)  # the span that is measured
        return Cost(
            prompt=prompt,
            resident=number(proc / "status", "VmRSS"),
            proportional=number(proc / "smaps_rollup", "Pss"),
            wakeups=switches(proc) - before,
        )


def settle(proc: Path) -> None:
    """Wait, bounded, for a second without a wake-up: what is begun before the prompt may end after it."""
    before = -1
    for _ in range(10):
        now = switches(proc)
        if now == before:
            return
        before = now
        time.sleep(1)


def switches(proc: Path) -> int:
    """How often the threads of a process gave up the processor by themselves."""
    return sum(number(task / "status", "voluntary_ctxt_switches") for task in (proc / "task").iterdir())


def number(file: Path, key: str) -> int:
    """One number of /proc/PID/status or smaps_rollup; proc(5)."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


def agetty(port: str) -> list[str | Path]:
    """Debian's getty on a line without modem control."""
    return ["agetty", "--noclear", "--local-line", "115200", port.removeprefix("/dev/"), "vt100"]


def table(ours: Cost, theirs: Cost) -> str:
    """Both costs side by side, and the ratio where there is one."""
    rows = [f"{'':32}{'agetty':>10}{'console':>10}{'ratio':>8}"]
    for title, key in (
        ("prompt after exec, s", "prompt"),
        ("resident (VmRSS), KiB", "resident"),
        ("proportional (Pss), KiB", "proportional"),
        (f"wake-ups in {IDLE:.0f} s idle", "wakeups"),
    ):
        their, our = getattr(theirs, key), getattr(ours, key)
        shown = "{:10.3f}" if isinstance(our, float) else "{:10}"
        rows.append(
            f"{title:32}{shown.format(their)}{shown.format(our)}{f'{our / their:8.2f}' if their else '       -'}"
        )
    return "\n".join([*rows, "agetty waits 1 s before its prompt, by design."])


@pytest.mark.skipif(not shutil.which("agetty"), reason="agetty is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="agetty opens a terminal for root only")
def test_both_reach_their_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """agetty and the console each give a login prompt on a pty; what that took is printed."""
    with terminal() as (master, port):
        theirs = measure(agetty(port), master)
    compileall.compile_dir(Path(appliance.__file__).parent, quiet=1)  # as pip leaves an installed package
    with terminal() as (master, port), running(console(port, tmp_path)) as process:
        read_until(master, PROMPT, process)  # the very first start makes the account file, with a slow verifier
    with terminal() as (master, port):
        ours = measure(console(port, tmp_path), master)

    with capsys.disabled():
        print(f"\n{table(ours, theirs)}")
