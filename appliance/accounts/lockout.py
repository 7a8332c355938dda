# SPDX-License-Identifier: Apache-2.0
"""Failed logins cost more and more time, but never the console: the pause has a limit, and it always ends."""

from dataclasses import dataclass

QUICK_FAILURES = 3  # a slip of the finger
QUICK_PAUSE = 1.0  # seconds
LONGEST_PAUSE = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Backoff:
    """The failures since the last success, and when the last of them was (seconds of the caller's clock)."""

    failures: int = 0
    last: float = 0.0

    def failed(self, now: float) -> "Backoff":
        return Backoff(self.failures + 1, now)

    def succeeded(self) -> "Backoff":
        return Backoff()

    @property
    def pause(self) -> float:
        """How long nobody may try after the last failure: 1 s for the first three, then 2, 4, 8 ... up to 60 s."""
        if self.failures == 0:
            return 0.0
        doublings = min(max(0, self.failures - QUICK_FAILURES), 10)  # 2**10 s is beyond the limit
        return min(QUICK_PAUSE * 2.0**doublings, LONGEST_PAUSE)

    def delay(self, now: float) -> float:
        """How long to wait from `now` on. A clock that was set back costs one pause, not the time it went back."""
        return min(self.pause, max(0.0, self.last + self.pause - now))
