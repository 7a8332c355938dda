# SPDX-License-Identifier: Apache-2.0
"""What LunaSH answers, to the letter."""

import asyncio
import re
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.accounts.authenticator import Authenticator
from appliance.accounts.store import Account, AccountStore, Role
from appliance.audit import AuditLog
from appliance.errors import (
    AmbiguousSerial,
    AttachmentChanged,
    Break,
    DeviceBusy,
    DeviceError,
    DeviceGone,
    DeviceTimeout,
    EndOfFile,
    Hangup,
    Interrupt,
    PasswordRefused,
    ResetUnsupported,
    SerialMismatch,
    StateError,
    Timeout,
    UnknownSerial,
    WrongClass,
)
from appliance.hsm.attempts import Attempts
from appliance.hsm.builtin import BuiltinHsm
from appliance.hsm.manager import Manager
from appliance.hsm.model import Credential, Device, HsmClass, Intent, Outcome
from appliance.hsm.reset import Report
from appliance.shell import dialogue
from appliance.shell.commands import TREE
from appliance.shell.commands.token import completion
from appliance.shell.grammar import Command, find, is_word, parse
from appliance.shell.invocation import Origin, Services
from appliance.shell.session import Session
from tests.support.fake_manager import FakeManager, token
from tests.support.fake_terminal import Answer, FakeTerminal
from tests.support.vendor import FAILURE, REFUSAL, SUCCESS

RESET = "token backup factoryReset -serial 667788"
CAUTION = """
CAUTION:  Are you sure you wish to reset this backup token to
          factory default settings? All data will be erased.

          Type 'proceed' to return the token to factory default, or
          'quit' to quit now.
          > """


class FakeStore:
    """An account store that keeps nothing."""

    def __init__(self, *refusals: Exception) -> None:
        self.refusals = list(refusals)
        self.passwords: list[str] = []

    async def set_password(self, name: str, new: str) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.passwords.append(new)


class FakeAuthenticator:
    """Knows one password."""

    def __init__(self, account: Account) -> None:
        self.account = account

    async def login(self, line: str, name: str, password: str) -> Account | None:
        return self.account if password == "PASSWORD" else None  # noqa: S105  the documented initial one


class FakeAudit:
    """Keeps records in memory, or cannot."""

    def __init__(self) -> None:
        self.records: list[dict[str, str | int]] = []
        self.full = False

    async def record(self, event: str, *, actor: str, origin: str, **fields: str | int) -> int:
        if self.full:
            raise StateError(Path("audit.jsonl"), "No space left on device")
        self.records.append({"event": event, "actor": actor, "origin": origin, **fields})
        return len(self.records)


@dataclass
class Shell:
    """A session and everything around it."""

    manager: FakeManager = field(default_factory=lambda: FakeManager([token()]))
    origin: Origin = Origin.LOCAL_CONSOLE
    account: Account = field(default_factory=lambda: an_account())
    store: FakeStore = field(default_factory=FakeStore)
    audit: FakeAudit = field(default_factory=FakeAudit)

    def session(self, terminal: FakeTerminal) -> Session:
        services = Services(
            cast(Manager, self.manager),
            BuiltinHsm(
                cast(Manager, self.manager), Attempts(Path("/nonexistent/attempts")), cast(AuditLog, self.audit)
            ),
            cast(AccountStore, self.store),
            cast(Authenticator, FakeAuthenticator(self.account)),
            cast(AuditLog, self.audit),
            "Network HSM 0.1",
            "local_host",
        )
        where = "Console" if self.origin is Origin.LOCAL_CONSOLE else "192.0.2.7/40847"
        return Session(terminal, self.account, self.origin, where, services)

    async def command(self, line: str, *answers: Answer) -> str:
        """Run one command; what was shown."""
        terminal = FakeTerminal(*answers)
        self.done = await self.session(terminal).run_command(line)
        return terminal.screen


def an_account(**changes: object) -> Account:
    account = Account("admin", Role.ADMIN, verifier=None, must_change=False)  # type: ignore[arg-type]  # never checked here
    return replace(account, **changes)  # type: ignore[arg-type]  # a builder for tables


INTENT = Intent("667788", "openpgp", HsmClass.BACKUP, "234b:0000", "SIM", "2026-01-30T11:24:00Z", "admin", "Console")
YUBIHSM = replace(token(), family="yubihsm")
LUNA = replace(token("7550054"), family="luna")


def compared(family: str, serial: str) -> str:
    """As the families compare serial numbers."""
    return serial.lstrip("0") if family == "luna" else serial


async def test_proceed_resets_the_token_and_says_so_as_the_vendor_does() -> None:
    """Without -force the CAUTION block is shown, and after `proceed` the success line and result 0."""
    shell = Shell()

    screen = await shell.command(RESET, "proceed")

    assert screen == f"{CAUTION}proceed\n\n'token backup factoryReset' successful.\n{SUCCESS}"
    assert shell.manager.resets == [("667788", "admin", "Console")]
    assert shell.done


@pytest.mark.parametrize(
    "line", [f"{RESET} -force", "t b f -f -s 667788", "TOKEN BACKUP FACTORYRESET -FORCE -SERIAL 667788"]
)
async def test_force_skips_the_question(line: str) -> None:
    """With -force there is only an empty line and the success line."""
    shell = Shell()

    assert await shell.command(line) == f"\n'token backup factoryReset' successful.\n{SUCCESS}"
    assert len(shell.manager.resets) == 1


