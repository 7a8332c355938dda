# SPDX-License-Identifier: Apache-2.0
"""The Debian package is built from the files of the project, with the tools of Debian alone."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.checkout import ROOT, tracked_files

# The programs of Debian, whatever else the machine has first in its path; the same language everywhere.
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
BUILD = ("dpkg-buildpackage", "-b", "-us", "-uc")  # as README says
BOUND = 900  # seconds


def build(folder: Path, *, umask: int = 0o022, **environment: str) -> Path:
    """Build the package of the project as it is now; the new `folder` holds the copy that it is made of, and the .deb.

    Raises `AssertionError` with what the tools said when it cannot be built.
    """
    source = folder / "source"
    for path in tracked_files():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copy.chmod((path.stat().st_mode & 0o777) & ~umask)
    run(*BUILD, folder=source, umask=umask, **environment)
    (package,) = folder.glob("*.deb")
    return package


def altered(package: Path, folder: Path, version: str, path: str, text: str) -> Path:
    """A later package: it has this version, and this text at the end of one of its files."""
    tree = folder / "tree"
    run("dpkg-deb", "--raw-extract", package, tree)
    control = tree / "DEBIAN/control"
    lines = control.read_text(encoding="utf-8").splitlines()
    control.write_text(
        "".join(f"Version: {version}\n" if line.startswith("Version: ") else f"{line}\n" for line in lines)
    )
    with (tree / path).open("a", encoding="utf-8") as file:
        file.write(text)
    later = folder / "later.deb"
    run("dpkg-deb", "--root-owner-group", "--build", tree, later)
    return later


def run(*command: str | Path, folder: Path | None = None, umask: int = -1, **environment: str) -> str:
    """What a program of Debian says on stdout. Raises `AssertionError` with all that it said when it fails."""
    result = subprocess.run(  # noqa: S603  # a program of Debian, on files of ours
        command,
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        umask=umask,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    if result.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}")
    return result.stdout
