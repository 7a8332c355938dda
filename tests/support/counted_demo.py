# SPDX-License-Identifier: Apache-2.0
"""The demonstration, which writes a line to the file `COUNT_TO` for each command that reaches the card."""

import os
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

from appliance import cli
from appliance.simulator.bus import FolderBus
from appliance.simulator.faults import When


def count(to: Path, _: Path, number: int, __: bytes, side: When) -> None:
    """One line for each command."""
    if side is When.AFTER:
        with to.open("a") as file:
            file.write(f"{number}\n")


if __name__ == "__main__":
    with patch("appliance.demo.FolderBus", partial(FolderBus, observe=partial(count, Path(os.environ["COUNT_TO"])))):
        sys.exit(cli.main())
