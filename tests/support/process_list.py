# SPDX-License-Identifier: Apache-2.0
"""What anybody who lists processes can see of one and of those that it has started."""

from contextlib import suppress
from pathlib import Path


def process_list(pid: int) -> str:
    """Names, arguments and environments of the process, its threads, its children and theirs."""
    process = Path(f"/proc/{pid}")
    seen, children = "", ""
    with suppress(OSError):  # it has ended
        for place in (process, *(process / "task").iterdir()):
            seen += "".join(_text(place / name) for name in ("comm", "cmdline", "environ"))
            children += _text(place / "children") if place != process else ""
    return seen + "".join(process_list(int(child)) for child in children.split())


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_bytes().decode("latin-1") + "\n"
    return ""