@pytest.mark.parametrize("answer", [" proceed ", "proceed  "])
async def test_blanks_around_proceed_do_not_matter(answer: str) -> None:
    """Blanks around the word are ignored."""
    shell = Shell()
    await shell.command(RESET, answer)

    assert shell.done


@pytest.mark.parametrize(
    "answer",
    ["quit", "", "PROCEED", "Proceed", "proceed now", "y", "yes", "proceed\x00", Interrupt(), EndOfFile(), Break()],
)
async def test_anything_but_proceed_aborts(answer: Answer) -> None:
    """Any other answer touches nothing, says `aborted` and ends with 65535."""
    shell = Shell()

    screen = await shell.command(RESET, answer)

    assert screen.endswith(f"\n'token backup factoryReset' aborted.\n{FAILURE}")
    assert shell.manager.resets == []
    assert not shell.done


async def test_no_answer_in_time_aborts_and_ends_the_session() -> None:
    """The time limit aborts like `quit`, and the session is over."""
    shell, terminal = Shell(), FakeTerminal(RESET, Timeout())
    with pytest.raises(Timeout):
        await shell.session(terminal).run()

    assert terminal.screen.endswith(f"\n'token backup factoryReset' aborted.\n{FAILURE}")
    assert shell.manager.resets == []


async def test_a_hangup_at_the_question_touches_nothing() -> None:
    """When the line is gone at the question, nothing is reset and nothing more is written."""
    shell, terminal = Shell(), FakeTerminal(RESET, Hangup())
    with pytest.raises(Hangup):
        await shell.session(terminal).run()

    assert shell.manager.resets == []


@pytest.mark.parametrize("event", [Hangup(), asyncio.CancelledError()])
@pytest.mark.parametrize("resets", [False, True])
async def test_a_command_that_is_left_has_a_result_in_the_audit(event: BaseException, resets: bool) -> None:
    """Hung up or stopped, at a question or in a reset: how it ended is not known, and that is recorded."""

    async def leave() -> None:
        raise event

    shell = Shell(FakeManager([token()], during=leave if resets else None))
    with pytest.raises(type(event)):
        await shell.command(RESET, "proceed" if resets else event)

    records = [{**record, "actor": "", "origin": ""} for record in shell.audit.records]
    assert len(shell.manager.resets) == resets
    assert records == [
        {"event": "command", "actor": "", "origin": "", "command": RESET},
        {
            "event": "result",
            "actor": "",
            "origin": "",
            "command": "token backup factoryReset",
            "code": 65535,
            "outcome": "unknown",
            "note": "hung up",
        },
    ]


def frame(code: str, sentence: str, command: str = "token backup factoryReset") -> str:
    return f"\n\nError:  '{command}' failed. ({code})\n\nError:  {sentence}\n\n{FAILURE}"


UNKNOWN = (
    "C000040A : RC_OBJECT_NOT_IN_LIST",
    "Specified token does not exist.\n        Use 'token backup list' to list all available tokens.",
)


NOT_BACKUP = "Specified token is a PKI token, not a backup token.\n        Use the commands of 'token pki' for it."


@pytest.mark.parametrize(
    ("problem", "code", "sentence"),
    [
        (UnknownSerial("1"), *UNKNOWN),
        (WrongClass("1"), UNKNOWN[0], NOT_BACKUP),
        (
            AmbiguousSerial("1"),
            "70000 : CKR_ARGUMENTS_BAD",
            "More than one attached token has this serial number.",
        ),
    ],
)
@pytest.mark.parametrize("force", ["", " -force"])
async def test_a_serial_that_leads_to_no_single_backup_token_is_refused_unasked(
    problem: Exception, code: str, sentence: str, force: str
) -> None:
    """No question is asked about a token that cannot be reset, -force or not."""
    shell = Shell(FakeManager(problem=problem))

    assert await shell.command(RESET + force) == frame(code, sentence)
    assert shell.manager.resets == []


@pytest.mark.parametrize(
    ("failure", "code", "sentence"),
    [
        (AttachmentChanged("1"), UNKNOWN[0], "Specified token was removed or replaced. Nothing was reset."),
        (DeviceGone("x"), UNKNOWN[0], "Specified token was removed or replaced. Nothing was reset."),
        (SerialMismatch("1", "2"), UNKNOWN[0], "The token reports another serial number. Nothing was reset."),
        (
            DeviceBusy("x"),
            "300000 : CKR_DEVICE_ERROR",
            "The token is busy. Nothing was reset.\n        Reason: x",
        ),
        (
            DeviceTimeout("x"),
            "300000 : CKR_DEVICE_ERROR",
            "The token does not answer. Nothing was reset.\n"
            "        Unplug it, plug it in again and repeat the command.",
        ),
        (
            ResetUnsupported("no life cycle"),
            "540000 : CKR_FUNCTION_NOT_SUPPORTED",
            "This token cannot be reset. Nothing was reset.\n        Reason: no life cycle",
        ),
        (
            StateError(Path("/x"), "No space left on device"),
            "50000 : CKR_GENERAL_ERROR",
            "The reset cannot be recorded, so nothing was reset.\n        Reason: No space left on device",
        ),
        (
            DeviceError("odd\x1b[2J"),
            "300000 : CKR_DEVICE_ERROR",
            "The token cannot be used. Nothing was reset.\n        Reason: odd\\x1b[2J",
        ),
    ],
)
async def test_each_failure_before_the_reset_has_its_own_sentence(failure: Exception, code: str, sentence: str) -> None:
    """Whatever goes wrong before the first destructive byte says that nothing was reset."""
    shell = Shell(FakeManager([token()], failure=failure))

    assert await shell.command(f"{RESET} -f") == frame(code, sentence)
    assert not shell.done


