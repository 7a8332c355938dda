# SPDX-License-Identifier: Apache-2.0
"""The demonstration as a child process, and a person at its serial port who types and reads as scripts do."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from appliance.simulator.device import new_token

PROMPT = r"\[[a-zA-Z0-9\-_.]+\] lunash:>$"
PASSWORD = "correct Horse 7 battery"  # noqa: S105  of a simulated appliance
_PATIENCE = 30.0  # seconds; a bound for a machine that is busy, not a wait


class DemoProcess:
    """`appliance-console demo --port-only`, from start to end."""

    def __init__(self, folder: Path, module: str = "appliance", environment: Mapping[str, str] | None = None) -> None:
        """Its bus and state are folders below `folder`; the same `folder` again is the same appliance started anew."""
        self.bus = folder / "bus"
        self.state = folder / "state"
        self.log = folder / "demo.stderr"
        self._module = module
        self._environment = {**os.environ, **(environment or {})}
        self.bus.mkdir(exist_ok=True)

    def __enter__(self) -> Self:
        arguments = ["demo", "--port-only", "--bus", str(self.bus), "--state", str(self.state)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  the program under test
                [sys.executable, "-m", self._module, *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                text=True,
            )
        assert self.process.stdout is not None
        self.port = self.process.stdout.readline().strip()
        assert self.port, self.log.read_text()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def token(self, serial: str = "667788", keys: int = 0, faults: Sequence[Mapping[str, object]] = ()) -> Path:
        """Plug in a new token; `faults` is its list of misdeeds (simulator/faults.py)."""
        ready = self.bus.parent / f"{serial}.token"
        new_token(ready, serial, keys)
        if faults:
            content = json.loads(ready.read_text())
            content["faults"] = list(faults)
            ready.write_text(json.dumps(content))
        return ready.rename(self.bus / ready.name)

    def audit(self) -> list[dict[str, object]]:
        """The records of the audit trail."""
        return [json.loads(line) for line in (self.state / "audit.jsonl").read_text().splitlines()]

    def verify_audit(self) -> subprocess.CompletedProcess[str]:
        """`appliance-console audit verify` on its state."""
        command = [sys.executable, "-m", "appliance", "audit", "verify", "--state", str(self.state)]
        return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  the program under test

    def wait_killed(self) -> None:
        """The process ended by SIGKILL."""
        assert self.process.wait(_PATIENCE) == -signal.SIGKILL

    def lunash(self, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """The network side: one `lunash`."""
        code = "import sys; from appliance.cli import lunash; sys.exit(lunash())"
        return subprocess.run(  # noqa: S603  the program under test
            [sys.executable, "-c", code, "--socket", str(self.state / "lunash.sock"), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            env={**self._environment, **(environment or {})},
        )


class Person:
    """Somebody at a terminal that is attached to the serial port."""

    def __init__(self, port: str) -> None:
        self._fd = os.open(port, os.O_RDWR | os.O_NOCTTY)
        self._screen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def type(self, text: str) -> None:
        """Type as it stands."""
        os.write(self._fd, text.encode())

    def read_until(self, pattern: str) -> str:
        """What is shown up to and with `pattern`, line ends as ``\\n``."""
        deadline = time.monotonic() + _PATIENCE
        while (match := re.search(pattern, self._screen)) is None:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} did not come; the screen: {self._screen!r}"
            received = os.read(self._fd, 4096)
            assert received, f"hung up; the screen: {self._screen!r}"
            self._screen += received.decode("latin-1").replace("\r", "")
        shown, self._screen = self._screen[: match.end()], self._screen[match.end() :]
        return shown

    def run(self, line: str) -> str:
        """Type one command at the prompt; everything from its echo to the next prompt."""
        self.type(f"{line}\r")
        return self.read_until(PROMPT)

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
