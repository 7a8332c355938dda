# SPDX-License-Identifier: Apache-2.0
"""The demonstration, which dies by SIGKILL at the command to the card that `KILL_AT` names: ``number side``."""

import os
import signal
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

from appliance import cli
from appliance.simulator.bus import FolderBus
from appliance.simulator.faults import When


def die(at: tuple[int, str], _: Path, number: int, __: bytes, side: When) -> None:
    """The power fails."""
    if (number, str(side)) == at:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    moment, place = os.environ["KILL_AT"].split()
    with patch("appliance.demo.FolderBus", partial(FolderBus, observe=partial(die, (int(moment), place)))):
        sys.exit(cli.main())
