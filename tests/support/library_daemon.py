# SPDX-License-Identifier: Apache-2.0
"""The daemon with one Luna HSM plugged in: python -m tests.support.library_daemon PORT STATE LIBRARY."""

import asyncio
import sys
from pathlib import Path

from appliance.config import Config, HsmSettings, LibrarySettings, LineSettings, NetworkSettings
from appliance.daemon import Daemon
from appliance.log import configure
from tests.support.luna_house import LUNA, USB_IDS, Plugs


def main(port: str, state: str, library: str) -> None:
    """Serve until SIGTERM."""
    configure("info")
    plugs = Plugs(LUNA)
    config = Config(
        state=Path(state),
        line=LineSettings(port=port),
        network=NetworkSettings(enabled=False),
        hsm=HsmSettings(luna=LibrarySettings(Path(library), tuple(USB_IDS))),
    )
    asyncio.run(Daemon(config, plugs, plugs).run())


if __name__ == "__main__":
    main(*sys.argv[1:])
