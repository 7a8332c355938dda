# SPDX-License-Identifier: Apache-2.0
"""One LunaSH session: read, run, print the result line."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol


class Origin(Enum):
    """The door a session came through; decided once, there, and carried as a value.

    Only `console/getty.py` makes `LOCAL_CONSOLE` and only `console/door.py` makes `NETWORK`. Nothing converts one
    into the other.
    """

    LOCAL_CONSOLE = "local console"
    NETWORK = "network"


Completer = Callable[[str], Sequence[str]]  # what stands left of the cursor -> the whole words that can end it


class Terminal(Protocol):
    """What the shell needs of a terminal; `console/terminal.py` provides it. Raises `Hangup` from both methods."""

    async def write(self, text: str) -> None:
        """Show text; ``\\n`` becomes CR LF."""

    async def readline(
        self, prompt: str, *, secret: bool = False, history: bool = False, complete: Completer | None = None
    ) -> str:
        """Ask for one line. Raises `Interrupt`, `EndOfFile`, `Break`, `Timeout`."""
