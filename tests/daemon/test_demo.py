# SPDX-License-Identifier: Apache-2.0
"""The whole daemon in a process of its own: a person at its serial port, a folder as its USB bus."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.config import hostname_of_machine
from tests.support.demo_process import DemoProcess
from tests.support.person import PASSWORD, PROMPT, Person
from tests.support.vendor import FAILURE, REFUSAL, SUCCESS

RESET = "token backup factoryReset -serial 667788"
BOUND = 30.0  # seconds; no wait of a test lasts longer
PROMPT_HERE = f"[{hostname_of_machine()}] lunash:>"


def test_the_first_login_is_the_vendors_dialogue(demo: DemoProcess) -> None:
    """Banner, login, the password change that is demanded, greeting, result line, prompt."""
    with Person(demo.port) as person:
        shown = person.log_in_first()

    assert re.search(r"Authorized Use Only\n\n\[[\w.-]+\] ttyS0 login: admin\nPassword: \n", shown)
    assert "You are required to change your password immediately (root enforced)\n" in shown
    assert shown.endswith(" Command Line Shell\n\n" + shown[shown.index("Command Result: 0 (Success)\n") :])
    assert "PASSWORD" not in shown.replace("UNIX", "")
    assert PASSWORD not in shown


def test_a_token_is_reset_read_back_and_recorded(demo: DemoProcess, person: Person) -> None:
    """From plugging in to the proof, through the real daemon; the audit tells all of it."""
    token = demo.token(keys=3)

    assert "State:                              initialized" in person.list_tokens()
    assert person.run(f"{RESET}\rproceed").endswith(
        "          > proceed\n\n'token backup factoryReset' successful.\n" + SUCCESS + PROMPT_HERE
    )
    shown = person.run("token backup show -serial 667788")
    assert "State:                              zeroized" in shown
    assert "Keys:                               none" in shown
    content = json.loads(token.read_text())
    assert not content.get("keys")
    events = [(record["event"], record.get("outcome")) for record in demo.audit()]
    intent, outcome = events.index(("reset-intent", None)), events.index(("reset-outcome", "done"))
    assert intent < outcome
    verdict = demo.verify_audit()
    assert (verdict.returncode, "unbroken" in verdict.stdout) == (0, True)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        ("remove", "Specified token was removed or replaced. Nothing was reset."),
        ("replace", "Specified token was removed or replaced. Nothing was reset."),
        ("double", "More than one attached token has this serial number."),
    ],
)
def test_what_happens_to_the_token_at_the_question_is_noticed(
    demo: DemoProcess, person: Person, act: str, sentence: str
) -> None:
    """Pulled, swapped for one with the same number, or doubled while the question stands: nothing is reset."""
    token = demo.token(keys=1)
    person.list_tokens()
    person.type(f"{RESET}\r")
    person.read_until(r"          > $")
    away = token.rename(demo.bus.parent / "away")
    if act == "replace":
        away.rename(token)
    if act == "double":
        (demo.bus / "one.token").write_bytes(away.read_bytes())
        (demo.bus / "two.token").write_bytes(away.read_bytes())

    person.type("proceed\r")
    shown = person.read_until(PROMPT)

    assert sentence in shown or act == "double"
    assert "successful" not in shown
    assert FAILURE in shown
    for path in [*demo.bus.glob("*.token"), *demo.bus.parent.glob("away")]:
        assert json.loads(path.read_text())["keys"]


def test_two_tokens_with_one_serial_are_refused(demo: DemoProcess, person: Person) -> None:
    """Neither is reset, before any question."""
    first = demo.token(keys=1)
    (demo.bus / "twin.token").write_bytes(first.read_bytes())

    shown = person.run(RESET)

    assert "Error:  More than one attached token has this serial number.\n" in shown
    assert person.list_tokens().count("Serial #:                           667788") == 2


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"do": "busy"}, "The token is busy. Nothing was reset.\n        Reason: another program holds the device\n"),
        ({"do": "short", "at": "SELECT", "length": 5}, "The token cannot be used. Nothing was reset."),
    ],
)
def test_a_token_that_cannot_be_opened_is_told_with_its_trouble(
    demo: DemoProcess, person: Person, fault: dict[str, object], sentence: str
) -> None:
    """A token in trouble is listed as unreachable and is not reset; the sentence says why."""
    demo.token(keys=1, faults=[fault])

    listed = person.list_tokens()
    shown = person.run(f"{RESET} -force")

    assert "State:                              unreachable" in listed
    assert f"Error:  {sentence}" in shown
    assert shown.endswith(FAILURE + PROMPT_HERE)


def test_a_damaged_token_file_is_an_unreachable_token(demo: DemoProcess, person: Person) -> None:
    """Rubbish in a token file costs that token, nothing else."""
    (demo.bus / "bad.token").write_text("rubbish")
    demo.token()

    listed = person.list_tokens()

    assert listed.count("unreachable") == 1
    assert listed.count("zeroized") == 1


def test_whoever_ordered_a_reset_reads_what_it_came_to_before_the_console_ends(
    demo: DemoProcess, person: Person
) -> None:
    """Told to stop in the middle of it, the daemon ends after the reset, and after that was said; nobody kills it."""
    demo.token(keys=3, faults=[{"do": "slow", "at": "TERMINATE DF", "seconds": 3}])
    person.type(f"{RESET} -force\r")
    person.read_until("The token is being reset")
    demo.process.send_signal(signal.SIGTERM)

    shown = person.read_until(r"Command Result : \d+ \(.*\)\n")

    assert f"'token backup factoryReset' successful.\n{SUCCESS}" in shown
    assert demo.process.wait(BOUND) == 0
    assert [record["event"] for record in demo.audit()][-4:] == ["reset-outcome", "result", "logout", "stop"]


def test_contact_lost_in_mid_reset_is_unknown_and_completed_later(demo: DemoProcess, person: Person) -> None:
    """A token that leaves after TERMINATE is unknown, shown as interrupted, and reset when it is plugged in again."""
    token = demo.token(keys=3, faults=[{"do": "vanish", "at": "TERMINATE DF", "times": 1}])

    shown = person.run(f"{RESET} -force")
    assert "Error:  Contact with the token was lost. Its state is unknown.\n" in shown
    assert FAILURE in shown
    listed = person.list_tokens()
    assert "INTERRUPTED" in listed
    assert "not attached" in listed
    token.rename(demo.bus.parent / "hand").rename(token)
    listed = person.list_tokens()
    assert "terminated" in listed
    assert "INTERRUPTED" in listed
    assert "successful" in person.run(f"{RESET} -force")
    assert "INTERRUPTED" not in person.list_tokens()


def reset_commands(folder: Path) -> list[int]:
    """The numbers of the commands to the card, counted from the plug-in, that one whole reset sends."""
    with DemoProcess(folder, "tests.support.counted_demo", {"COUNT_TO": str(folder / "count")}) as demo:
        demo.token(keys=1)
        with Person(demo.port) as person:
            person.log_in_first()
            person.list_tokens()
            begun = len((folder / "count").read_text().splitlines())
            person.run(f"{RESET} -force")
        ended = len((folder / "count").read_text().splitlines())
    return list(range(begun + 1, ended + 1))


def test_killed_at_any_step_the_reset_is_shown_and_completed(tmp_path: Path) -> None:
    """SIGKILL before and after each command to the card: started anew, the daemon shows what is unfinished, ends it.

    Before the first destructive command nothing may be shown, and nothing may be lost.
    """
    (tmp_path / "count").mkdir()
    steps = reset_commands(tmp_path / "count")
    assert len(steps) > 10
    for step in steps:
        for side in ("before", "after"):
            folder = tmp_path / f"{step}-{side}"
            folder.mkdir()
            interrupt_and_complete(folder, step, side)


def interrupt_and_complete(folder: Path, step: int, side: str) -> None:
    """One power cut and what follows it."""
    with DemoProcess(folder, "tests.support.killed_demo", {"KILL_AT": f"{step} {side}"}) as demo:
        token = demo.token(keys=1)
        with Person(demo.port) as person:
            person.log_in_first()
            person.list_tokens()
            person.type(f"{RESET} -force\r")
            demo.wait_killed()
    begun = "reset-intent" in (demo.state / "audit.jsonl").read_text()
    ended = '"reset-outcome"' in (demo.state / "audit.jsonl").read_text()
    with DemoProcess(folder) as demo, Person(demo.port) as person:
        greeting = person.log_in()
        listed = person.list_tokens()
        if begun and not ended:
            assert "WARNING:  The factory reset of token 667788 was interrupted." in greeting, (step, side)
            assert "INTERRUPTED" in listed, (step, side)
        if not begun:
            assert json.loads(token.read_text())["keys"], (step, side)
        assert "successful" in person.run(f"{RESET} -force"), (step, side)
        assert "INTERRUPTED" not in person.list_tokens()
        assert not json.loads(token.read_text())["keys"]
    assert demo.verify_audit().returncode == 0, (step, side)


@pytest.mark.parametrize(
    "line",
    [
        "token backup factoryReset",
        RESET,
        f"{RESET} -force",
        "TOKEN BACKUP FACTORYRESET -x",
        "t b f \"'",
        "token\tbackup\nfactoryReset -serial \x1b",
        f"token backup factoryReset {'x' * 5000}",
    ],
)
def test_the_network_is_refused_to_the_letter(demo: DemoProcess, line: str) -> None:
    """Whatever the arguments and the environment: the vendor's text, an exit status that is not 0, nothing reset."""
    token = demo.token(keys=1)
    forged = {"TTY": "/dev/ttyS0", "SSH_TTY": "/dev/ttyS0", "SSH_CONNECTION": "", "ORIGIN": "local console"}

    for environment in ({}, forged):
        result = demo.lunash("-c", line, environment=environment)

        assert (result.stdout, result.stderr, result.returncode) == (REFUSAL, "", 1)
    assert json.loads(token.read_text())["keys"]
    assert [record["outcome"] for record in demo.audit() if record["event"] == "result"] == ["refused"] * 2


