# SPDX-License-Identifier: Apache-2.0
"""One appliance for all tests in this folder: it is built, installed and booted once."""

from collections.abc import Iterator

import pytest

from tests.support.guest.appliance import Appliance
from tests.support.guest.image import CACHE, image, why_not
from tests.support.person import Person


@pytest.fixture(scope="session")
def booted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """The appliance after its first login. When a test failed, what it wrote is kept."""
    if reason := why_not():
        pytest.skip(reason)
    failed_before = request.session.testsfailed
    with Appliance(image(), tmp_path_factory.mktemp("appliance")) as appliance:
        yield appliance
        if request.session.testsfailed > failed_before:
            appliance.keep_logs(CACHE / "failed")


@pytest.fixture
def appliance(booted: Appliance, request: pytest.FixtureRequest) -> Iterator[Appliance]:
    """The appliance with nothing plugged in. After a failure its console is started anew, for the next test."""
    failed_before = request.session.testsfailed
    yield booted
    booted.tokens.discard()
    if request.session.testsfailed > failed_before:
        booted.recover()
    booted.until(lambda: not booted.listed())


@pytest.fixture
def person(appliance: Appliance) -> Person:
    """Somebody who is logged in on the terminal."""
    return appliance.log_in()
