# SPDX-License-Identifier: Apache-2.0
"""A YubiHSM 2 on the booted appliance, which restarts in its reset: Yubico's word, over libusb, against ours."""

import json
import shlex
from pathlib import Path
from typing import Any

from appliance.simulator.yubihsm_flash import DEFAULT_LABEL, DEFAULT_PASSWORD
from tests.support.families import YUBIHSM
from tests.support.guest.appliance import JOURNAL, STATE, Appliance
from tests.support.guest.ssh import Ssh
from tests.support.person import PROMPT
from tests.support.vendor import FAILURE, SUCCESS

SERIAL, OTHER = YUBIHSM.serial, "AABB70"
LIST, SHOW = "token backup list", f"token backup show -serial {SERIAL}"
RESET = f"token backup factoryReset -serial {SERIAL} -force"
PASSWORD, WRONG_PASSWORD = YUBIHSM.credential, YUBIHSM.wrong_credential
IN_USE = {"objects": ["Operator", "key 1"], "usable": ["key 1"]}
BLANK: dict[str, list[str]] = {"objects": [DEFAULT_LABEL], "usable": []}
YUBICO = Path(__file__).parents[1] / "support/guest/yubico.py"
# What anybody can see of processes; some of them end meanwhile.
PROCESSES = r"cat /proc/[0-9]*/comm /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"
WRITTEN = f"cat {STATE}/*; {JOURNAL} --output=export"


def to_yubico(root: Ssh) -> list[Any]:
    """What Yubico's package finds with the password of the device in use, and with the factory's."""
    found: list[Any] = json.loads(
        root.run(shlex.join(["python3", "-c", YUBICO.read_text()]), text=f"{PASSWORD}\n{DEFAULT_PASSWORD}")
    )
    return found


def order(appliance: Appliance, password: str) -> str:
    """Order the reset and type the password; what was shown before the token is at work."""
    person = appliance.log_in()
    person.type(f"{RESET}\r")
    shown = person.read_until(r"password of authentication key 1 of this token:\n> $")
    person.type(f"{password}\r")
    return shown


def test_it_is_reset_with_its_password_where_it_comes_back(appliance: Appliance) -> None:
    """A wrong password resets nothing; the right one leaves Yubico's package one object, and neither is told anywhere.

    The device leaves the bus, and comes back in its port while the reset waits for it.
    """
    person, tokens = appliance.log_in(), appliance.tokens
    appliance.plug(tokens.make(SERIAL, keys=1, family="yubihsm"))
    listed, details = person.run(LIST), person.run(SHOW)
    before = to_yubico(appliance.root)
    wrong = order(appliance, WRONG_PASSWORD) + person.read_until(PROMPT)
    still = to_yubico(appliance.root)
    right = order(appliance, PASSWORD)
    tokens.restarted(SERIAL)
    processes = appliance.root.run(PROCESSES)
    tokens.plug_again(SERIAL)
    right += person.read_until(PROMPT)
    appliance.until(lambda: appliance.listed() == [SERIAL])  # udev may announce it later than the reset finds it
    afterwards = person.list_tokens() + person.run(SHOW)

    assert "State:                              initialized\n" in listed
    for line in ("HSM Model:                          YubiHSM 2\n", "Firmware:                           2.4.1\n"):
        assert line in listed
        assert line in details
    assert "Objects:                            not told without a password\n" in details
    assert before == still == [IN_USE, None]
    assert "The token refused the reset.\n" in wrong
    assert YUBIHSM.refuses in " ".join(wrong.split())
    assert FAILURE in wrong
    assert f"\n'token backup factoryReset' successful.\n{SUCCESS}" in right
    assert afterwards.count("State:                              zeroized\n") == 2
    assert "Objects:                            1\n" in afterwards
    assert to_yubico(appliance.root) == [None, BLANK]
    assert "appliance-console" in processes
    told = processes + appliance.root.run(WRITTEN) + wrong + right + afterwards
    for password in (PASSWORD, WRONG_PASSWORD):
        assert password not in told
    assert [event for event in appliance.events() if event.startswith("reset")][-4:] == [
        *("reset-intent", "reset-outcome not done"),
        *("reset-intent", "reset-outcome done"),
    ]


def test_one_that_is_not_back_in_its_port_in_time_is_unknown(appliance: Appliance) -> None:
    """The console says so after half a minute, and lists it, until the same command completes the reset.

    What comes up in another port meanwhile is not taken for it, whatever it tells.
    """
    tokens, person = appliance.tokens, appliance.log_in()
    appliance.plug(tokens.make(OTHER), tokens.make(SERIAL, keys=1, family="yubihsm"))
    tokens.pull(OTHER)  # it was in the first port, which is the one for the next that is plugged in
    appliance.until(lambda: appliance.listed() == [SERIAL])
    order(appliance, PASSWORD)
    tokens.restarted(SERIAL)
    tokens.plug(SERIAL)
    ended = person.read_until(PROMPT)
    elsewhere = person.run(LIST)
    tokens.pull(SERIAL)
    appliance.until(lambda: not appliance.listed())
    absent = person.run(LIST)
    appliance.plug(SERIAL)
    back = person.run(LIST)
    person.type(f"{RESET}\r")
    tokens.restarted(SERIAL)
    tokens.plug_again(SERIAL)
    completed = person.read_until(PROMPT)

    assert "Contact with the token was lost. Its state is unknown.\n" in ended
    assert "it did not come back after its restart: unplug it and plug it in again" in " ".join(ended.split())
    assert FAILURE in ended
    assert "State:                              not attached\n" in absent
    for shown in (elsewhere, absent, back):
        assert "Factory Reset:                      INTERRUPTED\n" in shown
    assert f"\n'token backup factoryReset' successful.\n{SUCCESS}" in completed
    assert "INTERRUPTED" not in person.run(LIST)
    assert to_yubico(appliance.root) == [None, BLANK]
