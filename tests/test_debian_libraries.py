# SPDX-License-Identifier: Apache-2.0
"""The code runs with the libraries in the versions of Debian as it does with the newest.

`tests/run` makes the environment: Debian's Python and Debian's libraries, and beside them pytest, and Yubico's package,
which Debian has not.
"""

import subprocess
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.child_pytest import pytest_passes

PYTHON = ROOT / ".tests/debian/bin/python"
LIBRARIES = ("cryptography", "pyudev", "serial", "structlog", "usb")
DEBIANS = Path("/usr/lib/python3/dist-packages")
# Where it is killed, and what sshd leaves to a user, has to do with no library, and takes longer than all the rest.
LEFT_OUT = "not killed_at_any_step and not test_ssh_user"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs Debian's Python and its libraries")


def test_the_libraries_are_debians() -> None:
    """None of them comes from elsewhere, and the code is that of this checkout."""
    program = (
        "import sys; from importlib import import_module; [print(import_module(n).__file__) for n in sys.argv[1:]]"
    )
    command: list[str | Path] = [PYTHON, "-c", program, *LIBRARIES, "appliance"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603  # our own program

    *libraries, own = map(Path, said.stdout.splitlines())
    assert [path.relative_to(DEBIANS).parts[0] for path in libraries] == list(LIBRARIES)
    assert own.is_relative_to(ROOT)


@pytest.mark.parametrize(
    "place", ["unit", "hsm", "hotplug", "pkcs11", "simulator", "console", "daemon", "crosscheck/test_yubihsm.py"]
)
def test_all_is_well_with_debians_libraries(place: str) -> None:
    """Every test of the folder, or of the file, passes, and none is skipped."""
    pytest_passes(PYTHON, "-m", "pytest", f"tests/{place}", "-k", LEFT_OUT)
