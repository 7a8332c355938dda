# SPDX-License-Identifier: Apache-2.0
"""A person at the serial port resets a token of each family, and no PIN or password is left anywhere."""

import json

import pytest

from tests.support.demo_process import DemoProcess
from tests.support.families import SMARTCARD_HSM, Kind, each_family, each_family_with_credential
from tests.support.person import PASSWORD, PROMPT, Person
from tests.support.process_list import process_list
from tests.support.vendor import FAILURE, SUCCESS


def plug(demo: DemoProcess, kind: Kind, *faults: dict[str, object]) -> str:
    """Plug in a token with two keys; the command that resets it."""
    demo.token(kind.serial, 2, faults, kind.simulator.name)
    return f"token backup factoryReset -serial {kind.serial}"


def asked(person: Person, kind: Kind, command: str, credential: str) -> str:
    """What is shown while a reset is confirmed and given its PIN or password, if the token wants one."""
    person.type(f"{command}\rproceed\r")
    shown = ""
    if credential:
        shown = person.read_until(rf"Please enter {kind.asks}:\n> $")
        person.type(f"{credential}\r")
    return shown + person.read_until(PROMPT)


def traces(demo: DemoProcess) -> str:
    """All that the daemon wrote, and what a list of processes shows of it."""
    files = [path for path in demo.state.rglob("*") if path.is_file()]
    written = "\n".join(path.read_bytes().decode("latin-1") for path in (*files, demo.log))
    shown = process_list(demo.process.pid)
    assert "--port-only" in shown
    return written + shown


@each_family
def test_a_token_is_listed_reset_and_read_back(kind: Kind, demo: DemoProcess, person: Person) -> None:
    """Plugged in, shown with its model, firmware and tries, reset as it is asked for, and then shown as empty."""
    command = plug(demo, kind)

    listed = person.list_tokens()
    before = person.run(f"token backup show -serial {kind.serial}")
    done = asked(person, kind, command, kind.credential)
    after = person.run(f"token backup show -serial {kind.serial}")

    assert "State:                              initialized" in listed
    assert f"Serial #:                           {kind.serial}" in before
    name, empty = kind.tells
    assert f"{name}:" in before
    assert f"{name + ':':<36}{empty}" not in before
    assert kind.tries is None or "PIN tries left:" in before
    assert "'token backup factoryReset' successful.\n" + SUCCESS in done
    assert "State:                              zeroized" in after
    assert f"{name + ':':<36}{empty}" in after
    assert [record["outcome"] for record in demo.audit() if record["event"] == "reset-outcome"] == ["done"]


@each_family
@pytest.mark.parametrize("back", [False, True], ids=["pulled", "replugged"])
def test_a_token_that_leaves_at_the_question_is_not_reset(
    kind: Kind, back: bool, demo: DemoProcess, person: Person
) -> None:
    """Nor is it when it has come back: that is another plug-in."""
    command = plug(demo, kind)
    person.list_tokens()
    person.type(f"{command}\r")
    person.read_until(r"          > $")
    token = demo.bus / f"{kind.serial}.token"
    away = token.rename(demo.bus.parent / "away")
    if back:
        away.rename(token)
    person.type("proceed\r")
    if kind.credential:
        person.read_until(rf"Please enter {kind.asks}:\n> $")
        person.type(f"{kind.credential}\r")
    shown = person.read_until(PROMPT)

    assert "Specified token was removed or replaced. Nothing was reset." in shown
    assert FAILURE in shown
    assert json.loads((token if back else away).read_text())["keys"]


@each_family_with_credential
def test_a_wrong_credential_is_told_with_what_is_left(kind: Kind, demo: DemoProcess, person: Person) -> None:
    """It costs one try, where they are counted, as the next question says; no secret is shown or written anywhere."""
    command = plug(demo, kind)
    person.list_tokens()

    refused = asked(person, kind, command, kind.wrong_credential)
    done = asked(person, kind, command, kind.credential)

    assert kind.refuses in " ".join(refused.split())
    assert FAILURE in refused
    assert kind.tries is None or f"({kind.tries - 1} tries left)" in done
    assert "successful." in done
    left = refused + done + traces(demo)
    assert "reset-outcome" in left
    secrets = kind.wrong_credential, kind.credential, PASSWORD
    assert [secret for secret in secrets if secret.lower() in left.lower()] == []


@pytest.mark.parametrize("kind", [SMARTCARD_HSM], ids=["smartcard-hsm"])
@pytest.mark.parametrize("typed", ["1234", "35373632313838300", "353736323138383g"])
def test_what_cannot_be_an_so_pin_costs_nothing(kind: Kind, demo: DemoProcess, person: Person, typed: str) -> None:
    """A slip of the finger does not reach the token, and is told to nobody: it may be nearly the PIN."""
    refused = asked(person, kind, plug(demo, kind), typed)

    assert f"{typed}\n" not in refused
    assert f'"{typed}' not in traces(demo)
    assert "The SO PIN has 16 hexadecimal digits. Nothing was reset." in refused
    assert "SO 15" in person.run(f"token backup show -serial {kind.serial}")


def test_a_token_with_two_numbers_is_reset_under_neither(demo: DemoProcess, person: Person) -> None:
    """What it shows tells of both; a reset by the one finds no token, by the other none that can be reset."""
    plug(demo, SMARTCARD_HSM, {"do": "serial", "at": "SELECT", "serial": "00112233"})

    shown = person.run("token backup show -serial 00112233")
    by_usb = person.run(f"token backup factoryReset -serial {SMARTCARD_HSM.serial} -force")
    by_card = person.run("token backup factoryReset -serial 00112233 -force")

    assert "Conflict: USB says DENK0403514, the card says 00112233" in " ".join(shown.split())
    assert "Specified token does not exist." in by_usb
    assert "This token cannot be reset. Nothing was reset." in by_card
    assert "is reset under neither number" in " ".join(by_card.split())
