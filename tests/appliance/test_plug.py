# SPDX-License-Identifier: Apache-2.0
"""How soon the console knows of a device that is plugged in, beside ``udevadm monitor`` on the same appliance.

No time is asserted: a busy machine is no fault. The table is for people to read.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

import pytest

from tests.support.guest.appliance import Appliance

PLUGS = 20
GOAL = 50  # ms from udev's event to the daemon's knowledge of it
MONITOR = "/run/plug-monitor"


@dataclass(frozen=True, slots=True)
class Plug:
    """When what happened at one plug: seconds of the appliance's own clock."""

    attached: float  # the plug goes in
    udev: float  # udevadm has udev's event
    heard: float  # the daemon has the device in its inventory
    asked: float  # and has asked it what it is
    listed: float  # and `token backup list` has shown its serial number


@pytest.fixture
def monitor(appliance: Appliance) -> Iterator[str]:
    """``udevadm monitor`` runs on the appliance and writes to the file with this name."""
    unit = "plug-monitor.service"
    program = "udevadm monitor --udev --subsystem-match=usb/usb_device"
    appliance.root.run(f"systemd-run --quiet --unit={unit} -p StandardOutput=truncate:{MONITOR} {program}")
    appliance.until(lambda: "UDEV - the event" in appliance.root.run(f"cat {MONITOR}"))
    yield MONITOR
    appliance.root.run(f"systemctl stop {unit}")


def plug(appliance: Appliance, monitor: str, name: str, number: int) -> float:
    """Plug a token in, the one with this number, have it listed and known, pull it out; when it was plugged in."""
    attach = appliance.tokens.attach_command(name)
    # Nobody types before udev is done: what the console does for a person would be in the figures.
    udev_done = f"until [ $(grep --count ' bind ' {monitor}) -ge {number} ]; do sleep 0.05; done"
    attached = float(appliance.root.run(f"date +%s.%N && {attach} && {udev_done}"))
    appliance.until(lambda: appliance.listed() == [name])
    appliance.log_in().list_tokens()
    appliance.tokens.pull(name)
    appliance.until(lambda: not appliance.listed())
    return attached


def of_udev(appliance: Appliance, monitor: str) -> list[float]:
    """When udevadm had the events of the plugs: it tells the monotonic clock."""
    offset = float(appliance.root.run("python3 -c 'import time; print(time.time() - time.monotonic())'"))
    events = re.findall(r"^UDEV  \[([0-9.]+)\] add ", appliance.root.run(f"cat {monitor}"), re.MULTILINE)
    return [float(event) + offset for event in events]


def of_daemon(log: Sequence[dict[str, str]]) -> list[tuple[float, float, float]]:
    """When each of the devices was heard, had been asked, and was shown by the last list before it was pulled."""
    found, last = [], {}
    for line in log:
        last[line.get("record", line["event"])] = datetime.fromisoformat(line["time"]).timestamp()
        if line.get("record") == "unplug":
            found.append((last.pop("device heard"), last.pop("device asked"), last.pop("result")))
    return found


def table(plugs: Sequence[Plug]) -> str:
    """Median and worst of each span, in milliseconds."""
    rows = [f"{f'{len(plugs)} plugs, ms':44}{'median':>8}{'worst':>8}"]
    for title, start, end in (
        ("plugged in -> udev's event", "attached", "udev"),
        ("udev's event -> known to the daemon", "udev", "heard"),
        ("known -> the device's own answers", "heard", "asked"),
        ("plugged in -> serial in token backup list", "attached", "listed"),
    ):
        spans = [1000 * (getattr(plug, end) - getattr(plug, start)) for plug in plugs]
        rows.append(f"{title:44}{median(spans):8.1f}{max(spans):8.1f}")
    return "\n".join([*rows, f"The goal is {GOAL} ms for the second line. A list is typed when udev is done."])


def test_a_plug_is_known_as_soon_as_udev_tells(
    appliance: Appliance, monitor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every plug is heard by udevadm and by the daemon and shown by the list; when each was is printed."""
    before = len(appliance.logged())
    attached = []
    for number in range(1, PLUGS + 1):
        attached.append(plug(appliance, monitor, appliance.tokens.make(f"B{number:05X}"), number))
    udev = of_udev(appliance, monitor)
    daemon = of_daemon(appliance.logged()[before:])

    assert (len(udev), len(daemon)) == (PLUGS, PLUGS)
    plugs = [Plug(begun, event, *rest) for begun, event, rest in zip(attached, udev, daemon, strict=True)]
    assert all(plug.attached < plug.udev and plug.heard < plug.asked < plug.listed for plug in plugs)
    with capsys.disabled():
        print(f"\n{table(plugs)}")