@pytest.mark.parametrize(
    ("line", "status"),
    [("", 0), ("-x", 1), ("token backup list", 0), ("help", 0), ("bogus", 1), ("token backup show -s 1", 1)],
)
def test_lunash_ends_with_0_only_if_the_command_did_what_was_asked(demo: DemoProcess, line: str, status: int) -> None:
    """The exit status is for scripts."""
    assert demo.lunash("-c", line).returncode == status


def test_a_terminal_that_is_taken_away_logs_out(demo: DemoProcess) -> None:
    """Who attaches next finds a login prompt, not the session of the one before; the initial password is not back."""
    with Person(demo.port) as person:
        person.log_in_first()
    with Person(demo.port) as person:
        shown = person.log_in()

    assert "Last login: " in shown
    ends = [record["end"] for record in demo.audit() if record["event"] == "logout"]
    assert ends[0] == "hung up"


def test_a_wrong_password_lets_nobody_in(demo: DemoProcess) -> None:
    """`Login incorrect`, for a user who does not exist as well, and no word of which it was."""
    with Person(demo.port) as person:
        answers = []
        for name in ("admin", "nobody"):
            person.read_until(r"login: $")
            person.type(f"{name}\r")
            person.read_until(r"Password: $")
            person.type("wrong\r")
            answers.append(person.read_until(r"incorrect\n"))

    assert answers[0] == answers[1]
    assert "wrong" not in json.dumps(demo.audit())
    assert [r["actor"] for r in demo.audit() if r["event"] == "login-failed"] == ["admin", "(unknown)"]


