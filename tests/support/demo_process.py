# SPDX-License-Identifier: Apache-2.0
"""The demonstration as a child process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import audit_trail
from tests.support.tokens import make_token

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
            self._said_before = log.tell()
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

    def token(
        self,
        serial: str = "667788",
        keys: int = 0,
        faults: Sequence[Mapping[str, object]] = (),
        family: str = "openpgp",
    ) -> Path:
        """Plug in a new token; `faults` is its list of misdeeds (simulator/faults.py)."""
        made = make_token(self.bus.parent / f"{serial}.token", serial, keys, faults, family=family)
        return made.rename(self.bus / f"{serial}.token")

    def audit(self) -> list[dict[str, object]]:
        """The records of the audit trail."""
        return audit_trail.records(self.state / "audit.jsonl")

    def verify_audit(self) -> subprocess.CompletedProcess[str]:
        """`appliance-console audit verify` on its state."""
        command = [sys.executable, "-m", "appliance", "audit", "verify", "--state", str(self.state)]
        return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  the program under test

    def wait_killed(self) -> None:
        """The process ended by SIGKILL."""
        assert self.process.wait(_PATIENCE) == -signal.SIGKILL

    def _await_ready(self) -> None:
        """Wait for the event that everything is started: the prompt on the serial port does not wait for the door."""
        deadline = time.monotonic() + _PATIENCE
        while b'"event": "ready"' not in (said := self.log.read_bytes()[self._said_before :]):
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.005)

    def lunash(self, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """The network side: one `lunash`, as soon as its door is open."""
        self._await_ready()
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
