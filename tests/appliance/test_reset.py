# SPDX-License-Identifier: Apache-2.0
"""The whole reset on the serial line, and what programs of other people find on the device before and after."""

import re
from itertools import cycle

import pytest

from appliance.simulator.descriptors import Level
from tests.support.guest.appliance import Appliance
from tests.support.person import PROMPT, Person
from tests.support.vendor import FAILURE, SUCCESS

SERIAL = "AABB01"
RESET = f"token backup factoryReset -serial {SERIAL}"

# GnuPG drives the reader by itself, over libusb. It waits for its agent only so long, which may take longer to start.
# The agent's own daemon may outlive it, and hold the reader.
GNUPG = (
    "mkdir --mode=700 --parents ~/.gnupg; until gpg-connect-agent /bye; do sleep 0.2; done; "
    "gpg --card-status; gpgconf --kill all; "
    "while kill $(pidof scdaemon) 2>/dev/null; do sleep 0.2; done"
)
# OpenSC reaches it through pcscd and libccid.
OPENSC = "systemctl start pcscd.socket && pkcs15-tool --list-keys; systemctl stop pcscd.socket pcscd.service"


# What T=1 is made for, at every fifth command: blocks arrive garbled, or the card asks for shorter ones or more time.
ON_THE_LINE: list[dict[str, object]] = [
    {"at": number, "length": 20, "seconds": 0.1, **fault}
    for number, fault in zip(
        range(3, 400, 5),
        cycle([{"do": "garble"}, {"do": "shrink"}, {"do": "garble", "when": "before"}, {"do": "slow"}]),
        strict=False,
    )
]


def fingerprints(shown: str) -> list[str]:
    """What GnuPG says of the three keys."""
    return re.findall(r"^(?:Signature key|Encryption key|Authentication key)[ .]*: *(.+)$", shown, re.MULTILINE)


@pytest.fixture
def plugged(appliance: Appliance) -> Appliance:
    """The appliance with one token, which has its three keys."""
    appliance.plug(appliance.tokens.make(SERIAL, keys=3))
    return appliance


@pytest.mark.parametrize(("level", "faults"), [(Level.APDU, []), (Level.TPDU, ON_THE_LINE)])
def test_a_reset_token_is_blank_for_others(level: Level, faults: list[dict[str, object]], appliance: Appliance) -> None:
    """GnuPG and OpenSC find three keys before, and none after the dialogue on the terminal; the audit tells it all.

    At TPDU level each of them, and the daemon, speaks T=1 by its own means, on a line where things happen.
    """
    appliance.plug(appliance.tokens.make(SERIAL, keys=3, level=level, faults=faults))
    before = fingerprints(appliance.root.run(GNUPG))
    keys_before = appliance.root.run(OPENSC).count("Private EC Key")
    person = appliance.log_in()
    person.type(f"{RESET}\r")
    question = person.read_until(r"\n {10}> $")
    person.type("proceed\r")
    answer = person.read_until(PROMPT)

    assert "[none]" not in before
    assert (len(before), keys_before) == (3, 3)
    assert "CAUTION:  Are you sure you wish to reset this backup token to\n" in question
    assert f"\n'token backup factoryReset' successful.\n{SUCCESS}" in answer
    assert "State:                              zeroized\n" in person.list_tokens()
    assert fingerprints(appliance.root.run(GNUPG)) == ["[none]"] * 3
    assert "Private EC Key" not in appliance.root.run(OPENSC)
    records = [line for line in appliance.audit().splitlines() if f'"{SERIAL}"' in line]
    assert '"reset-intent"' in records[-2]
    assert '"reset-outcome"' in records[-1]
    assert '"done"' in records[-1]


def test_another_answer_resets_nothing(plugged: Appliance) -> None:
    """Whoever does not type `proceed` keeps everything."""
    shown = plugged.log_in().run(f"{RESET}\rquit")

    assert "successful" not in shown
    assert "[none]" not in fingerprints(plugged.root.run(GNUPG))


def test_a_token_in_use_is_left_alone(plugged: Appliance) -> None:
    """While pcscd holds the device the reset is refused, which names it and its end, and succeeds once it lets go."""
    plugged.root.run("systemctl start pcscd.socket && opensc-tool --name")
    person = plugged.log_in()
    refused = person.run(f"{RESET} -force")
    plugged.root.run("systemctl stop pcscd.socket pcscd.service")

    assert "Error:  The token is busy. Nothing was reset.\n" in refused
    assert "another program holds the device; pcscd runs and takes card readers:" in " ".join(refused.split())
    assert "'systemctl stop pcscd.socket pcscd.service' ends it" in " ".join(refused.split())
    assert FAILURE in refused
    assert "successful" in person.run(f"{RESET} -force")


def test_pulled_at_the_question(plugged: Appliance, person: Person) -> None:
    """A token that is pulled and put in again while the question stands is not the one that was asked about."""
    person.type(f"{RESET}\r")
    person.read_until(r"\n {10}> $")
    plugged.tokens.pull(SERIAL)
    plugged.until(lambda: plugged.listed_on_the_network() == [])
    plugged.tokens.plug(SERIAL)
    plugged.until(lambda: plugged.listed_on_the_network() == [SERIAL])
    person.type("proceed\r")
    shown = person.read_until(PROMPT)

    assert "successful" not in shown
    assert FAILURE in shown
    assert "[none]" not in fingerprints(plugged.root.run(GNUPG))
