# SPDX-License-Identifier: Apache-2.0
"""A started bus on a folder, for the tests of the simulator."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.simulated import Plugs


@pytest.fixture
async def plugs(tmp_path: Path) -> AsyncIterator[Plugs]:
    """A bus on an empty folder, started; beside the folder is room to make devices in."""
    folder = tmp_path / "bus"
    folder.mkdir()
    plugs = Plugs(folder)
    await plugs.bus.start(plugs.deliver)
    yield plugs
    plugs.bus.close()
