# SPDX-License-Identifier: Apache-2.0
"""The udev source, held against real libudev in processes of their own: one without devices, one without a network."""

import shutil
import subprocess
import sys

import pytest

from tests.support.child_pytest import pytest_passes


def run(file: str, *wrapper: str) -> None:
    """Run the tests in a file of this folder under another program; every one must run and pass."""
    pytest_passes(*wrapper, sys.executable, "-m", "pytest", f"tests/hotplug/{file}")


def works(*command: str) -> bool:
    """Whether this machine lets us do that."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603  # a fixed argv


def test_udev_events_are_heard() -> None:
    """What udev says becomes events: `under_umockdev.py`."""
    wrapper = shutil.which("umockdev-wrapper")
    if wrapper is None:
        pytest.skip("needs the Debian package umockdev")
    run("under_umockdev.py", wrapper)


def test_an_overflow_is_survived() -> None:
    """A storm of events on a real netlink socket: `under_unshare.py`."""
    unshare = ("unshare", "--net", "--mount", "--")
    if shutil.which("unshare") is None or not works(*unshare, "true"):
        pytest.skip("needs unshare and the right to make namespaces")
    # libudev listens to udevd only where this file is (or where /dev is a devtmpfs).
    run("under_unshare.py", *unshare, "sh", "-c", f'{_MAKE_CONTROL} && export OWN_NAMESPACE=true && exec "$@"', "sh")


_MAKE_CONTROL = "mount -t tmpfs none /run && mkdir /run/udev && touch /run/udev/control"
