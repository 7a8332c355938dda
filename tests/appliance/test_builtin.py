# SPDX-License-Identifier: Apache-2.0
"""A built-in HSM of SoftHSM's on the booted appliance, under the unit's own confinement; other programs look at it."""

import json
from collections.abc import Iterator

import pytest

from tests.support.guest.appliance import JOURNAL, STATE, UNIT, Appliance
from tests.support.vendor import REFUSAL, SUCCESS

SO_PIN, USER_PIN = "so-pin-4711", "user-pin-0815"
FOLDER = f"{STATE}/builtin"
AS_DAEMON = f"runuser -u appliance -- env SOFTHSM2_CONF={FOLDER}/softhsm2.conf"
OF_THE_CONSOLE = f"{JOURNAL} --output=export --unit={UNIT}"  # not that of root, who types a PIN in a command
TOOL = f"{AS_DAEMON} pkcs11-tool --module /usr/lib/softhsm/libsofthsm2.so"


@pytest.fixture
def softhsm(appliance: Appliance) -> Iterator[Appliance]:
    """The appliance with a built-in HSM that nobody has initialised; the folder goes with it."""
    with appliance.configuration("hsm.builtin", 'kind = "softhsm"'):
        yield appliance
    appliance.root.run(f"rm -r {FOLDER}")


def test_it_is_initialised_used_and_reset(softhsm: Appliance) -> None:
    """A key that another program made is there until the reset at the console; over the network there is none."""
    person, root = softhsm.log_in(), softhsm.root
    made = person.answer("hsm init -label vault -force", SO_PIN, SO_PIN)
    root.run(f"{TOOL} --login --login-type so --so-pin {SO_PIN} --init-pin --new-pin {USER_PIN}")
    root.run(f"{TOOL} --login --pin {USER_PIN} --keygen --key-type AES:32 --label kek")
    refused = root.attempt("lunash -c 'hsm factoryReset -force'")
    keys = root.run(f"{TOOL} --login --pin {USER_PIN} --list-objects").count("Secret Key Object")
    done = person.run("hsm factoryReset -force")

    assert f"'hsm init' successful.\n{SUCCESS}" in made
    assert (refused.stdout, refused.returncode) == (REFUSAL.replace("token factoryReset", "hsm factoryReset"), 1)
    assert keys == 1
    assert f"'hsm factoryReset' successful.\n{SUCCESS}" in done
    assert "vault" not in root.run(f"{AS_DAEMON} softhsm2-util --show-slots")
    assert root.run(f"ls {FOLDER}/tokens") == ""
    records = [json.loads(line) for line in softhsm.audit().splitlines()]
    assert [record["outcome"] for record in records if record["event"] == "reset-outcome"][-1] == "done"
    assert SO_PIN not in made + done + softhsm.audit() + root.run(OF_THE_CONSOLE)
