# SPDX-License-Identifier: Apache-2.0
"""Managers for the tests of this folder, and which of the tests are collected at all."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.manager_house import HERE, THERE, Build, House, builder

# What erases a device of somebody else's is collected only where such a device was named.
collect_ignore = [] if os.environ.get("APPLIANCE_USBIP") else ["test_foreign_firmware.py"]


@pytest_asyncio.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """Makes managers."""
    async with builder(tmp_path) as made:
        yield made


@pytest_asyncio.fixture
async def house(build: Build) -> House:
    """A manager that has started, with the tokens A1 and B2 plugged in and asked."""
    made = build()
    made.source.plug(HERE)
    made.source.plug(THERE)
    await made.manager.start()
    await made.settled()
    return made
