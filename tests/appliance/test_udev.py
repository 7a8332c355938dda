# SPDX-License-Identifier: Apache-2.0
"""The udev of a running Debian: whom it lets at a device, and what the console makes of its storms and silences."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.support.guest.appliance import JOURNAL, Appliance
from tests.support.guest.machine import BOUND

STAYS, GOES, COMES = "AABB40", "AABB41", "AABB42"
KOBJECT_UEVENT = "15"  # the protocol of udev's messages (netlink(7))
ROOT_HUB = "/dev/bus/usb/001/001"
SETTLE = "udevadm settle --timeout=300"
ENOUGH, ROUNDS = "/run/disturbed-enough", "/run/disturbances"
AT_LEAST = 10  # times
DISTURBANCES = {
    # systemd gives up on a service that is started too often, unless that is forgotten.
    "restarted": "systemctl reset-failed systemd-udevd; systemctl restart systemd-udevd",
    "rules read anew": "udevadm control --reload",
    "storm on USB": "udevadm trigger --subsystem-match=usb",
    "storm everywhere": "udevadm trigger",
}
# The daemon may not enlarge its buffer: it holds about 170 messages. Each of these is one for each device, also for
# the 16 root hubs of the simulated bus controllers.
MORE_THAN_FITS = "for i in $(seq 14); do udevadm trigger --property-match=DEVTYPE=usb_device; done"


@pytest.fixture
def plugged(appliance: Appliance) -> Appliance:
    """The appliance with two tokens, and a third at hand."""
    for serial in (STAYS, GOES, COMES):
        appliance.tokens.make(serial)
    appliance.plug(STAYS, GOES)
    return appliance


def the_inventory_is_right(appliance: Appliance) -> None:
    """In the end there is what is plugged in, once each; what is asked over the network is asked in no hurry."""
    appliance.until(lambda: sorted(appliance.listed_on_the_network()) == [STAYS, COMES])


def serials_on_the_bus(appliance: Appliance) -> str:
    """The serial numbers of the devices that the kernel knows, whatever udev and the console do."""
    return appliance.root.attempt("cat /sys/bus/usb/devices/*/serial").stdout  # one may go while it is read


@contextmanager
def disturbed(appliance: Appliance, disturbance: str) -> Iterator[Callable[[], int]]:
    """The disturbance begins again and again, until the end of the block; how often it has begun."""
    loop = f"until [ -e {ENOUGH} ]; do echo >>{ROUNDS}; {disturbance} || exit; done; {SETTLE}; rm {ENOUGH}"
    appliance.root.run(f": >{ROUNDS}")
    with ThreadPoolExecutor(1) as elsewhere:
        looping = elsewhere.submit(appliance.root.run, loop, timeout=2 * BOUND)
        try:
            yield lambda: int(appliance.root.run(f"wc -l <{ROUNDS}"))
        finally:
            appliance.root.run(f"touch {ENOUGH}")
        looping.result()


def dropped(appliance: Appliance, process: str) -> int:
    """How many messages of udev the kernel had no room for in a process's sockets (/proc/net/netlink)."""
    sockets = set(re.findall(r"socket:\[(\d+)]", appliance.root.run(f"ls -l /proc/{process}/fd")))
    rows = [line.split() for line in appliance.root.run("cat /proc/net/netlink").splitlines()[1:]]
    drops = {inode: int(number) for _, protocol, *_, number, inode in rows if protocol == KOBJECT_UEVENT}
    return sum(drops[inode] for inode in sockets & drops.keys())


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
    with disturbed(plugged, disturbance) as rounds:
        plugged.until(lambda: rounds() > 0)
        plugged.tokens.pull(GOES)
        plugged.tokens.plug(COMES)
        plugged.until(lambda: GOES not in (there := serials_on_the_bus(plugged)) and COMES in there)
        enough = max(AT_LEAST, rounds() + 1)  # it was still at it
        plugged.until(lambda: rounds() >= enough)

    the_inventory_is_right(plugged)


def test_more_events_than_the_daemon_can_take(plugged: Appliance) -> None:
    """Events that were lost while it did nothing, a plug and a pull among them, are noticed by a look at the bus."""
    with plugged.service_settings("WatchdogSec=0"):  # nor does anything look at the bus from time to time then
        plugged.restart()
        process = plugged.property("MainPID")
        plugged.root.run(f"kill -STOP {process} && {MORE_THAN_FITS}; {SETTLE}")
        overflowed = dropped(plugged, process)
        # In this order, or the one that comes gets the place of the one that goes, of which old events tell.
        plugged.tokens.plug(COMES)
        plugged.tokens.pull(GOES)
        plugged.until(lambda: GOES not in (there := serials_on_the_bus(plugged)) and COMES in there)
        plugged.root.run(SETTLE)
        dropped_then = dropped(plugged, process)
        plugged.root.run(f"kill -CONT {process}")
        the_inventory_is_right(plugged)

    assert dropped_then > overflowed > 0
    assert plugged.root.run(f"{JOURNAL} --lines 1 --grep 'udev events lost' _PID={process}")
    assert plugged.property("MainPID") == process
