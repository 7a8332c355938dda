# SPDX-License-Identifier: Apache-2.0
"""What every cross-check needs: the other people's programs, and a folder for them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.vpcd import missing


@pytest.fixture(autouse=True)
def _all_there() -> None:
    reason = missing()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="desk-") as name:
        gnupg = Path(name) / "gnupg"
        gnupg.mkdir(mode=0o700)
        (gnupg / "scdaemon.conf").write_text("disable-ccid\n")
        yield Path(name)
