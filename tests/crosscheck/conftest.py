# SPDX-License-Identifier: Apache-2.0
"""What every cross-check needs: the other people's programs, and a folder for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.vpcd import missing, short_folder


@pytest.fixture(autouse=True, scope="session")
def _all_there() -> None:
    reason = missing()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path that is short enough for sockets."""
    with short_folder() as path:
        yield path