AGAIN = "Unplug it, plug it in again and"


@pytest.mark.parametrize(
    ("failure", "code", "sentence"),
    [
        (DeviceTimeout("x"), "300000 : CKR_DEVICE_ERROR", f"The token does not answer.\n{AGAIN} repeat the command."),
        (
            DeviceBusy("'systemctl stop x' ends it"),
            "300000 : CKR_DEVICE_ERROR",
            "The token is busy.\nReason: 'systemctl stop x' ends it",
        ),
        (
            ResetUnsupported("its SO PIN is blocked"),
            "540000 : CKR_FUNCTION_NOT_SUPPORTED",
            "This token cannot be reset.\nReason: its SO PIN is blocked",
        ),
        (DeviceGone("x"), UNKNOWN[0], "Specified token was removed or replaced."),
        (AttachmentChanged("1"), UNKNOWN[0], "Specified token was removed or replaced."),
        (SerialMismatch("1", "2"), UNKNOWN[0], "The token reports another serial number."),
        (
            DeviceError("x"),
            "300000 : CKR_DEVICE_ERROR",
            f"The token cannot be used.\nReason: x\n{AGAIN} run this command again.",
        ),
        (StateError(Path("/x"), "full"), "50000 : CKR_GENERAL_ERROR", "The reset cannot be recorded.\nReason: full"),
    ],
)
async def test_nothing_was_reset_is_never_said_of_a_reset_that_was_begun(
    failure: Exception, code: str, sentence: str
) -> None:
    """While an earlier reset of the token has no outcome, its state is called unknown; what stands in the way, too."""
    shell = Shell(FakeManager([token()], [INTENT], failure=failure))
    lines = f"A reset of this token was begun and has not ended. Its state is unknown.\n{sentence}"

    assert await shell.command(f"{RESET} -f") == frame(code, lines.replace("\n", "\n        "))


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (
            Outcome.UNKNOWN,
            "Contact with the token was lost. Its state is unknown.\n        Reason: why\n"
            "        Run this command again, with the token attached, to complete the reset.",
        ),
        (Outcome.NOT_DONE, "The token refused the reset.\n        Reason: why"),
    ],
)
async def test_only_a_reset_that_was_proved_is_called_successful(outcome: Outcome, sentence: str) -> None:
    """Unknown and not done are said as such, with result 65535."""
    shell = Shell(FakeManager([token()], report=Report(outcome, "why", "667788")))

    assert await shell.command(f"{RESET} -f") == frame("300000 : CKR_DEVICE_ERROR", sentence)
    assert shell.audit.records[-1]["note"] == f"{outcome}: why"


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (DeviceTimeout("x"), "The token does not answer. Nothing was reset."),
        (DeviceBusy("x"), "The token is busy. Nothing was reset.\n        Reason: x\n"),
        (DeviceGone("x"), "Specified token was removed or replaced. Nothing was reset."),
    ],
)
async def test_an_unreachable_token_is_asked_again_and_its_own_trouble_is_told(
    problem: Exception, sentence: str
) -> None:
    """What could not be asked when it was plugged in is asked before the question, and refused if that fails."""
    shell = Shell(FakeManager([token(probe=None, problem="it did not answer")], refreshed=problem))

    screen = await shell.command(RESET)

    assert f"Error:  {sentence}" in screen
    assert "CAUTION" not in screen
    assert shell.manager.resets == []


async def test_a_token_that_came_to_itself_can_be_reset() -> None:
    """A token that another program has let go meanwhile is reset like any other."""
    shell = Shell(FakeManager([token(probe=None, problem="busy")], refreshed=token()))
    await shell.command(RESET, "proceed")

    assert shell.done


async def test_a_token_that_turns_out_to_be_another_is_not_reset() -> None:
    """When the device, once it answers, has another serial number than the one typed, it is not the one."""
    shell = Shell(FakeManager([token(probe=None, problem="busy")], refreshed=token("123456")))

    assert await shell.command(f"{RESET} -force") == frame(*UNKNOWN)
    assert shell.manager.resets == []


async def test_a_token_that_cannot_be_reset_is_refused_unasked() -> None:
    """Where a reset would break the device, the question is not even asked."""
    shell = Shell(FakeManager([token(obstacle="no life cycle")]))

    screen = await shell.command(RESET)

    assert "failed. (540000 : CKR_FUNCTION_NOT_SUPPORTED)" in screen
    assert "CAUTION" not in screen
    assert shell.manager.resets == []


