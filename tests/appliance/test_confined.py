# SPDX-License-Identifier: Apache-2.0
"""What the daemon can reach on the booted appliance, found by trying from inside its very unit, and from outside it."""

import inspect
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from appliance.simulator.descriptors import Looks
from appliance.simulator.families import FAMILIES, OPENPGP
from tests.support.guest import attempts
from tests.support.guest.appliance import JOURNAL, STATE, UNIT, Appliance
from tests.support.guest.image import TERMINAL

SERIAL, OTHER = "AABB03", "AABB04"
NO_HSM = Looks(0x1D6B, 0x0104, "Something else")  # ids of no driver
NODES = "/dev/open-to-all"
SCRIPT = "/run/attempts.py"
DROP_IN = f"/run/systemd/system/{UNIT}.d/attempts.conf"

# What is tried: whether the unprivileged daemon may, and whether root may who is not confined.
REACHED = {
    f"open /dev/{TERMINAL}": (True, True),
    "open the token": (True, True),
    "write the state": (True, True),
    "netlink": (True, True),
    "unix socket": (True, True),
    "open /dev/ptmx": (True, True),  # `DevicePolicy=closed` lets everybody have a pair of his own, which leads nowhere
    # no other line, no other device, not even through a node whose mode allows it: the unit's device policy refuses
    "open ttyS0, were it open to all": (False, True),
    "open tty1, were it open to all": (False, True),
    "open kmsg, were it open to all": (False, True),
    "open mem, were it open to all": (False, True),
    "open vda, were it open to all": (False, True),
    # The device policy can only name all USB devices: what is no HSM is refused by the owner and mode of its node.
    "open another USB device": (False, True),
    # no network
    "inet socket": (False, True),
    "inet6 socket": (False, True),
    "packet socket": (False, True),
    # nothing of anybody else's
    "write /etc": (False, True),
    "write /usr": (False, True),
    "write /run": (False, True),
    "write /var/log": (False, True),
    "read /etc/shadow": (False, True),
    "read /root": (False, True),
    "see process 1": (False, True),
    "mount": (False, True),
    "become another user": (False, True),
}


def node(appliance: Appliance, serial: str) -> str:
    """The device node of the one that tells this serial number, once udev is done with it."""
    found = f"grep --files-with-matches {serial} /sys/bus/usb/devices/*/serial"
    appliance.until(lambda: appliance.root.attempt(found).stdout.count("\n") == 1)
    name = appliance.root.run(f"udevadm settle; udevadm info --query=name --path=$(dirname $({found}))")
    return f"/dev/{name.strip()}"


@pytest.fixture(scope="module")
def outcomes(booted: Appliance) -> Iterator[tuple[dict[str, bool], dict[str, bool]]]:
    """What came of the attempts in the unit, which is started anew for it, and what comes of them for root."""
    booted.plug(booted.tokens.make(SERIAL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, OPENPGP.name, replace(OPENPGP, looks=NO_HSM))
        booted.tokens.plug(booted.tokens.make(OTHER))
    token, other = node(booted, SERIAL), node(booted, OTHER)
    booted.root.run(f"mkdir {NODES}; cd /dev; cp --archive ttyS0 tty1 kmsg mem vda {NODES}; chmod 666 {NODES}/*")
    booted.root.run(f"cat >{SCRIPT}", text=inspect.getsource(attempts))
    try_all = f"/usr/bin/python3 -I {SCRIPT} /dev/{TERMINAL} {token} {other} {NODES} {STATE}"
    booted.root.run(f"mkdir -p $(dirname {DROP_IN}); cat >{DROP_IN}", text=f"[Service]\nExecStartPre={try_all}\n")
    booted.root.run("systemctl daemon-reload")
    booted.restart()
    said = booted.root.run(f"{JOURNAL} --unit={UNIT} --output=cat | grep '^attempts: ' | tail -n 1")
    outside = booted.root.run(f"systemctl stop {UNIT}; {try_all}; systemctl start {UNIT}")
    booted.await_login()
    yield _outcomes(said), _outcomes(outside)
    booted.root.run(f"rm -r {DROP_IN} {SCRIPT} {NODES}; systemctl daemon-reload")
    booted.tokens.discard()
    booted.until(lambda: not booted.listed())


def _outcomes(said: str) -> dict[str, bool]:
    outcomes: dict[str, bool] = json.loads(said.removeprefix("attempts: "))
    return outcomes


@pytest.mark.parametrize("attempt", REACHED)
def test_the_daemon_reaches_only_what_it_should(
    outcomes: tuple[dict[str, bool], dict[str, bool]], attempt: str
) -> None:
    """Its port, tokens and state, and nothing else; root can do each of these things, so that each could be done."""
    inside, outside = outcomes

    assert (inside[attempt], outside[attempt]) == REACHED[attempt]


def test_every_attempt_is_judged(outcomes: tuple[dict[str, bool], dict[str, bool]]) -> None:
    """Nothing is tried that no test looks at."""
    assert set(outcomes[0]) == set(outcomes[1]) == set(REACHED)
