# SPDX-License-Identifier: Apache-2.0
"""The way the tests are run is itself held by tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PASSING = "def test_it(): pass\n"
SKIPPED = "import pytest\n\n@pytest.mark.skip(reason='no device')\ndef test_it(): pass\n"
SKIPPED_AS_A_FILE = "import pytest\n\npytest.skip('no device', allow_module_level=True)\n"
EXPECTED_TO_FAIL = "import pytest\n\n@pytest.mark.xfail\ndef test_it(): assert False\n"


def run_pytest(folder: Path, source: str, ci: str) -> subprocess.CompletedProcess[str]:
    """Run one test file under our conftest, as on the CI machine or not."""
    (folder / "conftest.py").write_bytes((TESTS / "conftest.py").read_bytes())
    (folder / "test_sample.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_sample.py"]
    environment = os.environ | {"CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # starts three times as fast
    return subprocess.run(  # noqa: S603  # pytest on the file above
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("source", "ci", "status"),
    [
        (PASSING, "true", 0),
        (SKIPPED, "", 0),
        (SKIPPED + PASSING.replace("it", "other"), "true", 1),
        (EXPECTED_TO_FAIL, "true", 0),
        (SKIPPED_AS_A_FILE, "true", 5),
        ("", "", 5),
    ],
)
def test_on_the_ci_machine_nothing_is_skipped(tmp_path: Path, source: str, ci: str, status: int) -> None:
    """A skipped test fails the run there and only there; a run without a test never passes."""
    assert run_pytest(tmp_path, source, ci).returncode == status


def test_the_skipped_test_is_named(tmp_path: Path) -> None:
    """Who reads the end of the log sees which test did not run."""
    assert "test_sample.py::test_it" in run_pytest(tmp_path, SKIPPED, "true").stdout.splitlines()


def test_arguments_go_to_pytest_from_any_folder(tmp_path: Path) -> None:
    """The runner finds its checkout by itself and hands on what it is given, blanks included."""
    result = subprocess.run(  # noqa: S603  # the runner of this checkout
        [TESTS / "run", "-q", "--collect-only", "-k", "no_such_test or nothing like_it", "tests/test_runner.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no_such_test or nothing like_it" in result.stderr + result.stdout


@pytest.mark.parametrize(("appliance", "others", "status"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (5, 1, 5)])
def test_without_arguments_both_halves_run(tmp_path: Path, appliance: int, others: int, status: int) -> None:
    """A failure in either fails the run, and the appliance's report comes last, whichever ends first."""
    program = tmp_path / "pytest"
    program.write_text(
        f"#!/bin/sh\n[ $1 != tests/appliance ] || {{ echo the appliance; exit {appliance}; }}\n"
        f"echo all but $1; exit {others}\n"
    )
    program.chmod(0o755)
    result = subprocess.run(  # noqa: S603  # a script of this checkout
        [TESTS / "support/run_beside", tmp_path / "report", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.stdout.splitlines() == ["all but --ignore=tests/appliance", "the appliance"]
    assert result.returncode == status


def test_the_ci_runs_the_runner_and_nothing_else() -> None:
    """What passes on the CI machine is what a developer can run."""
    lines = (TESTS.parent / ".ci/run").read_text(encoding="utf-8").splitlines()

    assert lines == ["#!/bin/sh", 'exec "$(dirname "$0")/../tests/run"']