@pytest.mark.parametrize("force", ["", " -force"])
async def test_two_serial_numbers_are_told_before_anything(force: str) -> None:
    """Where USB and the token tell different numbers, a person reads so before the question, and with -force too."""
    shell = Shell(FakeManager([token(conflict="USB says 1, the token says 667788")]))
    note = (
        "\nNOTE:     The serial numbers that USB and the token tell differ: USB says 1,\n"
        "          the token says 667788.\n\n"
    )

    screen = await shell.command(f"{RESET}{force}", "proceed")
    shown = await shell.command("token backup show -serial 667788")

    assert screen.startswith(note + ("'token backup" if force else "CAUTION:  Are you sure"))
    assert len(shell.manager.resets) == 1
    assert "   Conflict:                           USB says 1, the token says 667788\n" in shown


@pytest.mark.parametrize("force", ["", " -force"])
@pytest.mark.parametrize(
    ("typed", "intent", "noted"),
    [
        ("7550054", replace(INTENT, serial="7550054"), True),
        ("0007550054", replace(INTENT, serial="7550054"), True),
        ("0007550054", replace(INTENT, serial="0007550054"), True),
        ("7550054", replace(INTENT, serial="1"), False),
        ("7550054", replace(INTENT, serial="7550054", family="luna"), False),
    ],
)
async def test_whoever_completes_a_reset_is_told_of_another_token(
    typed: str, intent: Intent, noted: bool, force: str
) -> None:
    """Where the number that was given is also that of an interrupted reset of another family, the model is told."""
    shell = Shell(FakeManager([LUNA], [intent], normalise=compared))
    note = (
        "\nNOTE:     A reset of another token with this serial number was interrupted. The\n"
        "          model of this one is OpenPGP card.\n\n"
    )

    screen = await shell.command(f"token backup factoryReset -serial {typed}{force}", "proceed")

    assert screen.startswith((note if noted else "\n") + ("'token backup" if force else "CAUTION:  Are you sure"))


async def shown(terminal: FakeTerminal, text: str) -> None:
    """Wait until the text is on the screen."""
    async with asyncio.timeout(10):
        while text not in terminal.screen:  # noqa: ASYNC110  the screen tells nobody
            await asyncio.sleep(0)


async def test_a_token_that_is_long_asked_again_is_not_waited_for_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that does not answer can take half a minute, and the console says what it waits for."""
    monkeypatch.setattr(dialogue, "_PROGRESS_AFTER", 0.0)
    shell = Shell(FakeManager([token(probe=None, problem="no answer")], refreshed=DeviceTimeout("no answer")))
    terminal = FakeTerminal()
    shell.manager.asking = partial(shown, terminal, "opening it ..")
    await shell.session(terminal).run_command(RESET)

    assert terminal.screen.startswith("\nThe token has not answered yet. It is being asked again.\n  opening it ..")
    assert "Error:  The token does not answer. Nothing was reset." in terminal.screen


async def test_a_long_reset_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the console says that the reset is at work, and which step it is at."""
    monkeypatch.setattr(dialogue, "_PROGRESS_AFTER", 0.0)

    shell = Shell(FakeManager([token()], steps=("block", "terminate")))
    terminal = FakeTerminal()
    shell.manager.during = partial(shown, terminal, "terminate ..")
    await shell.session(terminal).run_command(f"{RESET} -f")

    assert terminal.screen.startswith("\nThe token is being reset. Do not remove it.\n  terminate ..")
    assert terminal.screen.endswith(f"\n\n'token backup factoryReset' successful.\n{SUCCESS}")


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        " -serial 667788",
        " -serial 667788 -force",
        " -f",
        " -x",
        ' "',
        " -serial",
        " -serial 1 -serial 2",
        " rubbish \\x00",
    ],
)
async def test_the_network_is_refused_whatever_the_arguments(arguments: str) -> None:
    """The vendor's refusal, to the letter, before any argument or device is looked at; the audit tells it apart."""
    shell = Shell(origin=Origin.NETWORK)

    assert await shell.command(f"token backup factoryReset{arguments}") == REFUSAL
    assert shell.manager.looked == 0
    assert not shell.done
    assert shell.audit.records[-1] == {
        "event": "result",
        "actor": "admin",
        "origin": "192.0.2.7/40847",
        "command": "token backup factoryReset",
        "code": 0,
        "outcome": "refused",
        "note": "refused: not the local console",
    }


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.MONITOR, Role.AUDIT])
async def test_other_roles_have_no_such_command(role: Role) -> None:
    """A role that may not reset gets the same answer as for a command that does not exist."""
    shell = Shell(account=an_account(role=role))

    screen = await shell.command(RESET)

    assert screen == (
        f"\nError:  '{RESET}' is not a valid command.\n        Use 'help' to list all available commands.\n{FAILURE}"
    )
    assert shell.manager.looked == 0


USAGE = """Usage: token backup factoryReset -serial <serialnum> [-force]


Name         (short)  Description
-----------------------------------
-serial         -s    Specifies the token serial number.
-force          -f    Force the action without prompting.

"""


