# SPDX-License-Identifier: Apache-2.0
"""The Debian package taken off an appliance in use, and put back."""

from collections.abc import Iterator

import pytest

from tests.support.guest.appliance import STATE, Appliance
from tests.support.guest.image import TERMINAL
from tests.support.person import Person

PROCESSES = "find /proc -maxdepth 1 -user appliance"
INSTALL = f"dpkg --install ~/appliance-console_*.deb && systemctl enable --now appliance-console@{TERMINAL}"


@pytest.fixture
def installed(appliance: Appliance) -> Iterator[Appliance]:
    """The appliance with the package; after the test it has it again, even if that has failed."""
    yield appliance
    appliance.root.run(f"command -v appliance-console || ({INSTALL})")


def assert_nothing_runs(appliance: Appliance) -> None:
    """There is no process, no socket and no unit that is anything but gone."""
    units = f"systemctl list-units --plain --no-legend 'appliance-console@*'; {PROCESSES}"
    assert appliance.root.run(units) == ""
    assert "lunash" not in appliance.root.run("cat /proc/net/unix")


def test_removed_and_installed_again(installed: Appliance, person: Person) -> None:
    """Removal ends the console and keeps what it has written; with the package the same accounts are back."""
    written = installed.audit()
    installed.root.run("dpkg --remove appliance-console")

    assert_nothing_runs(installed)
    assert installed.root.attempt("command -v appliance-console lunash").stdout == ""
    assert installed.root.run(f"cat {STATE}/audit.jsonl").startswith(written)
    installed.root.run(INSTALL)
    installed.await_login()
    assert "lunash:>" in installed.log_in().run("help")
    assert installed.audit().startswith(written)


def test_purged_and_installed_again(installed: Appliance, person: Person) -> None:
    """Purging keeps the audit trail aside, and nothing else: the next login is the first of a new appliance."""
    written = installed.audit()
    installed.root.run(f"rm -rf {STATE}/audit.purged-*; dpkg --purge appliance-console")

    assert_nothing_runs(installed)
    assert installed.root.run(f"cat {STATE}/audit.purged-*/audit.jsonl").startswith(written)
    assert installed.root.run(f"ls {STATE}").startswith("audit.purged-")
    assert installed.root.attempt("ls /etc/appliance").stdout == ""
    assert installed.root.run("find /etc/systemd -name 'appliance-console*'") == ""
    installed.root.run(INSTALL)
    assert "(current) UNIX password: " in installed.log_in_first()
    assert installed.audit().count("\n") < written.count("\n")
    assert installed.property("ActiveState") == "active"
