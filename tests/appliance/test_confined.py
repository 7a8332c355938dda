# SPDX-License-Identifier: Apache-2.0
"""What the daemon can reach on the booted appliance, found by trying from inside its very unit, and from outside it."""

import inspect
import json
from collections.abc import Iterator

import pytest

from tests.support.guest import attempts
from tests.support.guest.appliance import STATE, UNIT, Appliance
from tests.support.guest.image import TERMINAL

SERIAL = "AABB03"
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
    # no other line, no other device
    "open /dev/ttyS0": (False, True),
    "open /dev/tty1": (False, True),
    "open /dev/kmsg": (False, True),
    "open /dev/mem": (False, True),
    "open /dev/vda": (False, True),
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


@pytest.fixture(scope="module")
def outcomes(booted: Appliance) -> Iterator[tuple[dict[str, bool], dict[str, bool]]]:
    """What came of the attempts in the unit, which is started anew for it, and what comes of them for root."""
    booted.plug(booted.tokens.make(SERIAL))
    node = booted.root.run("udevadm trigger --verbose --dry-run --property-match=HSM_FAMILY=openpgp").split()[0]
    token = booted.root.run(f"udevadm info --query=name --path={node}").strip()
    booted.root.run(f"cat >{SCRIPT}", text=inspect.getsource(attempts))
    try_all = f"/usr/bin/python3 -I {SCRIPT} /dev/{TERMINAL} /dev/{token} {STATE}"
    booted.root.run(f"mkdir -p $(dirname {DROP_IN}); cat >{DROP_IN}", text=f"[Service]\nExecStartPre={try_all}\n")
    booted.root.run("systemctl daemon-reload")
    booted.restart()
    said = booted.root.run(f"journalctl --unit={UNIT} --output=cat --no-pager | grep '^attempts: ' | tail -n 1")
    outside = booted.root.run(f"systemctl stop {UNIT}; {try_all}; systemctl start {UNIT}")
    booted.await_login()
    yield _outcomes(said), _outcomes(outside)
    booted.root.run(f"rm {DROP_IN} {SCRIPT}; systemctl daemon-reload")
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
