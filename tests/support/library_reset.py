# SPDX-License-Identifier: Apache-2.0
"""The reset of the one Luna HSM that is plugged in: python -m tests.support.library_reset STATE LIBRARY."""

import asyncio
import sys
from pathlib import Path

from tests.support.luna_house import LUNA, Plugs, house, luna


async def main(state: Path, library: Path) -> None:
    """Reset it."""
    plugs = Plugs(LUNA)
    async with house(state, plugs, luna(library, plugs)) as made:
        await made.reset()


if __name__ == "__main__":
    asyncio.run(main(*map(Path, sys.argv[1:])))
