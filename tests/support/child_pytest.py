# SPDX-License-Identifier: Apache-2.0
"""Tests of ours run in a process of their own, under another program or another Python."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

BOUND = 600  # seconds


def pytest_passes(*command: str | Path) -> None:
    """Run a pytest command; fail with what it says unless every test ran and passed."""
    environment = {**os.environ, "CI": "true"}  # nothing is skipped
    result = subprocess.run(  # noqa: S603  # our own tests
        [*command, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=environment,
        timeout=BOUND,
        text=True,
        capture_output=True,
        check=False,
    )
    if result.returncode:
        pytest.fail(f"{result.stdout}\n{result.stderr}", pytrace=False)
