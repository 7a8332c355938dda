# SPDX-License-Identifier: Apache-2.0
"""A program runs on a pty as on a serial port, and ends with the test."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE = 60.0  # seconds; a bound for a machine that is busy, not a wait


@contextmanager
def terminal() -> Iterator[tuple[int, str]]:
    """A pty: the descriptor of our side, the path of the other."""
    master, slave = pty.openpty()
    try:
        yield master, os.ttyname(slave)
    finally:
        os.close(slave)
        os.close(master)


@contextmanager
def running(command: Sequence[str | Path]) -> Iterator[subprocess.Popen[bytes]]:
    """The program, in a session of its own; it is killed at the end. What it says on stderr, the test says."""
    process = subprocess.Popen(  # noqa: S603  # the program that is tested
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)


def read_until(master: int, text: bytes, process: subprocess.Popen[bytes]) -> None:
    """Read what the program writes up to `text`; fail if it ends before that or is silent for too long."""
    said = b""
    deadline = time.monotonic() + PATIENCE
    while text not in said:
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{process.args!r} did not say {text!r}, but {said!r}")
        if select.select([master], [], [], 0.5)[0]:
            said += os.read(master, 4096)


def console(port: str, folder: Path) -> list[str | Path]:
    """Our daemon as systemd starts it, on this port, with its files in this folder and without the network door."""
    config = folder / "console.toml"
    config.write_text(f'state = "{folder / "state"}"\n[line]\nport = "{port}"\n[network]\nenabled = false\n')
    return [Path(sys.executable).with_name("appliance-console"), "run", "--config", config]
