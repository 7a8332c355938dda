# SPDX-License-Identifier: Apache-2.0
"""Programs of the system are run by absolute path with words of our own, bounded in time, and fail in one sentence."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from appliance.errors import ApplianceError

_LONGEST: Final = 60.0  # seconds; useradd waits for a lock of the user database for up to 15
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_NONE: Final = MappingProxyType[str, str]({})


class NotDone(ApplianceError):
    """Something cannot be done, or not as it was asked for: the sentence says why, and what to do."""


def run(*command: str, variables: Mapping[str, str] = _NONE) -> str:
    """What the program prints. Raises `NotDone` with its own complaint when it fails."""
    status, output, errors = ask(*command, variables=variables)
    if status:
        raise NotDone(f"{Path(command[0]).name} failed: {_last_line(errors) or f'exit status {status}'}")
    return output


def ask(*command: str, variables: Mapping[str, str] = _NONE) -> tuple[int, str, str]:
    """The exit status of a program, and what it printed to each of its outputs. Raises `NotDone` when there is none."""
    try:
        result = subprocess.run(  # noqa: S603  # every word is ours, or was checked to be a name
            command,
            env={**_ENVIRONMENT, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=_LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotDone(f"{command[0]} did not end within {_LONGEST:.0f} seconds.") from error
    except OSError as error:
        raise NotDone(f"{command[0]} cannot be run: {error.strerror or error}.") from error
    return result.returncode, result.stdout, result.stderr


def _last_line(text: str) -> str:
    """The last line that says something, bounded and printable; a program's first lines are often but warnings."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "".join(c if c.isprintable() else "?" for c in lines[-1])[:300] if lines else ""
