# SPDX-License-Identifier: Apache-2.0
"""People who come to the appliance over the network, with OpenSSH's own client."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.guest.machine import BOUND


class CommandFailed(AssertionError):
    """A command on the appliance ended with another status than 0."""


@dataclass(frozen=True, slots=True)
class Ssh:
    """One user. The connection is made once and kept, because making one takes a second and more under emulation."""

    port: int
    key: Path
    user: str
    folder: Path  # for the socket of the connection that is kept
    options: tuple[str, ...] = field(default=())

    def run(self, command: str = "", *, text: str | None = None, timeout: float = BOUND) -> str:
        """What `command` printed; it must succeed. `text` is its standard input."""
        done = self.attempt(command, text=text, timeout=timeout)
        if done.returncode:
            raise CommandFailed(f"{command!r} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def attempt(
        self, command: str = "", *options: str, text: str | None = None, timeout: float = BOUND
    ) -> subprocess.CompletedProcess[str]:
        """Run one command, or without one the login shell; however it ends."""
        return subprocess.run(  # noqa: S603  OpenSSH's client on a machine of ours
            [*self.command(*options), *([command] if command else [])],
            input=text or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def command(self, *options: str) -> list[str]:
        """The command line that leads to the appliance."""
        settings = (
            *("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"),
            *("IdentitiesOnly=yes", "ConnectTimeout=60", "ServerAliveInterval=15", "ServerAliveCountMax=20"),
            *("ControlMaster=auto", f"ControlPath={self._control}", "ControlPersist=yes"),
        )
        return [
            *("ssh", "-F", "none", "-p", str(self.port), "-i", str(self.key)),
            *(word for setting in settings for word in ("-o", setting)),
            *self.options,
            *options,
            f"{self.user}@127.0.0.1",
        ]

    def hang_up(self) -> None:
        """Let the connection go; the next command makes a new one."""
        if self._control.exists():
            self.attempt("", "-O", "exit")
            self._control.unlink(missing_ok=True)

    @property
    def _control(self) -> Path:
        return self.folder / f"ssh-{self.user}"
