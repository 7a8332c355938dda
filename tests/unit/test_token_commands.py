# SPDX-License-Identifier: Apache-2.0
"""What `token backup ...` and `token pki ...` say, to the letter."""

import asyncio
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

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
    ResetUnsupported,
    SerialMismatch,
    StateError,
    Timeout,
    UnknownSerial,
    WrongClass,
)
from appliance.hsm.model import Credential, HsmClass, Outcome
from appliance.hsm.reset import Report
from appliance.shell import dialogue
from appliance.shell.invocation import Origin
from tests.support.fake_manager import FakeManager, token
from tests.support.fake_shell import INTENT, RESET, UNKNOWN_SERIAL, Shell, frame
from tests.support.fake_terminal import Answer, FakeTerminal
from tests.support.vendor import FAILURE, REFUSAL, SUCCESS

CAUTION = """
CAUTION:  Are you sure you wish to reset this backup token to
          factory default settings? All data will be erased.

          Type 'proceed' to return the token to factory default, or
          'quit' to quit now.
          > """


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


NOT_BACKUP = "Specified token is a PKI token, not a backup token.\n        Use the commands of 'token pki' for it."


@pytest.mark.parametrize(
    ("problem", "code", "sentence"),
    [
        (UnknownSerial("1"), *UNKNOWN_SERIAL),
        (WrongClass("1"), UNKNOWN_SERIAL[0], NOT_BACKUP),
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
        (AttachmentChanged("1"), UNKNOWN_SERIAL[0], "Specified token was removed or replaced. Nothing was reset."),
        (DeviceGone("x"), UNKNOWN_SERIAL[0], "Specified token was removed or replaced. Nothing was reset."),
        (SerialMismatch("1", "2"), UNKNOWN_SERIAL[0], "The token reports another serial number. Nothing was reset."),
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

    assert await shell.command(f"{RESET} -force") == frame(*UNKNOWN_SERIAL)
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
async def test_what_a_reset_does_not_reach_is_told_before_it(force: str) -> None:
    """Nobody takes a device for blank because one part of it is; who asks what it is reads the same."""
    device = token()
    assert device.probe
    leaves = (
        "It has two halves, and the reset reaches only one of them. The other one keeps its keys until it is reset."
    )
    shell = Shell(FakeManager([replace(device, probe=replace(device.probe, leaves=leaves))]))
    note = (
        "\nNOTE:     It has two halves, and the reset reaches only one of them. The other\n"
        "          one keeps its keys until it is reset.\n\n"
    )

    screen = await shell.command(f"{RESET}{force}", "proceed")
    shown = " ".join((await shell.command("token backup show -serial 667788")).split())

    assert screen.startswith(note + ("'token backup" if force else "CAUTION:  Are you sure"))
    assert f"Left by a Reset: {leaves} Keys: 3" in shown


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
        UNKNOWN_SERIAL[0],
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


async def test_show_tells_everything_of_one_token() -> None:
    """The block of the list, what the driver knows, and where it is plugged in; foreign text is escaped."""
    device = token()
    hostile = replace(device, attachment=replace(device.attachment, product="\x1b[2Jtoken\nError:  x"))

    screen = await Shell(FakeManager([hostile])).command("token backup show -s 667788")

    assert screen.startswith(f"\n{LISTED}")
    assert "   USB Product:                        \\x1b[2Jtoken\\nError:  x\n" in screen
    assert "   Keys:                               3\n" in screen
    assert screen.endswith(SUCCESS)
