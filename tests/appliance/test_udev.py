# SPDX-License-Identifier: Apache-2.0
"""The udev of a running Debian: whom it lets at a device, and what the console makes of its storms and silences."""

import re

import pytest

from tests.support.guest.appliance import UNIT, Appliance

STAYS, GOES, COMES = "AABB40", "AABB41", "AABB42"
ROOT_HUB = "/dev/bus/usb/001/001"
DISTURBANCES = {
    "restarted": "systemctl restart systemd-udevd",
    "rules read anew": "udevadm control --reload",
    "storm on USB": "for i in $(seq 10); do udevadm trigger --subsystem-match=usb; done",
    "storm everywhere": "for i in $(seq 10); do udevadm trigger; done",
}
# The daemon may not enlarge its buffer: it holds about 170 messages. Each of these is one for each device, also for
# the 16 root hubs of the simulated bus controllers.
MORE_THAN_FITS = "for i in $(seq 20); do udevadm trigger --property-match=DEVTYPE=usb_device; done"


@pytest.fixture
def plugged(appliance: Appliance) -> Appliance:
    """The appliance with two tokens, and a third at hand."""
    for serial in (STAYS, GOES, COMES):
        appliance.tokens.make(serial)
    appliance.plug(STAYS, GOES)
    return appliance


def the_inventory_is_right(appliance: Appliance) -> None:
    """In the end there is what is plugged in, once each."""
    appliance.until(lambda: sorted(appliance.listed()) == [STAYS, COMES])


def test_the_node_of_a_token(appliance: Appliance) -> None:
    """It is for root and the group of the HSMs; udev says what family it may be of."""
    appliance.plug(appliance.tokens.make(STAYS))
    shown = appliance.log_in().run(f"token backup show -serial {STAYS}")
    (place,) = re.findall(r"USB Bus/Address: +(\S+)", shown)
    node = f"/dev/bus/usb/{place}"

    assert appliance.root.run(f"stat --format '%U %G %a' {node}") == "root appliance-hsm 660\n"
    assert "HSM_FAMILY=openpgp\n" in appliance.root.run(f"udevadm info --query property {node}")


def test_the_node_of_another_device(appliance: Appliance) -> None:
    """A root hub is nobody's HSM: its node is as the distribution has it, and the daemon may not write to it."""
    assert appliance.root.run(f"stat --format '%U %G %a' {ROOT_HUB}") == "root root 664\n"
    assert "DEVTYPE=usb_device\n" in (told := appliance.root.run(f"udevadm info --query property {ROOT_HUB}"))
    assert "HSM_FAMILY" not in told


@pytest.mark.parametrize("disturbance", DISTURBANCES.values(), ids=DISTURBANCES)
def test_plugged_and_pulled_in_a_disturbance(disturbance: str, plugged: Appliance) -> None:
    """What comes and what goes meanwhile is known afterwards."""
    plugged.tokens.pull(GOES)
    attach = plugged.tokens.attach_command(COMES)
    plugged.root.run(f"({disturbance}) & sleep 0.2; {attach}; wait; udevadm settle")

    the_inventory_is_right(plugged)


def test_more_events_than_the_daemon_can_take(plugged: Appliance) -> None:
    """Events that were lost while it did nothing are noticed, and the bus is looked at anew."""
    with plugged.service_settings("WatchdogSec=300"):
        plugged.restart()
        process = plugged.property("MainPID")
        plugged.root.run(f"kill -STOP {process} && {MORE_THAN_FITS}; udevadm settle")
        plugged.tokens.pull(GOES)
        plugged.tokens.plug(COMES)
        plugged.until(lambda: GOES not in plugged.root.run("cat /sys/bus/usb/devices/*/serial"))
        plugged.root.run(f"udevadm settle; kill -CONT {process}")
        the_inventory_is_right(plugged)

    assert "udev events lost" in plugged.root.run(f"journalctl --no-pager --lines 20 --unit {UNIT}")
    assert plugged.property("MainPID") == process
