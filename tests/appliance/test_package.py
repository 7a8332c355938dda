# SPDX-License-Identifier: Apache-2.0
"""The Debian package of an appliance in use: upgraded, taken off, and put back."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.debian_package import altered
from tests.support.guest.appliance import JOURNAL, STATE, Appliance
from tests.support.guest.image import TERMINAL
from tests.support.guest.interrupted import is_shown, reset_command
from tests.support.guest.machine import BOUND
from tests.support.person import Person

SERIAL = "AABB60"
LATER, LATER_PACKAGE = "9.9", "/run/later.deb"
CODE = "usr/lib/python3/dist-packages/appliance/__init__.py"
# What packages ask before they restart a service (deb-systemd-invoke(1p)); the first restart has to wait for a word.
POLICY, WORD = "/usr/sbin/policy-rc.d", "/run/upgrade-word"
WAIT = f"#!/bin/sh\nrm {POLICY}\nmkfifo {WORD}\ntimeout {BOUND:.0f} cat {WORD}\nrm {WORD}\n"

PROCESSES = "find /proc -maxdepth 1 -ignore_readdir_race -user appliance"
INSTALL = f"dpkg --install ~/appliance-console_*.deb && systemctl enable --now appliance-console@{TERMINAL}"


@pytest.fixture
def installed(appliance: Appliance) -> Iterator[Appliance]:
    """The appliance with the package; after the test it has it again, even if that has failed."""
    yield appliance
    appliance.root.run(f"command -v appliance-console || ({INSTALL})")


@pytest.fixture
def upgradable(appliance: Appliance, tmp_path: Path) -> Iterator[Appliance]:
    """The appliance with a later package at hand; after the test it has its own again."""
    later = altered(appliance.machine.image.package, tmp_path, LATER, CODE, f'__version__ = "{LATER}"\n')
    content = base64.b64encode(later.read_bytes()).decode()
    appliance.root.run(f"base64 --decode >{LATER_PACKAGE}", text=content)
    appliance.root.run(f"cat >{POLICY} && chmod +x {POLICY}", text=WAIT)
    yield appliance
    appliance.root.run(f"rm -f {LATER_PACKAGE} {POLICY} {WORD}; {INSTALL}")
    appliance.await_login()


def times_read(appliance: Appliance) -> int:
    """How often the sshd that runs was told to read its configuration again."""
    return appliance.root.run(f"{JOURNAL} --unit=ssh").count("Received SIGHUP; restarting.")


def test_upgraded_in_a_reset(upgradable: Appliance, person: Person) -> None:
    """Whoever is logged in sees the reset end, and then the login of the new version; sshd has read its rules anew.

    What was recorded and who may log in is as it was, and no reset is left over.
    """
    written, sshd_before = upgradable.audit(), times_read(upgradable)
    upgradable.plug(upgradable.tokens.make(SERIAL, keys=2))
    with ThreadPoolExecutor(1) as hand:
        upgrading = hand.submit(upgradable.root.run, f"dpkg --install {LATER_PACKAGE}")
        upgradable.until(lambda: upgrading.done() or not upgradable.root.attempt(f"test -p {WORD}").returncode)

        def restart() -> None:
            upgradable.root.run(f"echo >{WORD}")
            upgradable.until(lambda: upgradable.property("SubState") == "stop-sigterm" or upgrading.done())

        cable = upgradable.tokens.cable(SERIAL)
        cable.count_from_here("answer to TERMINATE DF", restart, cut=False)
        person.type(f"{reset_command(SERIAL)}\r")
        shown = upgradable.await_login()
    told = upgradable.events()

    assert upgrading.result()
    assert "'token backup factoryReset' successful.\n" in shown
    assert f"Network HSM appliance console {LATER}\n" in shown
    assert not upgradable.tokens.flash(SERIAL).keys
    assert not is_shown(upgradable, SERIAL)
    assert told[-6:] == ["reset-intent", "reset-outcome done", "result done", "logout", "stop", "start"]
    assert upgradable.audit().startswith(written)
    assert "The following" in upgradable.root.run("lunash -c help")
    assert times_read(upgradable) == sshd_before + 1


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