async def test_a_wrong_argument_gets_an_error_and_the_usage() -> None:
    """What is wrong, then the usage in the vendor's layout, result 65535, and nothing happens."""
    shell = Shell()

    screen = await shell.command("token backup factoryReset")

    assert screen == f"\nError:  The option '-serial <serialnum>' is missing.\n\n{USAGE}{FAILURE}"
    assert shell.manager.looked == 0


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("frobnicate", "'frobnicate' is not a valid command.\n        Use 'help' to list all available commands."),
        ("token bogus", "'token bogus' is not a valid command.\n        Use 'help' to list all available commands."),
        ("x\x1b[2J", "'x\\x1b[2J' is not a valid command.\n        Use 'help' to list all available commands."),
        ("token backup", "'token backup' is not a complete command."),
    ],
)
async def test_what_is_no_command_is_an_error(line: str, sentence: str) -> None:
    """The words are shown back, escaped."""
    shell = Shell()

    screen = await shell.command(line)

    assert screen.startswith(f"\nError:  {sentence}\n")
    assert screen.endswith(FAILURE)
    assert not shell.done


async def test_unknown_words_stay_out_of_the_audit() -> None:
    """People type passwords at the wrong prompt; what is no command is not written down."""
    shell = Shell()
    await shell.command("my-secret-word")

    assert "my-secret-word" not in str(shell.audit.records)


LISTED = """
   Token Details:
   ==============
   Token Label:                        Alice
   Serial #:                           667788
   Firmware:                           3.4
   HSM Model:                          OpenPGP card
   Class:                              backup
   State:                              initialized
"""


async def test_the_list_shows_each_backup_token() -> None:
    """One block for each device in the look of `hsm show`; PKI tokens are not among them."""
    shell = Shell(FakeManager([token(), token("1", hsm_class=HsmClass.PKI)]))

    assert await shell.command("token backup list") == f"\n{LISTED}{SUCCESS}"


async def test_an_empty_list_says_so() -> None:
    """No token is no error."""
    shell = Shell(FakeManager())

    assert await shell.command("token backup list") == f"\n\nNo backup tokens are attached.\n{SUCCESS}"


async def test_a_token_that_hangs_keeps_no_command_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one token does not answer, the list is shown after a moment, with the others and with what it lacks."""
    monkeypatch.setattr(dialogue, "_SETTLING", 0.0)
    shell = Shell(FakeManager([token(), token("1", probe=None)]))
    shell.manager.hanging.clear()

    screen = await shell.command("token backup list")

    assert LISTED in screen
    assert "   State:                              unknown\n   Problem:                            it has not" in screen


async def test_an_interrupted_reset_is_shown_attached_or_not() -> None:
    """The list tells of an unfinished reset and how to complete it."""
    attached = await Shell(FakeManager([token(interrupted=INTENT)], [INTENT])).command("token backup list")
    absent = await Shell(FakeManager([], [INTENT])).command("token backup list")

    for screen in (attached, absent):
        assert screen.count("INTERRUPTED\n   Begun:                              2026-01-30T11:24:00Z by admin\n") == 1
        assert "token backup factoryReset -serial 667788" in screen
    assert "State:                              not attached" in absent


@pytest.mark.parametrize("kept", [None, replace(INTENT, serial="EMULATED")])
async def test_another_familys_token_hides_no_interrupted_reset(kept: Intent | None) -> None:
    """Two families may give the same serial number; the one that is not attached is listed for itself."""
    other = token(interrupted=kept and replace(kept, family="yubihsm"))
    device = replace(other, family="yubihsm")
    screen = await Shell(FakeManager([device], [INTENT])).command("token backup list")

    assert re.findall(r"State: +(\w+)", screen) == ["initialized", "not"]


CLASH = "Unplug the other token with this serial number. 'token backup list' shows the command then."


@pytest.mark.parametrize(
    ("attached", "intent", "advice"),
    [
        ([], INTENT, RESET),
        ([token("1")], INTENT, RESET),
        ([YUBIHSM], INTENT, CLASH),
        ([replace(YUBIHSM, hsm_class=HsmClass.PKI)], INTENT, CLASH),
        ([YUBIHSM, token(interrupted=INTENT)], INTENT, CLASH),
        ([LUNA], replace(INTENT, serial="0007550054", family="pkcs11"), CLASH),
        ([LUNA], replace(INTENT, serial="007 0", family="pkcs11"), f"Give '{RESET.partition(' -')[0]}' this serial"),
        ([replace(LUNA, serial="7 0")], replace(INTENT, serial="007 0", family="pkcs11"), CLASH),
        ([token(interrupted=replace(INTENT, serial="EMULATED"))], replace(INTENT, serial="EMULATED"), RESET),
    ],
)
async def test_no_command_is_shown_that_leads_to_another_token(
    attached: list[Device], intent: Intent, advice: str
) -> None:
    """List and greeting ask what the serial number leads to now, as each family compares it, and say the same."""
    shell, terminal = Shell(FakeManager(attached, [intent], normalise=compared)), FakeTerminal(EndOfFile())
    await shell.session(terminal).run()
    screens = [terminal.screen, await shell.command("token backup list")]

    for screen in screens:
        words = " ".join(screen.split())
        assert advice in words
        assert (f"-serial {intent.serial}" in words) is (advice.endswith(f"-serial {intent.serial}"))
        assert ("Unplug" in words) is (advice == CLASH)


async def test_a_token_of_another_class_now_is_reset_by_the_command_of_today() -> None:
    """What was begun as a backup token's and is configured as a PKI token is no other token that is in the way."""
    shell = Shell(FakeManager([token(interrupted=INTENT, hsm_class=HsmClass.PKI)], [INTENT]))
    terminal = FakeTerminal(EndOfFile())
    await shell.session(terminal).run()

    assert "token pki factoryReset -serial 667788" in terminal.screen
    assert "token pki factoryReset -serial 667788" in await shell.command("token pki list")
    assert "No backup tokens are attached." in await shell.command("token backup list")


