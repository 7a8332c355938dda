# SPDX-License-Identifier: Apache-2.0
"""Users that `appliance-console ssh-user add` sets up, with real accounts and a real OpenSSH server.

The tests are in `under_own_etc_*.py`; this file runs them where /etc is their own, so that this machine gets no user.
"""

import os
import subprocess
import sys

import pytest

from tests.support import own_etc, sshd

BOUND = 300  # seconds


@pytest.mark.parametrize("what", ["add", "confined"])
def test_users(what: str) -> None:
    """They are set up as they should be, and reach lunash and nothing else."""
    if reason := sshd.why_not() or own_etc.why_not():
        pytest.skip(reason)
    command = [*own_etc.own_system(), sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    result = subprocess.run(  # noqa: S603  # our own tests
        [*command, f"tests/console/under_own_etc_{what}.py"],
        cwd=own_etc.ROOT,
        env={**os.environ, "CI": "true"},  # nothing is skipped
        timeout=BOUND,
        text=True,
        capture_output=True,
        check=False,
    )
    if result.returncode:
        pytest.fail(f"{result.stdout}\n{result.stderr}", pytrace=False)
