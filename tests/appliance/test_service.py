# SPDX-License-Identifier: Apache-2.0
"""The console as a service of a running systemd: restarted at any moment, stopped, disabled, hung and killed."""

import pytest

from tests.support.guest.appliance import JOURNAL, LOGIN, UNIT, Appliance
from tests.support.guest.image import TERMINAL
from tests.support.guest.interrupted import complete, is_shown, reset_command
from tests.support.person import Person

SERIAL = "AABB20"
SOCKET = UNIT.replace(".service", ".socket")
RESTART = f"systemctl restart {UNIT}"
PROCESSES = "find /proc -maxdepth 1 -ignore_readdir_race -user appliance"
CRASHES = 12  # systemd gives up after 5 within 10 s unless it is told not to


@pytest.fixture
def plugged(appliance: Appliance) -> Appliance:
    """The appliance with one token, which has its keys; somebody is logged in."""
    appliance.plug(appliance.tokens.make(SERIAL, keys=2))
    return appliance


def restart_and_wait_for_the_end(appliance: Appliance) -> None:
    """Begin a restart, and return once the daemon was told to end."""
    appliance.root.run(f"{RESTART} --no-block")
    appliance.until(lambda: appliance.property("SubState") == "stop-sigterm")


def test_restarted_in_a_login(appliance: Appliance) -> None:
    """The half login is gone: what is typed next is a name again, never a password."""
    person = appliance.log_out()
    person.read_until(LOGIN)
    person.type("admin\r")
    person.read_until(r"Password: $")
    appliance.root.run(RESTART)
    appliance.await_login()

    assert "lunash:>" in appliance.log_in().run("help")


def test_restarted_at_the_question(plugged: Appliance, person: Person) -> None:
    """A reset that waits for `proceed` does not happen, and a `proceed` that is typed afterwards means nothing."""
    before = plugged.tokens.flash(SERIAL)
    person.type(f"token backup factoryReset -serial {SERIAL}\r")
    person.read_until(r" {10}> $")
    plugged.root.run(RESTART)
    plugged.await_login()
    person.type("proceed\r")
    person.read_until(r"Password: $")
    person.type("\r")
    person.read_until(LOGIN)
    person.type("\r")

    assert not is_shown(plugged, SERIAL)
    assert plugged.tokens.flash(SERIAL) == before


def test_restarted_in_a_reset(appliance: Appliance, person: Person) -> None:
    """The reset is given more time than the unit has to stop: it comes to its end, tells so, and only then the rest."""
    slow = {"do": "slow", "at": "TERMINATE DF", "seconds": 8}
    appliance.plug(appliance.tokens.make(SERIAL, keys=2, faults=[slow]))
    cable = appliance.tokens.cable(SERIAL)
    with appliance.service_settings("TimeoutStopSec=5"):
        cable.count_from_here("answer to TERMINATE DF", lambda: restart_and_wait_for_the_end(appliance), cut=False)
        person.type(f"{reset_command(SERIAL)}\r")
        shown = appliance.await_login()
    told = appliance.events()

    assert "'token backup factoryReset' successful.\n" in shown
    assert not appliance.tokens.flash(SERIAL).keys
    assert not is_shown(appliance, SERIAL)
    assert told[-6:] == ["reset-intent", "reset-outcome done", "result done", "logout", "stop", "start"]


def test_restarted_in_a_reset_that_cannot_end(plugged: Appliance, person: Person) -> None:
    """When the token goes meanwhile, the outcome is unknown: that is told before and after, and can be mended."""
    before = plugged.tokens.flash(SERIAL)
    cable = plugged.tokens.cable(SERIAL)
    cable.count_from_here("answer to TERMINATE DF", lambda: restart_and_wait_for_the_end(plugged))
    person.type(f"{reset_command(SERIAL)}\r")
    shown = plugged.await_login()

    assert "Contact with the token was lost. Its state is unknown.\n" in shown
    assert is_shown(plugged, SERIAL)
    complete(plugged, SERIAL, before)


def test_stopped_and_started(appliance: Appliance, person: Person) -> None:
    """A console that is stopped has let go of everything; the next one is at the login."""
    appliance.root.run(f"systemctl stop {UNIT}")

    assert appliance.root.run(PROCESSES) == ""
    assert appliance.root.attempt(f"fuser /dev/{TERMINAL}").stdout == ""
    assert appliance.property("Result") == "success"
    appliance.root.run(f"systemctl start {UNIT}")
    appliance.await_login()
    assert "lunash:>" in appliance.log_in().run("help")


def test_disabled_and_enabled(appliance: Appliance, person: Person) -> None:
    """`systemctl disable --now` leaves no process, no socket and no link; `enable --now` brings all of it back."""
    links = f"find /etc/systemd -name 'appliance-console@{TERMINAL}.*'"
    enabled = appliance.root.run(links)
    appliance.root.run(f"systemctl disable --now {UNIT}")

    states = f"systemctl is-active {UNIT} {SOCKET}"
    appliance.until(lambda: appliance.root.attempt(states).stdout.split() == ["inactive", "inactive"])
    assert appliance.root.run(f"{PROCESSES}; ls /run/appliance") == ""
    assert "lunash" not in appliance.root.run("cat /proc/net/unix")
    assert appliance.root.run(links) == ""
    appliance.root.run(f"systemctl enable --now {UNIT}")
    appliance.await_login()
    assert appliance.root.run(links) == enabled
    assert appliance.listed_on_the_network() == []


def test_the_socket_stays_over_a_restart(appliance: Appliance, person: Person) -> None:
    """Whoever comes over the network during a restart waits, and is served."""
    appliance.root.run(f"{RESTART} --no-block")

    assert "The following" in appliance.root.run("lunash -c help")
    appliance.await_login()


def test_hung(appliance: Appliance, person: Person) -> None:
    """A daemon that does nothing any more is ended by the watchdog, and the login is back."""
    hung = appliance.property("MainPID")
    appliance.root.run(f"kill -STOP {hung}")
    appliance.await_login()

    assert appliance.property("MainPID") != hung
    assert "Failed with result 'watchdog'" in appliance.root.run(f"{JOURNAL} --lines 50 --unit {UNIT}")


def test_crashes_without_end(appliance: Appliance, person: Person) -> None:
    """However often it is killed, systemd does not give up: the last door opens again."""
    another = f'pid=$(systemctl show --value -p MainPID {UNIT}) && [ $pid != 0 ] && [ $pid != "$last" ]'
    crash = f"until {another}; do :; done; kill -KILL $pid; last=$pid"
    before = int(appliance.property("NRestarts"))
    with appliance.service_settings("RestartSec=100ms"):
        appliance.root.run(f"for i in $(seq {CRASHES}); do {crash}; done")
        appliance.until(lambda: int(appliance.property("NRestarts")) >= before + CRASHES)
        appliance.await_login()

    assert int(appliance.property("NRestarts")) == before + CRASHES
    assert "lunash:>" in appliance.log_in().run("help")