UNTYPED = "This serial number cannot be typed. Reset the token with its maker's own program, or destroy it."
QUOTED = "Give 'token backup factoryReset' this serial number in double quotes."


@pytest.mark.parametrize(
    ("serial", "advice"),
    [
        ("667788", f"{RESET}"),
        ("FSIJ-1.2.14-4FD8", "token backup factoryReset -serial FSIJ-1.2.14-4FD8"),
        ('A"B', 'token backup factoryReset -serial A"B'),
        ("X" * 40, f"token backup factoryReset -serial {'X' * 40}"),
        ("X" * 41, UNTYPED),
        ("AB CD", QUOTED),
        (f"{'X' * 20} {'X' * 19}", QUOTED),
        (f"{'X' * 20} {'X' * 20}", UNTYPED),
        ("667788 -force", UNTYPED),
        ("667788 -s 1", UNTYPED),
        ("-1234", UNTYPED),
        ('"667788"', UNTYPED),
        ('A "B', UNTYPED),
        (" 667788", UNTYPED),
        ("A  B", UNTYPED),
        ("caf\u200be", UNTYPED),
        ("\u0661", UNTYPED),
        ("667788\n-force", UNTYPED),
        ("", UNTYPED),
    ],
)
async def test_only_a_serial_number_that_is_one_word_stands_in_a_command(serial: str, advice: str) -> None:
    """What a device calls itself becomes no option of a command that a person types as it is shown."""
    intent, terminal = replace(INTENT, serial=serial), FakeTerminal(EndOfFile())
    device = token(serial, interrupted=intent)
    await Shell(FakeManager([device], [intent])).session(terminal).run()
    screens = [
        await Shell(FakeManager([device], [intent])).command("token backup list"),
        await Shell(FakeManager([], [intent])).command("token backup list"),
    ]
    if is_word(serial):
        screens.append(await Shell(FakeManager([device], [intent])).command(f"token backup show -serial {serial}"))

    assert f" {advice} Command Result: 0" in " ".join(terminal.screen.split())
    for screen in screens:
        assert f"To complete it: {advice} " in " ".join(f"{screen} ".split())


def test_the_command_that_is_shown_is_read_as_it_is_meant() -> None:
    """Whatever a serial number is, the command that completes the reset has it whole, and nothing else."""

    @given(st.text(st.sampled_from("-f1 \"'\t\u00a0\u2028A")) | st.text())
    def read(serial: str) -> None:
        command = completion(cast(Manager, FakeManager()), replace(INTENT, serial=serial))
        found = find(TREE, command, Role.ADMIN)
        assert not command or parse(cast(Command, found.entry), found.rest).options == {"serial": serial}

    read()


SECRET = "3537363231383830"  # noqa: S105  typed at a fake
CREDENTIAL = Credential("SO PIN", "[0-9A-Fa-f]{16}", "The SO PIN has 16 hexadecimal digits.", 15)
ASKED = "Please enter the SO PIN of this token (15 tries left):\n> \n"


def careful_token() -> FakeManager:
    """A token that wants its SO PIN before it resets itself."""
    device = token()
    assert device.probe
    return FakeManager([replace(device, probe=replace(device.probe, credential=CREDENTIAL))])


@pytest.mark.parametrize(("option", "answers"), [("", ["proceed", SECRET]), (" -force", [SECRET])])
async def test_what_the_device_wants_is_asked_for(option: str, answers: list[Answer]) -> None:
    """The SO PIN is asked for unseen, -force or not; it reaches the device and neither the screen nor the audit."""
    shell = Shell(careful_token())
    screen = await shell.command(RESET + option, *answers)

    assert ASKED in screen
    assert screen.endswith(f"'token backup factoryReset' successful.\n{SUCCESS}")
    assert shell.manager.secrets == [SECRET]
    assert SECRET not in f"{screen}{shell.audit.records}"


async def test_a_device_that_wants_nothing_is_given_nothing() -> None:
    """No question but the confirmation."""
    shell = Shell()
    await shell.command(RESET, "proceed")

    assert shell.manager.secrets == [None]


async def test_a_malformed_secret_costs_no_try() -> None:
    """What cannot be an SO PIN never reaches the device."""
    shell = Shell(careful_token())

    assert await shell.command(f"{RESET} -force", "12345678") == f"\n{ASKED}" + frame(
        "70000 : CKR_ARGUMENTS_BAD", "The SO PIN has 16 hexadecimal digits. Nothing was reset."
    ).removeprefix("\n")
    assert shell.manager.resets == []


@pytest.mark.parametrize("event", [Interrupt(), EndOfFile(), Break()])
async def test_no_secret_is_no_reset(event: Exception) -> None:
    """Whoever ends the question aborts the command."""
    shell = Shell(careful_token())
    screen = await shell.command(f"{RESET} -force", event)

    assert screen.endswith(f"\n'token backup factoryReset' aborted.\n{FAILURE}")
    assert shell.manager.resets == []


