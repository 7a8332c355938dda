# SPDX-License-Identifier: Apache-2.0
"""One appliance for all tests in this folder: it is built, installed and booted once."""

import re
import shutil
from collections.abc import Generator, Iterator
from contextlib import ExitStack

import pytest

from tests.support.guest.appliance import Appliance
from tests.support.guest.image import CACHE, image, why_not
from tests.support.person import Person

FAILED = CACHE / "failed"  # what the failed tests of the last run have left, each in a folder of its own


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what tells of a failure as soon as there is one: whatever cleans up comes later."""
    report = yield
    booted = item.funcargs.get("booted")
    ended = report.when == "teardown" and isinstance(booted, Appliance) and not booted.machine.running
    if report.failed and isinstance(booted, Appliance) and not ended:
        booted.keep_evidence(FAILED / re.sub(r"[^\w.-]+", "-", f"{item.path.stem} {item.name} {report.when}"))
    return report


@pytest.fixture(scope="session")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """The appliance after its first login."""
    if reason := why_not():
        pytest.skip(reason)
    shutil.rmtree(FAILED, ignore_errors=True)
    appliance = Appliance(image(), tmp_path_factory.mktemp("appliance"))
    with ExitStack() as running:
        try:
            running.enter_context(appliance)
        except BaseException:
            appliance.machine.keep_logs(FAILED / "boot")
            raise
        yield appliance


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
