# SPDX-License-Identifier: Apache-2.0
"""Files of simulated tokens, with faults."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from appliance.simulator.descriptors import Level
from appliance.simulator.device import new_token


def make_token(
    path: Path,
    serial: str,
    keys: int = 0,
    faults: Sequence[Mapping[str, object]] = (),
    level: Level = Level.APDU,
) -> Path:
    """Make the file of a token; `faults` is its list of misdeeds (simulator/faults.py)."""
    new_token(path, serial, keys)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"faults": list(faults), "reader": level}))
    return path
