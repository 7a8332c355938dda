# SPDX-License-Identifier: Apache-2.0
"""A device is pulled out at each transfer of a reset, and what is said of it is true."""

import json
import re
from dataclasses import dataclass

from appliance.simulator.openpgp_flash import ADMIN_PIN, TRIES, OpenPgpFlash, Password
from tests.support.guest.appliance import Appliance

UNKNOWN = "Contact with the token was lost. Its state is unknown.\n"
NOT_BEGUN = "Nothing was reset.\n"
SUCCESSFUL = "successful.\n"


@dataclass(frozen=True, slots=True)
class Cut:
    """A reset whose token was pulled at a transfer: what was said, and what the token remembers."""

    name: str
    transfer: str
    said: str
    flash: OpenPgpFlash

    @property
    def untouched(self) -> bool:
        """Whether the token is as it was."""
        tries = [self.flash.pins[pin].tries for pin in (Password.USER, Password.ADMIN)]
        return bool(self.flash.keys) and tries == [TRIES, TRIES]

    @property
    def empty(self) -> bool:
        """Whether it is in factory state."""
        return not (self.flash.keys or self.flash.terminated) and self.flash.pins[Password.ADMIN].matches(ADMIN_PIN)


def reset(appliance: Appliance, name: str) -> str:
    """What the command shows."""
    return appliance.log_in().run(f"token backup factoryReset -serial {name} -force")


def transfers_of_a_reset(appliance: Appliance) -> int:
    """How many bulk transfers a whole reset is."""
    name = appliance.tokens.make("C00000", keys=1)
    appliance.plug(name)
    cable = appliance.tokens.cable(name)
    cable.count_from_here()
    assert SUCCESSFUL in reset(appliance, name)
    count = len(cable.transfers)
    appliance.tokens.pull(name)
    appliance.until(lambda: not appliance.listed())
    return count


def cut(appliance: Appliance, name: str, at: int) -> Cut:
    """Reset a token and pull it out at a transfer."""
    cable = appliance.tokens.cable(name)
    cable.count_from_here(stop_at=at)
    shown = reset(appliance, name)
    cable.wait_cut()
    (said,) = [sentence for sentence in (UNKNOWN, NOT_BEGUN, SUCCESSFUL) if sentence in shown]
    return Cut(name, cable.transfers[at - 1], said, appliance.tokens.flash(name))


def interrupted(appliance: Appliance) -> list[str]:
    """The tokens whose reset the list shows as interrupted."""
    listed = appliance.log_in().run("token backup list").split("Token Details:")
    return [re.findall(r"Serial #: +(\S+)", block)[0] for block in listed if "INTERRUPTED" in block]


def audited(appliance: Appliance, event: str) -> list[str]:
    """The serial numbers of the records of this kind, in an audit trail that is unbroken."""
    records = [json.loads(line) for line in appliance.audit().splitlines()]
    return [record["serial"] for record in records if record["event"] == event]


def test_a_device_pulled_at_any_transfer_is_told_of_truly(appliance: Appliance) -> None:
    """Nothing is called done or not done but what is; the rest is shown as interrupted; the command completes it."""
    count = transfers_of_a_reset(appliance)
    assert count > 60
    names = [appliance.tokens.make(f"C{at:05X}", keys=1) for at in range(1, count + 1)]
    appliance.plug(*names)

    cuts = [cut(appliance, name, at) for at, name in enumerate(names, 1)]

    unknown = [one.name for one in cuts if one.said == UNKNOWN]
    assert [one for one in cuts if one.said == NOT_BEGUN and not one.untouched] == []
    assert [one for one in cuts if one.said == SUCCESSFUL and not one.empty] == []
    assert unknown == [name for name in audited(appliance, "reset-intent") if name in names]
    assert interrupted(appliance) == unknown

    appliance.until(lambda: not appliance.listed())
    appliance.plug(*names)
    assert interrupted(appliance) == unknown
    assert [name for name in names if SUCCESSFUL not in reset(appliance, name)] == []
    assert interrupted(appliance) == []
    assert [name for name in names if not Cut(name, "", SUCCESSFUL, appliance.tokens.flash(name)).empty] == []
    assert audited(appliance, "reset-intent")[-count:] == names