def pki_token() -> FakeManager:
    """One PKI token, and a backup token whose reset was interrupted."""
    return FakeManager([token("P9", hsm_class=HsmClass.PKI), token("B1", interrupted=INTENT)], [INTENT])


async def test_each_class_lists_its_own() -> None:
    """`token pki` never shows a backup token or its interrupted reset, `token backup` never a PKI token."""
    pki = await Shell(pki_token()).command("token pki list")
    backup = await Shell(pki_token()).command("token backup list")

    assert re.findall(r"Serial #: +(\w+)", pki) == ["P9"]
    assert "Class:                              pki\n" in pki
    assert "INTERRUPTED" not in pki
    assert re.findall(r"Serial #: +(\w+)", backup) == ["B1"]


async def test_no_pki_token() -> None:
    """An empty list says of which class."""
    assert await Shell(FakeManager([])).command("token pki list") == f"\n\nNo PKI tokens are attached.\n{SUCCESS}"


async def test_a_pki_token_is_reset_like_a_backup_token() -> None:
    """The same dialogue with the other word, and the same service under it."""
    shell = Shell(pki_token())
    screen = await shell.command("token pki factoryReset -serial P9", "proceed")

    assert screen.startswith(CAUTION.replace("backup token", "PKI token"))
    assert screen.endswith(f"'token pki factoryReset' successful.\n{SUCCESS}")
    assert shell.manager.resets == [("P9", "admin", "Console")]


async def test_the_other_kinds_serial_is_told_so() -> None:
    """A backup token's serial number under `token pki` gets a sentence that says what it is and where to go."""
    shell = Shell(FakeManager(problem=WrongClass("667788")))

    assert await shell.command("token pki factoryReset -serial 667788 -force") == frame(
        UNKNOWN[0],
        "Specified token is a backup token, not a PKI token.\n        Use the commands of 'token backup' for it.",
        command="token pki factoryReset",
    )


async def test_the_network_resets_no_pki_token() -> None:
    """The refusal names the command."""
    shell = Shell(pki_token(), origin=Origin.NETWORK)

    assert await shell.command("token pki factoryReset -serial P9") == REFUSAL.replace(
        "token factoryReset", "token pki factoryReset"
    )
    assert shell.manager.resets == []


async def test_an_interrupted_pki_reset_names_its_command() -> None:
    """What completes it is the command of its class."""
    intent = replace(INTENT, hsm_class=HsmClass.PKI)

    assert "token pki factoryReset -serial 667788" in await Shell(FakeManager([], [intent])).command("token pki list")


async def test_show_tells_everything_of_one_token() -> None:
    """The block of the list, what the driver knows, and where it is plugged in; foreign text is escaped."""
    device = token()
    hostile = replace(device, attachment=replace(device.attachment, product="\x1b[2Jtoken\nError:  x"))

    screen = await Shell(FakeManager([hostile])).command("token backup show -s 667788")

    assert screen.startswith(f"\n{LISTED}")
    assert "   USB Product:                        \\x1b[2Jtoken\\nError:  x\n" in screen
    assert "   Keys:                               3\n" in screen
    assert screen.endswith(SUCCESS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [("", ["exit", "help", "hsm", "my", "token"]), ("token backup", ["factoryReset", "list", "show"])],
)
async def test_help_lists_what_can_be_typed(words: str, expected: list[str]) -> None:
    """Each entry with its short name, groups marked."""
    screen = await Shell().command(f"help {words}")

    rows = screen.split("-" * 35 + "\n")[1].split("\n\n")[0].splitlines()
    assert [row.split()[0] for row in rows] == expected
    assert screen.endswith(SUCCESS)


@pytest.mark.parametrize("line", ["help token backup factoryReset", "? t b f"])
async def test_help_for_a_command_is_its_usage(line: str) -> None:
    """The usage, without an error."""
    assert await Shell().command(line) == f"\nReset a backup token to factory default settings.\n\n{USAGE}{SUCCESS}"


async def test_help_for_an_unknown_word_is_an_error() -> None:
    """Help does not invent commands."""
    screen = await Shell().command("help bogus")

    assert "Error:  'bogus' is not a valid command." in screen
    assert screen.endswith(FAILURE)


async def test_a_session_greets_prompts_and_ends_with_exit() -> None:
    """The framing that clients match: greeting, result line, prompt with host name and no blank, empty lines silent."""
    shell = Shell(FakeManager(), account=an_account(last_login="Mon Jan 30 11:24:00 on ttyS0"))
    terminal = FakeTerminal("", "   ", Interrupt(), Break(), "token backup list", "exit")

    await shell.session(terminal).run()

    assert terminal.screen == (
        "Last login: Mon Jan 30 11:24:00 on ttyS0\n\n"
        "Network HSM 0.1 Command Line Shell\n\n"
        "Command Result: 0 (Success)\n"
        "[local_host] lunash:>\n[local_host] lunash:>   \n[local_host] lunash:>[local_host] lunash:>"
        f"[local_host] lunash:>token backup list\n\n\nNo backup tokens are attached.\n{SUCCESS}"
        "[local_host] lunash:>exit\n\n"
    )
    assert re.search(r"Command Result : 0 \(Success\)\s+\[.*?\] lunash:>", terminal.screen)


