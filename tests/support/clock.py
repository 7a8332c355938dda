# SPDX-License-Identifier: Apache-2.0
"""The clock of a test's loop, which need not be waited for."""

import asyncio


def let_time_pass(seconds: float) -> None:
    """Make it later by so much, for all that waits on the running loop."""
    loop = asyncio.get_running_loop()
    clock = loop.time
    loop.time = lambda: clock() + seconds  # type: ignore[method-assign]  # the test's own loop, which ends with it
