# SPDX-License-Identifier: Apache-2.0
"""The daemon with one token behind a library: python -m tests.support.library_daemon PORT STATE LIBRARY FAMILY."""

import asyncio
import sys
from pathlib import Path

from appliance.config import Config, HsmSettings, LibrarySettings, LineSettings, NetworkSettings
from appliance.daemon import Daemon
from appliance.log import configure
from tests.support.luna_house import LUNA, USB_IDS, Plugs


def main(port: str, state: str, library: str, family: str) -> None:
    """Serve until SIGTERM, with everything in the log."""
    configure("debug")
    settings = LibrarySettings(Path(library), tuple(USB_IDS))
    plugs = Plugs(LUNA)
    config = Config(
        state=Path(state),
        line=LineSettings(port=port),
        network=NetworkSettings(enabled=False),
        hsm=HsmSettings(luna=settings) if family == "luna" else HsmSettings(pkcs11=(settings,)),
    )
    asyncio.run(Daemon(config, plugs, plugs).run())


if __name__ == "__main__":
    main(*sys.argv[1:])
