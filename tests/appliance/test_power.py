# SPDX-License-Identifier: Apache-2.0
"""The power of the whole appliance fails in the middle of a reset."""

import pytest

from tests.support.guest.appliance import Appliance
from tests.support.guest.interrupted import complete, is_shown, reset_command
from tests.support.person import Person

SERIAL = "AABB50"


@pytest.mark.parametrize("transfer", ["VERIFY", "ACTIVATE FILE"])
def test_power_fails_in_a_reset(transfer: str, appliance: Appliance, person: Person) -> None:
    """With no time to write anything more, right after the intent and between the two halves of the reset.

    The next start has the same accounts and an unbroken audit, tells of the reset, and completes it.
    """
    appliance.plug(appliance.tokens.make(SERIAL, keys=2))
    before = appliance.tokens.flash(SERIAL)
    cable = appliance.tokens.cable(SERIAL)
    cable.count_from_here(transfer, appliance.power_off)
    person.type(f"{reset_command(SERIAL)}\r")
    cable.wait_cut()
    appliance.power_on()

    assert is_shown(appliance, SERIAL)
    assert '"reset-intent"' in [line for line in appliance.audit().splitlines() if f'"serial":"{SERIAL}"' in line][-1]
    complete(appliance, SERIAL, before)
    assert appliance.tokens.flash(SERIAL).kek
