# SPDX-License-Identifier: Apache-2.0
"""The daemon dies by SIGKILL at each step of a reset, in an appliance that goes on.

Of the more than 60 transfers of a reset ten are chosen: one in each of its steps, and for the two commands that change
the token both the command and the answer to it, because there the token and the daemon can disagree. SIGKILL before and
after every command to the card is daemon/test_demo.py; what is added here is the service manager, the kernel and udev.
"""

from collections.abc import Sequence

import pytest

from tests.support.guest.appliance import UNIT, Appliance
from tests.support.guest.interrupted import complete, is_shown, reset_command
from tests.support.person import Person

SERIAL = "AABB30"
KILL = f"systemctl kill --signal=KILL {UNIT}"

# The transfer that does not arrive any more, and which one of that name.
HARMLESS = {
    "opened": ("message 62", 1),
    "selected": ("SELECT", 1),
    "recheck": ("GET DATA", 4),
}
BEGUN = {
    "user PIN": ("VERIFY", 1),
    "admin PIN": ("VERIFY", 5),
    "terminate": ("TERMINATE DF", 1),
    "terminated": ("answer to TERMINATE DF", 1),
    "activate": ("ACTIVATE FILE", 1),
    "activated": ("answer to ACTIVATE FILE", 1),
    "read-back": ("GET DATA", 12),
}


@pytest.fixture(scope="module")
def transfers(booted: Appliance) -> Sequence[str]:
    """The transfers of a whole reset; every other one is the same up to where it is killed."""
    booted.plug(booted.tokens.make(SERIAL, keys=2))
    cable = booted.tokens.cable(SERIAL)
    cable.count_from_here()
    booted.log_in().run(reset_command(SERIAL))
    booted.tokens.discard()
    booted.until(lambda: not booted.listed())
    return cable.transfers


def kill_at(step: tuple[str, int], transfers: Sequence[str], appliance: Appliance, person: Person) -> None:
    """Have the daemon killed in a reset, and be at the login of the next one."""
    name, which = step
    number = [index for index, transfer in enumerate(transfers, 1) if transfer == name][which - 1]
    cable = appliance.tokens.cable(SERIAL)
    cable.count_from_here(number, lambda: appliance.root.run(KILL))
    person.type(f"{reset_command(SERIAL)}\r")
    cable.wait_cut()
    assert cable.transfers == transfers[:number]
    appliance.await_login()


@pytest.fixture
def plugged(transfers: Sequence[str], appliance: Appliance) -> Appliance:
    """The appliance with one token, which has the same keys again; somebody is logged in."""
    assert transfers
    appliance.plug(appliance.tokens.make(SERIAL, keys=2))
    return appliance


@pytest.mark.parametrize("step", HARMLESS.values(), ids=HARMLESS)
def test_killed_before_the_intent(
    step: tuple[str, int], transfers: Sequence[str], plugged: Appliance, person: Person
) -> None:
    """Nothing was begun, nothing is shown, the token is as it was; the next reset is the first."""
    before = plugged.tokens.flash(SERIAL)
    kill_at(step, transfers, plugged, person)

    assert not is_shown(plugged, SERIAL)
    assert plugged.tokens.flash(SERIAL) == before
    complete(plugged, SERIAL, before)


@pytest.mark.parametrize("step", BEGUN.values(), ids=BEGUN)
def test_killed_after_the_intent(
    step: tuple[str, int], transfers: Sequence[str], plugged: Appliance, person: Person
) -> None:
    """The next login and `token backup list` tell of the reset, and running it again completes it."""
    before = plugged.tokens.flash(SERIAL)
    kill_at(step, transfers, plugged, person)

    assert is_shown(plugged, SERIAL)
    complete(plugged, SERIAL, before)
