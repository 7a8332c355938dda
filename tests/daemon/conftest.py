# SPDX-License-Identifier: Apache-2.0
"""An appliance, and somebody at its serial port."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.demo_process import DemoProcess
from tests.support.person import Person


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[DemoProcess]:
    """A running appliance without a token."""
    with DemoProcess(tmp_path) as process:
        yield process


@pytest.fixture
def person(demo: DemoProcess) -> Iterator[Person]:
    """Somebody who has logged in on the serial port."""
    with Person(demo.port) as somebody:
        somebody.log_in_first()
        yield somebody
