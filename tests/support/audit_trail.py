# SPDX-License-Identifier: Apache-2.0
"""An audit trail as it is read while it is being written."""

import json
from pathlib import Path
from typing import Any


def records(path: Path) -> list[dict[str, Any]]:
    """The records of the trail at `path`; a line whose end is not written yet is none."""
    *lines, _ = path.read_text().split("\n")
    return [json.loads(line) for line in lines]
