# SPDX-License-Identifier: Apache-2.0
"""The pause after failed logins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.accounts.lockout import LONGEST_PAUSE, Backoff

NOON = 1_700_000_000.0


def failed(times: int, now: float = NOON) -> Backoff:
    backoff = Backoff()
    for _ in range(times):
        backoff = backoff.failed(now)
    return backoff


@pytest.mark.parametrize(
    ("failures", "pause"),
    [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (5, 4), (6, 8), (7, 16), (8, 32), (9, 60), (10, 60), (1_000_000, 60)],
)
def test_the_pause_doubles_up_to_a_limit(failures: int, pause: float) -> None:
    """Three quick failures cost a second each, each further one doubles the pause, up to a minute."""
    assert Backoff(failures, NOON).pause == pause


def test_without_a_failure_nobody_waits() -> None:
    """The first try is free, whatever the clock says."""
    assert [Backoff().delay(now) for now in (0.0, NOON, -NOON)] == [0.0, 0.0, 0.0]


def test_the_pause_runs_from_the_last_failure() -> None:
    """Time that passed since the last failure counts."""
    backoff = failed(6)

    assert [backoff.delay(NOON + passed) for passed in (0, 3, 8, 9, 1e9)] == [8, 5, 0, 0, 0]


def test_a_success_forgets_the_failures() -> None:
    """After a success the next failure is the first again."""
    assert failed(20).succeeded() == Backoff()
    assert failed(20).succeeded().failed(NOON).pause == 1


@pytest.mark.parametrize("back", [1, 3600, 1e9])
def test_a_clock_that_was_set_back_costs_one_pause(back: float) -> None:
    """A clock that was set back does not lengthen the pause."""
    assert failed(6).delay(NOON - back) == 8


@given(
    failures=st.integers(0, 10**9),
    last=st.floats(allow_nan=True, allow_infinity=True),
    now=st.floats(allow_nan=False, allow_infinity=False),
)
def test_the_pause_is_never_for_good(failures: int, last: float, now: float) -> None:
    """Whatever was kept and whatever the clock says, nobody waits longer than the limit."""
    assert 0.0 <= Backoff(failures, last).delay(now) <= LONGEST_PAUSE
