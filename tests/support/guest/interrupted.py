# SPDX-License-Identifier: Apache-2.0
"""A reset that was interrupted in an appliance: the login that tells of it, and the way to the blank token."""

from dataclasses import replace

from appliance.simulator.openpgp_flash import USER_PIN, OpenPgpFlash, Password
from tests.support.guest.appliance import Appliance
from tests.support.vendor import SUCCESS


def reset_command(serial: str) -> str:
    """What is typed, by somebody who is sure."""
    return f"token backup factoryReset -serial {serial} -force"


def is_shown(appliance: Appliance, serial: str) -> bool:
    """Whether the next login and `token backup list` tell of an interrupted reset; they agree."""
    appliance.log_out()
    listed = "INTERRUPTED" in appliance.log_in().run("token backup list")
    assert listed == (f"The factory reset of token {serial} was interrupted." in appliance.greeting)
    return listed


def complete(appliance: Appliance, serial: str, before: OpenPgpFlash) -> None:
    """Plug the token in and run the command again: the token is blank, on record, and no reset is interrupted."""
    appliance.plug(serial)
    answer = appliance.log_in().run(reset_command(serial))
    after = appliance.tokens.flash(serial)

    assert f"successful.\n{SUCCESS}" in answer
    assert not is_shown(appliance, serial)
    assert before.kek != after.kek
    assert replace(after, kek=b"", pins={}) == OpenPgpFlash(after.serial, b"", {})
    assert after.pins[Password.USER].matches(USER_PIN)
    (outcome,) = [line for line in appliance.audit().splitlines()[-20:] if "reset-outcome" in line][-1:]
    assert f'"serial":"{serial}"' in outcome
    assert '"outcome":"done"' in outcome
