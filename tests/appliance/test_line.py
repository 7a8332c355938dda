# SPDX-License-Identifier: Apache-2.0
"""What a terminal on a real UART can do: hold the console, flood it, break it, leave it. The next login works."""

import random

import pytest

from tests.support.guest.appliance import LOGIN, Appliance
from tests.support.person import PROMPT, Person

MINUTE = 60.0
XOFF, XON = "\x13", "\x11"
CTRL_C = "\x03"
PATIENCE = 10.0  # seconds for the echo of a word; one that a failed login throws away is typed again
WORDS = 30  # a bound for a machine that is busy
BREAKS = 200
NOISE = random.Random(16550).randbytes(1_000_000)  # noqa: S311  noise, and the same each time


def take_in(person: Person) -> None:
    """Return when all that was sent before is taken in or thrown away: the last of the words typed now is echoed.

    A login prompt does not tell: there is one after every few of the bytes that are still under way.
    """
    for number in range(WORDS):
        word = f"word{number}"
        person.type(f"{XON}{CTRL_C}{word}")
        if person.sees(f"{word}$", PATIENCE):
            return
    pytest.fail("nothing that was typed is echoed")


def logs_in(appliance: Appliance) -> bool:
    """Whether the next login works, from whatever is on the screen now."""
    take_in(appliance.person)
    appliance.person.type(f"{CTRL_C}\r")
    appliance.await_login()
    return "lunash:>" in appliance.log_in().run("help")


def test_a_terminal_that_holds_an_answer(appliance: Appliance) -> None:
    """With XOFF nothing comes for a minute, the network is served meanwhile, and XON brings the answer."""
    person = appliance.log_in()
    person.type(f"{XOFF}help\r")
    silent = person.sees_nothing_for(MINUTE)
    served = appliance.root.run("lunash -c 'token backup list'")
    person.type(XON)

    assert silent
    assert "Command Result : 0 (Success)" in served
    assert person.read_until(PROMPT).startswith("help\n")


def test_a_terminal_that_holds_too_much(appliance: Appliance) -> None:
    """A terminal that holds more than the kernel keeps for it loses its session, and the next login works."""
    person = appliance.log_in()
    person.type(XOFF + "help\r" * 100)

    assert "help" not in appliance.await_login()
    assert logs_in(appliance)


def test_a_megabyte_of_noise(appliance: Appliance) -> None:
    """A megabyte of random bytes at the login ends in a login that works, with the same daemon."""
    process = appliance.property("MainPID")
    person = appliance.log_out()
    person.send(NOISE)

    assert logs_in(appliance)
    assert appliance.property("MainPID") == process


def test_two_hundred_breaks(appliance: Appliance) -> None:
    """BREAKs, the first of them while a name is typed, lead back to the login by themselves, and it works."""
    person = appliance.log_out()
    person.type("adm")
    person.read_until("adm$")
    for _ in range(BREAKS):
        appliance.machine.send_break()
    person.read_until(LOGIN)  # nothing else was typed

    assert logs_in(appliance)


def test_a_break_takes_a_line_back(appliance: Appliance) -> None:
    """A BREAK in the middle of a command throws it away, and the session goes on."""
    person = appliance.log_in()
    person.type("token backup factoryRes")
    person.read_until("factoryRes$")
    appliance.machine.send_break()

    person.read_until(PROMPT)
    assert "lunash:>" in person.run("help")


def test_another_terminal_at_the_end_of_the_line(appliance: Appliance) -> None:
    """QEMU's UART always reports a carrier: without one to lose, the session is there for the next terminal."""
    appliance.log_in()
    appliance.connect_terminal()
    appliance.person.type("\r")

    appliance.person.read_until(PROMPT)
