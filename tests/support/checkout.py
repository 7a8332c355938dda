# SPDX-License-Identifier: Apache-2.0
"""The files that belong to the project are those that git knows, whoever owns the checkout."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def tracked_files() -> Iterator[Path]:
    """Every file of the project that is there, as it is now."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603  # git, fixed
    if result.returncode:
        pytest.skip(f"git knows no files here: {result.stderr.strip()}")
    yield from (ROOT / name for name in result.stdout.split("\0") if name and (ROOT / name).is_file())
