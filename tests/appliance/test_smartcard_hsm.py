# SPDX-License-Identifier: Apache-2.0
"""A SmartCard-HSM on the booted appliance: OpenSC's word, through pcscd and libccid, against ours."""

import pytest

from appliance.simulator.descriptors import Level
from tests.support.families import SMARTCARD_HSM
from tests.support.guest.appliance import JOURNAL, STATE, Appliance
from tests.support.guest.ssh import Ssh
from tests.support.person import PROMPT
from tests.support.vendor import SUCCESS

SERIAL = SMARTCARD_HSM.serial
RESET = f"token backup factoryReset -serial {SERIAL} -force"
SO_PIN, WRONG_SO_PIN = SMARTCARD_HSM.credential, SMARTCARD_HSM.wrong_credential


def of_opensc(root: Ssh, command: str) -> str:
    """What a program of OpenSC says, through a pcscd that has the device only meanwhile."""
    begin = "systemctl reset-failed pcscd.socket pcscd.service && systemctl start pcscd.socket"  # however often
    return root.run(f"{begin} && {command}; systemctl stop pcscd.socket pcscd.service")


def keys(root: Ssh) -> int:
    """How many private keys OpenSC finds."""
    return of_opensc(root, "pkcs15-tool --list-keys").count("Private EC Key")


def reset(appliance: Appliance, credential: str, tries: int) -> str:
    """Order the reset and type the SO PIN; what is shown."""
    person = appliance.log_in()
    person.type(f"{RESET}\r")
    shown = person.read_until(rf"SO PIN of this token \({tries} tries left\):\n> $")
    person.type(f"{credential}\r")
    return shown + person.read_until(PROMPT)


@pytest.mark.parametrize("level", [Level.TPDU, Level.EXTENDED])
def test_it_is_reset_with_its_so_pin(level: Level, appliance: Appliance) -> None:
    """A wrong SO PIN costs one try, the right one leaves no key for OpenSC; neither is shown or written anywhere.

    libccid and the daemon each speak T=1 to the card by their own means, or cut long APDUs into messages.
    """
    appliance.plug(appliance.tokens.make(SERIAL, keys=1, family="smartcard-hsm", level=level))
    before = keys(appliance.root)
    wrong = reset(appliance, WRONG_SO_PIN, 15)
    still = keys(appliance.root), of_opensc(appliance.root, "sc-hsm-tool")
    right = reset(appliance, SO_PIN, 14)

    assert before == 1
    assert "the SO PIN is wrong" in wrong
    assert "tries left: 14" in wrong
    assert still[0] == 1
    assert "SO-PIN tries left    : 14" in still[1]
    assert f"\n'token backup factoryReset' successful.\n{SUCCESS}" in right
    assert keys(appliance.root) == 0
    assert "SO-PIN tries left    : 15" in of_opensc(appliance.root, "sc-hsm-tool")
    written = appliance.root.run(f"cat {STATE}/*; {JOURNAL} --output=export")
    for pin in (SO_PIN, WRONG_SO_PIN):
        assert pin not in written + wrong + right
