# SPDX-License-Identifier: Apache-2.0
"""The lines typed in one session, oldest first: bounded, and never the same line twice in a row."""

from collections import deque

LIMIT = 100  # lines


class History:
    """What the history keys go through; it ends with the session and is written nowhere."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._lines: deque[str] = deque(maxlen=limit)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, place: int) -> str:
        return self._lines[place]

    def add(self, line: str) -> None:
        """Remember `line`, unless it is blank or what was remembered last."""
        if line.strip() and (not self._lines or self._lines[-1] != line):
            self._lines.append(line)

    def search(self, part: str, before: int) -> int | None:
        """The place of the youngest line before the place `before` that contains `part`, if there is one."""
        return next((place for place in range(before - 1, -1, -1) if part in self._lines[place]), None)
