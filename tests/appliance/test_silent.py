# SPDX-License-Identifier: Apache-2.0
"""A device that never answers costs its own reset, and nobody else anything."""

import re
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.guest.appliance import Appliance
from tests.support.person import PROMPT

TIMEOUT = 20  # seconds that the console gives a device here
SILENT, OTHER = "E00001", "E00002"
IN_THE_MIDDLE = 40  # transfers: a PIN is being blocked
UNKNOWN = "Contact with the token was lost. Its state is unknown.\n"
NO_ANSWER = "The token does not answer. Nothing was reset.\n"
SUCCESSFUL = "successful.\n"


@pytest.fixture(scope="module")
def impatient(booted: Appliance) -> Iterator[Appliance]:
    """The console waits for a device for seconds only."""
    with booted.configuration("hsm", f"operation_timeout = {TIMEOUT}", f"probe_timeout = {TIMEOUT}"):
        yield booted


class Clock:
    """How long each command took until it was answered."""

    def __init__(self) -> None:
        self.worst = 0.0  # seconds

    def __call__(self, run: Callable[[str], str], command: str) -> str:
        """Run a command; what it shows."""
        begin = time.monotonic()
        shown = run(command)
        self.worst = max(self.worst, time.monotonic() - begin)
        return shown


@pytest.fixture
def clock(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Iterator[Clock]:
    """A clock; its worst time is printed at the end."""
    clock = Clock()
    yield clock
    with capsys.disabled():
        print(f"\n{request.node.name}: the slowest command answered in {clock.worst:.2f} s", end="")


def state(shown: str, serial: str) -> str:
    """The state of a token in a list; "" when it is not in it."""
    found = re.search(rf"Serial #: +{serial}\n(?:.+\n)*?   State: +(.+)\n", shown)
    return found[1] if found else ""


def reset(serial: str) -> str:
    """The command."""
    return f"token backup factoryReset -serial {serial} -force"


@pytest.mark.usefixtures("impatient")
def test_a_device_that_says_nothing_is_unreachable(appliance: Appliance, clock: Clock) -> None:
    """It is listed at once, its reset is refused and destroys nothing, and another device is reset meanwhile."""
    run = appliance.log_in().run
    appliance.tokens.make(SILENT, keys=1, faults=[{"do": "hang"}])
    appliance.tokens.make(OTHER, keys=1)

    appliance.tokens.plug(SILENT, OTHER)
    appliance.until(lambda: state(clock(run, "token backup list"), OTHER) == "initialized")
    assert state(clock(run, "token backup list"), SILENT) == "unknown"
    assert SUCCESSFUL in run(reset(OTHER))
    appliance.until(lambda: state(clock(run, "token backup list"), SILENT) == "unreachable")
    assert NO_ANSWER in run(reset(SILENT))
    assert len(appliance.tokens.flash(SILENT).keys) == 1


@pytest.mark.parametrize("transfers", [0, IN_THE_MIDDLE], ids=["the device hangs", "the cable holds"])
@pytest.mark.usefixtures("impatient")
def test_a_reset_without_an_answer_is_unknown(appliance: Appliance, clock: Clock, transfers: int) -> None:
    """The console says so after its time, is usable again, and the reset is completed once the device is back.

    Whoever comes over the network has answers while the console waits.
    """
    person = appliance.log_in()
    faults = [] if transfers else [{"do": "hang", "at": "TERMINATE DF", "times": 1}]
    appliance.tokens.make(SILENT, keys=1, faults=faults)
    appliance.plug(SILENT)
    cable, let_go = appliance.tokens.cable(SILENT), threading.Event()
    cable.count_from_here(stop_at=transfers, then=let_go.wait)
    try:
        person.type(f"{reset(SILENT)}\r")
        last = "answer to VERIFY" if transfers else "answer to TERMINATE DF"

        def in_the_middle() -> bool:
            shown = clock(appliance.root.run, "lunash -c 'token backup list'")
            assert "INTERRUPTED" not in shown
            return cable.transfers[-1:] == [last] and len(cable.transfers) >= transfers

        appliance.until(in_the_middle)
        assert UNKNOWN in person.read_until(PROMPT)
        shown = clock(person.run, "token backup list")
        assert "INTERRUPTED" in shown
    finally:
        let_go.set()
    appliance.tokens.pull(SILENT)
    appliance.until(lambda: state(person.run("token backup list"), SILENT) == "not attached")

    appliance.plug(SILENT)
    assert SUCCESSFUL in person.run(reset(SILENT))
    assert "INTERRUPTED" not in person.run("token backup list")
    assert not appliance.tokens.flash(SILENT).keys
    appliance.audit()


def test_a_device_that_is_not_enumerated_disturbs_nobody(appliance: Appliance, clock: Clock) -> None:
    """While the kernel waits for it the console answers; it is listed when the kernel has heard of it."""
    run = appliance.log_in().run
    appliance.tokens.make(SILENT)
    cable = appliance.tokens.cable(SILENT)
    cable.hold()
    try:
        appliance.tokens.plug(SILENT, at_once=True)
        for _ in range(20):
            assert state(clock(run, "token backup list"), SILENT) == ""
    finally:
        cable.let_go()
    appliance.until(lambda: state(clock(run, "token backup list"), SILENT) == "zeroized")
