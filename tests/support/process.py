# SPDX-License-Identifier: Apache-2.0
"""A child process on a pty or on pipes, driven by what it prints."""

import asyncio
import os
import termios
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

LIMIT = 20.0  # seconds for anything; reached only when something is broken


class PtyProcess:
    """A child whose stdin and stdout are a pty, as under sshd; stderr is a pipe."""

    def __init__(self, process: Process, controller: int, terminal: int, settings_before: list[Any]) -> None:
        self.process = process
        self.seen = b""  # all that was printed so far
        self._controller = controller
        self._terminal = terminal
        self.settings_before = settings_before  # of the terminal, when the child had not touched it yet
        self._position = 0  # where the next `expect` begins to look
        self._news = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def start(cls, *command: str | Path, env: Mapping[str, str] | None = None) -> AsyncIterator[Self]:
        """Start `command` in a session of its own with the pty as its controlling terminal."""
        controller, terminal = os.openpty()
        os.set_blocking(controller, False)
        settings = termios.tcgetattr(terminal)
        loop = asyncio.get_running_loop()
        process = await asyncio.create_subprocess_exec(
            "setsid", "--ctty", *command, stdin=terminal, stdout=terminal, stderr=PIPE, env=env
        )
        child = cls(process, controller, terminal, settings)
        loop.add_reader(controller, child._take)
        try:
            yield child
        finally:
            loop.remove_reader(controller)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            for fd in {controller, terminal}:
                with suppress(OSError):
                    os.close(fd)

    @property
    def settings(self) -> list[Any]:
        """The terminal settings, as termios(3) has them."""
        return termios.tcgetattr(self._terminal)

    @property
    def raw(self) -> bool:
        """Whether the terminal neither echoes nor waits for whole lines nor makes signals of keys."""
        return not self.settings[3] & (termios.ECHO | termios.ICANON | termios.ISIG)

    async def asleep(self) -> None:
        """Wait until the child itself waits for something (proc_pid_stat(5), state)."""
        async with asyncio.timeout(LIMIT):
            while True:
                if self._state() == "S":
                    return
                await asyncio.sleep(0.005)

    def type(self, data: bytes) -> None:
        """Type `data`."""
        os.write(self._controller, data)

    async def expect(self, wanted: bytes) -> bytes:
        """Wait until `wanted` is printed, and return what came since the last `expect`, with it."""
        try:
            async with asyncio.timeout(LIMIT):
                while (found := self.seen.find(wanted, self._position)) < 0:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {wanted!r} in {self.seen[self._position :]!r}") from None
        start, self._position = self._position, found + len(wanted)
        return self.seen[start : self._position]

    async def ended(self) -> tuple[int, bytes]:
        """Wait for the end: the exit status and what was written to stderr."""
        assert self.process.stderr is not None
        async with asyncio.timeout(LIMIT):
            errors = await self.process.stderr.read()
            return await self.process.wait(), errors

    def _state(self) -> str:
        status = Path(f"/proc/{self.process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0]

    def _take(self) -> None:
        with suppress(OSError):
            self.seen += os.read(self._controller, 65536)
        self._news.set()


async def run(
    *command: str | Path, typed: bytes = b"", env: Mapping[str, str] | None = None
) -> tuple[int, bytes, bytes]:
    """Run `command` on pipes with `typed` on stdin: its exit status, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env)
    try:
        async with asyncio.timeout(LIMIT):
            output, errors = await process.communicate(typed)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert process.returncode is not None
    return process.returncode, output, errors
