# SPDX-License-Identifier: Apache-2.0
"""The vendor's module, compiled once, and a fresh token for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.vendor_module import VendorModule, children, compiled, vendor_module


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    """After every test there is no process that was not there before."""
    before = children()
    yield
    assert children() == before


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled module."""
    return compiled(tmp_path_factory.mktemp("library"))


@pytest.fixture
def vendor(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VendorModule:
    """The module, with one token that holds a key."""
    return vendor_module(library, tmp_path, monkeypatch)