def test_state_that_is_damaged_never_opens_the_console(tmp_path: Path) -> None:
    """With a damaged account file nobody logs in, and the console says what is wrong."""
    with DemoProcess(tmp_path) as demo, Person(demo.port) as person:
        person.log_in_first()
    (tmp_path / "state" / "accounts.json").write_text("{}")
    with DemoProcess(tmp_path) as demo, Person(demo.port) as person:
        shown = person.read_until(r"login: $")
        person.type("admin\r")
        person.read_until(r"Password: $")
        person.type("PASSWORD\r")
        answer = person.read_until(r"login: $")

    assert "Nobody can log in." in shown
    assert "accounts.json" in shown
    assert "Login incorrect" in answer


def test_without_an_audit_trail_nothing_is_destroyed(tmp_path: Path) -> None:
    """The console works and says so, but a reset is refused."""
    with DemoProcess(tmp_path) as demo, Person(demo.port) as person:
        token = demo.token(keys=1)
        person.log_in_first()
    (tmp_path / "state" / "audit.jsonl").write_bytes(b"rubbish\n")
    with DemoProcess(tmp_path) as demo, Person(demo.port) as person:
        greeting = person.log_in()
        shown = person.run(f"{RESET} -force")

    assert "No token can be reset." in greeting
    assert "The reset cannot be recorded, so nothing was reset." in shown
    assert json.loads(token.read_text())["keys"]


