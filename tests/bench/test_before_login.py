# SPDX-License-Identifier: Apache-2.0
"""What the console costs before anybody logs in, beside Debian's agetty in the same run.

No time is asserted: a busy machine is no fault. The table is for people to read.
"""

import grp
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

IDLE = 5.0  # seconds for which an idle process is watched
PATIENCE = 60.0  # seconds until a prompt is given up
PROMPT = b"login:"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one program takes until its prompt and while nobody types."""

    prompt: float  # seconds from exec to the prompt
    resident: int  # KiB, shared pages counted in full (VmRSS)
    proportional: int  # KiB, shared pages divided among those who share them (Pss)
    wakeups: int  # times it gave up the processor by itself within IDLE, in all threads


def measure(name: str, command: list[str | Path], master: int) -> Cost:
    """Start a program, wait for its prompt on the pty, watch it while nobody types, end it."""
    begin = time.monotonic()
    process = subprocess.Popen(  # noqa: S603  # the two programs that are compared
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        said = until_prompt(master, process)
        prompt = time.monotonic() - begin
        if PROMPT not in said:
            process.kill()
            pytest.fail(f"{name} gave no prompt, but {said!r} and {process.communicate()[1]!r}", pytrace=False)
        proc = Path("/proc") / str(process.pid)
        settle(proc)
        before = switches(proc)
        time.sleep(IDLE)  # the span that is measured
        return Cost(
            prompt=prompt,
            resident=kibibytes(proc / "status", "VmRSS"),
            proportional=kibibytes(proc / "smaps_rollup", "Pss"),
            wakeups=switches(proc) - before,
        )
    finally:
        process.kill()
        process.communicate(timeout=10)


def until_prompt(master: int, process: subprocess.Popen[bytes]) -> bytes:
    """What the program wrote up to its prompt; all it wrote if it ended or gave none."""
    said = b""
    deadline = time.monotonic() + PATIENCE
    while PROMPT not in said and process.poll() is None and time.monotonic() < deadline:
        if select.select([master], [], [], 0.5)[0]:
            said += os.read(master, 4096)
    return said


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
    return sum(kibibytes(task / "status", "voluntary_ctxt_switches") for task in (proc / "task").iterdir())


def kibibytes(file: Path, key: str) -> int:
    """One number of /proc/PID/status or smaps_rollup; proc(5)."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


@contextmanager
def terminal() -> Iterator[tuple[int, str]]:
    """A pty: the descriptor of our side, the path of the other."""
    master, slave = pty.openpty()
    try:
        yield master, os.ttyname(slave)
    finally:
        os.close(slave)
        os.close(master)


def agetty(port: str) -> list[str | Path]:
    """Debian's getty on a line without modem control."""
    return ["agetty", "--noclear", "--local-line", "115200", port.removeprefix("/dev/"), "vt100"]


def console(port: str, folder: Path) -> list[str | Path]:
    """Our daemon as systemd starts it, with its files in a folder of its own."""
    config = folder / "console.toml"
    config.write_text(
        f'state = "{folder / "state"}"\n[line]\nport = "{port}"\n[network]\nsocket = "{folder / "lunash.sock"}"\n'
        f'group = "{grp.getgrgid(os.getgid()).gr_name}"\n'
    )
    return [Path(sys.executable).with_name("appliance-console"), "run", "--config", config]


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
        theirs = measure("agetty", agetty(port), master)
    with terminal() as (master, port):
        ours = measure("appliance-console", console(port, tmp_path), master)

    with capsys.disabled():
        print(f"\n{table(ours, theirs)}")
