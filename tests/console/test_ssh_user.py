# SPDX-License-Identifier: Apache-2.0
"""Users that `appliance-console ssh-user add` sets up, with real accounts and a real OpenSSH server.

The tests are in `under_own_etc_*.py`; this file runs them where /etc is their own, so that this machine gets no user.
"""

import sys

import pytest

from tests.support import own_etc, sshd
from tests.support.child_pytest import pytest_passes


@pytest.mark.parametrize("what", ["add", "confined"])
def test_users(what: str) -> None:
    """They are set up as they should be, and reach lunash and nothing else."""
    if reason := sshd.why_not() or own_etc.why_not():
        pytest.skip(reason)
    pytest_passes(*own_etc.own_system(), sys.executable, "-m", "pytest", f"tests/console/under_own_etc_{what}.py")