def test_two_daemons_do_not_share_their_accounts(demo: DemoProcess, person: Person) -> None:
    """A second one on the same state folder says so and ends; the first is not disturbed."""
    arguments = ["demo", "--port-only", "--bus", str(demo.bus), "--state", str(demo.state)]
    second = subprocess.run(  # noqa: S603  the program under test
        [sys.executable, "-m", "appliance", *arguments], capture_output=True, text=True, timeout=30, check=False
    )

    assert second.returncode == 1
    assert second.stderr.endswith(f"appliance-console: {demo.state}: in use by another daemon\n")
    assert SUCCESS in person.run("help")


def test_a_password_typed_behind_a_command_is_not_written_down(demo: DemoProcess, person: Person) -> None:
    """What follows a command that takes nothing gets an error, and stays out of the audit and the log."""
    shown = person.run("my password set Tre0sure-chest")

    assert "Error:  'Tre0sure-chest' is not expected here." in shown
    assert "my password set (and more)" in [record.get("command") for record in demo.audit()]
    assert "Tre0sure" not in json.dumps(demo.audit()) + demo.log.read_text()


def test_what_an_error_repeats_stays_on_its_line(person: Person) -> None:
    """A long line, and one of bytes that are no UTF-8, come back bounded and readable."""
    shown = person.run("x" * 70)

    assert f"Error:  '{'x' * 37}...' is not a valid command.\n" in shown


def test_a_first_start_that_could_not_save_its_account_can_be_repeated(tmp_path: Path) -> None:
    """As long as no account was saved no audit trail is begun, which would say that there had been one."""
    (tmp_path / "state" / "accounts.json").mkdir(parents=True)
    with DemoProcess(tmp_path) as demo, Person(demo.port) as person:
        shown = person.read_until(r"login: $")
    (tmp_path / "state" / "accounts.json").rmdir()
    with DemoProcess(tmp_path) as demo, Person(demo.port) as person:
        person.log_in_first()

    assert "Nobody can log in." in shown


def test_a_state_folder_that_others_can_write_is_complained_of(tmp_path: Path) -> None:
    """It is used all the same, and the audit trail is begun."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    with DemoProcess(tmp_path) as demo, Person(demo.port) as person:
        shown = person.log_in_first()

    assert "its mode must be 0700." in " ".join(shown.split())
    assert demo.verify_audit().returncode == 0