async def test_end_of_file_logs_out() -> None:
    """Ctrl-D on an empty line ends the session."""
    await Shell().session(FakeTerminal(EndOfFile())).run()


async def test_an_interrupted_reset_is_completed_under_the_name_of_today() -> None:
    """Begun when only USB could name the token, a reset is shown once, with the serial that was told since."""
    begun = replace(INTENT, serial="EMULATED")
    screen = await Shell(FakeManager([token(interrupted=begun)], [begun])).command("token backup list")

    assert screen.count("INTERRUPTED") == 1
    assert "token backup factoryReset -serial 667788" in screen
    assert "EMULATED" not in screen


async def test_a_login_is_told_of_interrupted_resets() -> None:
    """After a crash the operator reads at once what is unfinished."""
    terminal = FakeTerminal(EndOfFile())

    await Shell(FakeManager(unfinished=[INTENT])).session(terminal).run()

    assert "WARNING:  The factory reset of token 667788 was interrupted.\n" in terminal.screen
    assert terminal.screen.index("WARNING") < terminal.screen.index("Command Result: 0")


@pytest.mark.parametrize("hsm_class", [HsmClass.BACKUP, HsmClass.PKI])
@pytest.mark.parametrize("serial", ["X" * 25, "X" * 26, "X" * 40, f"{'X' * 20} {'X' * 19}", "X" * 64, "X" * 65])
@pytest.mark.parametrize("attached", [[], [replace(YUBIHSM, serial="X" * 40)]])
async def test_the_greeting_fits_on_a_terminal(hsm_class: HsmClass, serial: str, attached: list[Device]) -> None:
    """Whatever a device calls itself, no line is broken: the command can be copied, and the number is seen whole."""
    terminal, intent = FakeTerminal(EndOfFile()), replace(INTENT, serial=serial, hsm_class=hsm_class)

    await Shell(FakeManager(attached, [intent])).session(terminal).run()

    warning = terminal.screen.partition("WARNING")[2]
    assert max(map(len, f"WARNING{warning}".splitlines())) <= 79
    assert (serial if len(serial) <= 64 else f"{'X' * 61}...") in warning


FIRST = ("PASSWORD", "new Secret 1", "new Secret 1")


async def test_the_initial_password_is_changed_before_anything_else() -> None:
    """The vendor's dialogue, then the greeting; no secret is shown."""
    shell = Shell(account=an_account(must_change=True))
    terminal = FakeTerminal(*FIRST, EndOfFile())

    await shell.session(terminal).run()

    assert terminal.screen.startswith(
        "You are required to change your password immediately (root enforced)\n"
        "Changing password for admin\n(current) UNIX password: \n\nYou can now choose the new password.\n\n"
    )
    assert shell.store.passwords == ["new Secret 1"]
    assert terminal.secrets_asked == 3
    assert terminal.screen.endswith("[local_host] lunash:>")


@pytest.mark.parametrize(
    ("answers", "refusals", "said"),
    [
        (("wrong",), (), "Error:  The current password is wrong. The password was not changed."),
        (("PASSWORD", "a", "b", "a", "b", "a", "b"), (), "Sorry, passwords do not match."),
        (("PASSWORD", *["a"] * 6), tuple(PasswordRefused("Too short.") for _ in range(3)), "Too short."),
        (
            ("PASSWORD", "a", "a"),
            (StateError(Path("/x"), "No space left on device"),),
            "The old one is kept. Reason: No space left on device",
        ),
        ((Interrupt(),), (), "(current) UNIX password: "),
        (("PASSWORD", EndOfFile()), (), "Enter new password: "),
    ],
)
async def test_without_the_change_the_session_is_over(
    answers: tuple[Answer, ...], refusals: tuple[Exception, ...], said: str
) -> None:
    """A change that fails leads back to the login, never to a prompt."""
    shell = Shell(account=an_account(must_change=True), store=FakeStore(*refusals))
    terminal = FakeTerminal(*answers)

    await shell.session(terminal).run()

    assert said in terminal.screen
    assert "lunash:>" not in terminal.screen
    assert shell.store.passwords == []


async def test_my_password_set_changes_the_password() -> None:
    """The same dialogue as a command."""
    shell = Shell()

    screen = await shell.command("my password set", *FIRST)

    assert screen.endswith(f"passwd: all authentication tokens updated successfully.\n\n{SUCCESS}")
    assert shell.store.passwords == ["new Secret 1"]
    assert "Secret" not in str(shell.audit.records)


async def test_every_command_leaves_its_line_and_its_end_in_the_audit() -> None:
    """First what was typed, then how it ended."""
    shell = Shell()
    await shell.command(f"{RESET} -force")

    assert [(r["event"], r["command"], r.get("outcome")) for r in shell.audit.records] == [
        ("command", f"{RESET} -force", None),
        ("result", "token backup factoryReset", "done"),
    ]


async def test_an_audit_that_cannot_be_written_does_not_stop_harmless_commands() -> None:
    """The console stays usable on a full disk; the reset itself sees to its own record."""
    shell = Shell()
    shell.audit.full = True

    assert (await shell.command("token backup list")).endswith(SUCCESS)
