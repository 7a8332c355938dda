# SPDX-License-Identifier: Apache-2.0
"""Files of simulated tokens: made with faults, and read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from appliance.simulator.descriptors import Level
from appliance.simulator.families import load, new_token
from appliance.simulator.openpgp_flash import OpenPgpFlash


def make_token(
    path: Path,
    serial: str,
    keys: int = 0,
    faults: Sequence[Mapping[str, object]] = (),
    level: Level | None = None,
    family: str = "openpgp",
) -> Path:
    """Make the file of a token; `faults` is its list of misdeeds (simulator/faults.py)."""
    new_token(path, serial, keys, family)
    content = json.loads(path.read_text())
    content |= {"faults": list(faults)} | ({} if level is None else {"reader": level})
    path.write_text(json.dumps(content))
    return path


def openpgp(contents: bytes) -> OpenPgpFlash:
    """What an OpenPGP card remembers."""
    flash = load(contents)
    assert isinstance(flash, OpenPgpFlash)
    return flash
