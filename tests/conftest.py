# SPDX-License-Identifier: Apache-2.0
"""For all tests: none is timed, and on the CI machine none is skipped; one that is fails the run, and is named."""

import os
from collections.abc import Iterable

import pytest
from hypothesis import settings

# A busy machine is slow: no test fails for the time that it takes.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

Report = pytest.TestReport | pytest.CollectReport


def skipped(reports: Iterable[Report]) -> list[str]:
    """The tests, or whole files, that did not run; an expected failure did run."""
    return [report.nodeid for report in reports if report.skipped and not hasattr(report, "wasxfail")]


class NothingSkipped:
    """A pytest plugin: a run with a skipped test ends as failed."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember each test."""
        self.reports.append(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember each file: one can be skipped as a whole."""
        self.reports.append(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run; never turn another failure into this one."""
        if skipped(self.reports) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name them."""
        names = skipped(self.reports)
        if names:
            terminalreporter.section("skipped, although nothing may be skipped here (CI=true)", red=True)
            for name in names:
                terminalreporter.line(name)


def pytest_configure(config: pytest.Config) -> None:
    """Be strict where everything that the tests need is installed."""
    if os.environ.get("CI") == "true":
        config.pluginmanager.register(NothingSkipped())
