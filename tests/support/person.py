# SPDX-License-Identifier: Apache-2.0
"""A person at a serial terminal, who types and reads as scripts do."""

import os
import re
import select
import time
from types import TracebackType
from typing import Self

PROMPT = r"\[[a-zA-Z0-9\-_.]+\] lunash:>$"
PASSWORD = "correct Horse 7 battery"  # noqa: S105  of a simulated appliance
_QUESTION = r"\n *> $"  # of whatever a command asks
_PATIENCE = 60.0  # seconds; a bound for a machine that is busy, not a wait
_PIECE = 256  # bytes that a terminal line surely takes at once when it takes any


class Person:
    """Somebody at a terminal that is attached to the serial port: its path, or a descriptor for the other end."""

    def __init__(self, port: str | int, patience: float = _PATIENCE) -> None:
        self._fd = port if isinstance(port, int) else os.open(port, os.O_RDWR | os.O_NOCTTY)
        self._screen = ""
        self._patience = patience  # seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def type(self, text: str) -> None:
        """Type as it stands."""
        os.write(self._fd, text.encode())

    def send(self, data: bytes) -> None:
        """Send bytes, however many, and take in what comes back meanwhile."""
        while data:
            readable, writable, _ = select.select([self._fd], [self._fd], [], _PATIENCE)
            assert readable or writable, f"{len(data)} bytes were not taken"
            if readable:
                self._receive()
            if writable:
                data = data[os.write(self._fd, data[:_PIECE]) :]

    def sees_nothing_for(self, seconds: float) -> bool:
        """Whether nothing comes in that time."""
        return not select.select([self._fd], [], [], seconds)[0]

    def sees(self, pattern: str, seconds: float) -> bool:
        """Whether `pattern` is shown in that time."""
        deadline = time.monotonic() + seconds
        while re.search(pattern, self._screen) is None:
            if not select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return False
            self._receive()
        return True

    def read_until(self, pattern: str) -> str:
        """What is shown up to and with `pattern`, line ends as ``\\n``."""
        self.sees(pattern, self._patience)
        match = re.search(pattern, self._screen)
        assert match, f"{pattern!r} did not come; the screen: {self._screen!r}"
        shown, self._screen = self._screen[: match.end()], self._screen[match.end() :]
        return shown

    def _receive(self) -> None:
        received = os.read(self._fd, 4096)
        assert received, f"hung up; the screen: {self._screen!r}"
        self._screen += received.decode("latin-1").replace("\r", "")

    def run(self, line: str) -> str:
        """Type one command at the prompt; everything from its echo to the next prompt."""
        self.type(f"{line}\r")
        return self.read_until(PROMPT)

    def list_tokens(self) -> str:
        """What `token backup list` shows once every token that is plugged in has answered."""
        deadline = time.monotonic() + self._patience
        while "it has not answered yet" in (shown := self.run("token backup list")):
            assert time.monotonic() < deadline, shown
        return shown

    def answer(self, line: str, *answers: str) -> str:
        """Type one command, and what it asks for: PINs, passwords, `proceed`; everything up to the next prompt."""
        self.type(f"{line}\r")
        shown = ""
        for answer in answers:
            shown += self.read_until(_QUESTION)
            self.type(f"{answer}\r")
        return shown + self.read_until(PROMPT)

    def log_in(self, password: str = PASSWORD) -> str:
        """Log in as admin at the login prompt; what is shown up to the shell's prompt."""
        shown = self.read_until(r"login: $")
        self.type("admin\r")
        shown += self.read_until(r"Password: $")
        self.type(f"{password}\r")
        return shown + self.read_until(PROMPT)

    def log_in_first(self, password: str = PASSWORD) -> str:
        """Log in with the initial password and change it; everything that is shown."""
        shown = self.read_until(r"login: $")
        self.type("admin\r")
        shown += self.read_until(r"Password: $")
        self.type("PASSWORD\r")
        for question, answer in (
            (r"\(current\) UNIX password: $", "PASSWORD"),
            (r"Enter new password: $", password),
            (r"Re-type new password: $", password),
        ):
            shown += self.read_until(question)
            self.type(f"{answer}\r")
        return shown + self.read_until(PROMPT)
