# SPDX-License-Identifier: Apache-2.0
"""The whole daemon with a built-in HSM: a person at its port, another on the network, and what stays secret."""

from pathlib import Path

from tests.support.demo_process import DemoProcess
from tests.support.person import Person
from tests.support.vendor import REFUSAL
from tests.support.vendor_module import needs_softhsm

pytestmark = needs_softhsm

RIGHT, WRONG = "so-pin-4711", "so-pin-4712"


def test_its_life(tmp_path: Path) -> None:
    """Zeroized, initialised, logged in to, zeroized by three wrong passwords, initialised again, reset."""
    with DemoProcess(tmp_path) as demo, Person(demo.port) as person:
        person.log_in_first()
        shown = [
            person.answer("hsm init -label vault", RIGHT, RIGHT, "proceed"),
            person.answer("hsm login", RIGHT),
            person.run("hsm show"),
            person.answer("hsm login", WRONG),
            person.answer("hsm login", WRONG),
            person.answer("hsm login", "proceed", WRONG),
            person.run("hsm show"),
            person.answer("hsm init -label vault -force", RIGHT, RIGHT),
            person.answer("hsm factoryReset", "proceed"),
            person.run("hsm show"),
        ]
        refused = demo.lunash("-c", "hsm factoryReset -force")
        kept = "".join(
            path.read_text() for path in (demo.log, *demo.state.glob("*.json*"), *demo.state.glob("builtin/*.*"))
        )
        events = [record["event"] for record in demo.audit()]
    screen = "".join(shown)

    assert "Logged In" in shown[2]
    assert [text.count("HSM IS ZEROIZED !!!!") for text in (shown[2], shown[6], shown[9])] == [0, 1, 1]
    assert "LUNA_RET_SO_LOGIN_FAILURE_THRESHOLD" in shown[5]
    assert "'hsm factoryReset' successful." in shown[8]
    assert (refused.stdout, refused.returncode) == (REFUSAL.replace("token factoryReset", "hsm factoryReset"), 1)
    assert (events.count("hsm-init"), events.count("hsm-login"), events.count("reset-outcome")) == (2, 4, 2)
    assert [secret for secret in (RIGHT, WRONG) if secret in screen + kept] == []


def test_a_login_is_over_with_the_session(tmp_path: Path) -> None:
    """Whoever logs in at the console after somebody else is not logged in to the HSM."""
    with DemoProcess(tmp_path) as demo, Person(demo.port) as person:
        person.log_in_first()
        person.answer("hsm init -label vault -force", RIGHT, RIGHT)
        person.answer("hsm login", RIGHT)
        person.type("exit\r")
        person.log_in()
        shown = person.run("hsm show")

    assert "HSM Admin login status:             Not Logged In" in shown


def test_a_killed_daemon_has_counted_the_attempts(tmp_path: Path) -> None:
    """Two wrong passwords are remembered by the daemon that is started anew."""
    with DemoProcess(tmp_path) as demo, Person(demo.port) as person:
        person.log_in_first()
        person.answer("hsm init -label vault -force", RIGHT, RIGHT)
        person.answer("hsm login", WRONG)
        person.answer("hsm login", WRONG)
        demo.process.kill()
    with DemoProcess(tmp_path) as demo, Person(demo.port) as person:
        person.log_in()
        shown = person.run("hsm show")

    assert "1 before HSM zeroization!" in shown
