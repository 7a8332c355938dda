# SPDX-License-Identifier: Apache-2.0
"""A Debian of the test's own: this machine's files under a layer that takes every change and is thrown away.

It has what is installed here and nothing that runs: no service manager, no udevd. In their place stand programs that
write down how they are called, so that a maintainer script can be told that they are there.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.support.debian_package import BOUND, ENVIRONMENT

_LAYER = """
set -e
mount -t tmpfs tmpfs "$0"
mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" "$0/root"
mount -t tmpfs tmpfs "$0/root/run"
mount -t proc proc "$0/root/proc"
mount --bind /dev "$0/root/dev"
rm -f "$0/root/var/lib/man-db/auto-update"  # the index of all manuals takes longer than all the rest
echo mounted
exec cat
"""
# A unit is active when there is a file of its name in /run.
_RECORDER = '#!/bin/sh\necho "${0##*/} $*" >>/run/calls\n[ "$1" != is-active ] || [ -e "/run/$3" ]\n'
_RECORDED = ("systemctl", "deb-systemd-invoke", "udevadm")
# What every package manager and every change to accounts leaves behind.
_KEPT = ("var/lib/dpkg", "var/log", "var/cache", "var/lib/systemd/catalog", "run", "tmp", "root", "etc/.pwd.lock")


class Machine:
    """The machine; its files can be read and written below `root`, from outside."""

    def __init__(self, process: int, folder: Path) -> None:
        self.root = Path(f"/proc/{process}/root") / folder.relative_to("/") / "root"
        self._upper = self.root.with_name("upper")
        self._enter = ("nsenter", f"--target={process}", "--mount", "chroot", folder / "root")

    @classmethod
    @contextmanager
    def start(cls, folder: Path) -> Iterator[Self]:
        """Make a machine in this empty folder, until the end of the block."""
        if os.getuid():
            pytest.skip("needs root")
        command: list[str | Path] = ["unshare", "--mount", "sh", "-c", _LAYER, folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:  # noqa: S603  # fixed
            assert holder.stdin is not None
            assert holder.stdout is not None
            if holder.stdout.readline() != "mounted\n":
                pytest.skip("needs the right to mount a layer over the machine's files")
            try:
                yield cls(holder.pid, folder)
            finally:
                holder.stdin.close()

    def run(self, *command: str | Path, **environment: str) -> str:
        """What a command says. Raises `AssertionError` with it when the command fails."""
        result = self.call(*command, **environment)
        assert result.returncode == 0, f"{command}\n{result.stdout}"
        return result.stdout

    def call(self, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """How a command ends, and what it says on stdout and stderr."""
        return subprocess.run(  # noqa: S603  # what the test says, in the test's own layer
            [*self._enter, *command],
            env={**ENVIRONMENT, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BOUND,
            check=False,
        )

    def dpkg(self, *arguments: str, booted: bool = False, **environment: str) -> str:
        """Run dpkg; `booted`: as if systemd and udevd were running here."""
        if booted:
            self._pretend_to_be_booted()
            environment["PATH"] = f"/run/recorders:{ENVIRONMENT['PATH']}"
        return self.run("dpkg", *arguments, **environment)

    def install(self, package: Path, *, booted: bool = False) -> None:
        """Install a package of the outside; a configuration file that was edited stays as it is."""
        shutil.copy(package, self.root / "run/package.deb")
        self.dpkg("--force-confold", "--install", "/run/package.deb", booted=booted)

    def calls(self) -> list[str]:
        """How systemctl and the others were called so far."""
        path = self.root / "run/calls"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def added(self) -> set[str]:
        """Every file and folder that is here and was not at the start."""
        found = set()
        for path in self._upper.rglob("*"):
            name = path.relative_to(self._upper)
            kept = any(name.is_relative_to(folder) for folder in _KEPT)
            if not kept and not path.is_char_device() and not os.path.lexists(Path("/") / name):  # a device: removed
                found.add(str(name))
        return found

    def _pretend_to_be_booted(self) -> None:
        run = self.root / "run"
        if (run / "recorders").exists():
            return
        (run / "systemd/system").mkdir(parents=True)
        (run / "udev").mkdir()
        with socket.socket(socket.AF_UNIX) as control:
            control.bind(str(run / "udev/control"))
        (run / "recorders").mkdir()
        for name in _RECORDED:
            recorder = run / "recorders" / name
            recorder.write_text(_RECORDER)
            recorder.chmod(0o755)
