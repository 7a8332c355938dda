# SPDX-License-Identifier: Apache-2.0
"""What `hsm ...` says, to the letter where the vendor's shell is known to the letter."""

from dataclasses import replace
from pathlib import Path

import pytest

from appliance import __version__
from appliance.accounts.store import Role
from appliance.errors import (
    ApplianceError,
    DeviceBusy,
    DeviceError,
    DeviceGone,
    DeviceRefused,
    DeviceTimeout,
    EndOfFile,
    Interrupt,
    NotLoggedIn,
    ProtocolError,
    SecretRefused,
    StateError,
)
from appliance.hsm.attempts import CHANGED, AttemptsDropped
from appliance.hsm.builtin import Zeroized
from appliance.hsm.model import Device, HsmClass, HsmState, Intent, Outcome
from appliance.hsm.reset import Report
from appliance.shell.invocation import Origin
from tests.support.fake_builtin import FakeBuiltin, builtin_device
from tests.support.fake_manager import FakeManager
from tests.support.fake_shell import Shell, an_account
from tests.support.fake_terminal import Answer, FakeTerminal
from tests.support.vendor import FAILURE, REFUSAL, SUCCESS

ASKED = "\nPlease enter the HSM Administrators' password:\n> \n\n"
NEW = "\nPlease enter a password for the HSM Administrator:\n> \n\nPlease re-enter password to confirm:\n> \n\n"
LAST = """
Caution:  This is your LAST available HSM Admin login attempt.
          If the wrong HSM Admin password is provided the HSM will
          be ZEROIZED!!!

          Type 'proceed' if you are certain you have the right
          HSM Admin login credentials or 'quit' to quit now.
          > """
INIT = """CAUTION:  Are you sure you wish to initialize this HSM?

          Type 'proceed' to initialize the HSM, or 'quit'
          to quit now.
          > """
CAUTIONS = {
    "hsm factoryReset": """
CAUTION:  Are you sure you wish to reset this HSM to factory
          default settings? All data will be erased.

          Type 'proceed' to return the HSM to factory default, or
          'quit' to quit now.
          > """,
    "hsm zeroize": """
CAUTION:  Are you sure you wish to zeroize this HSM?
          All data will be erased.

          Type 'proceed' to zeroize the HSM, or 'quit'
          to quit now.
          > """,
}
THRESHOLD = "30000F : LUNA_RET_SO_LOGIN_FAILURE_THRESHOLD"
INTENT = Intent("builtin", "builtin", HsmClass.BUILTIN, "", "", "2026-11-24T12:00:00+00:00", "admin", "Console")
BLANK = builtin_device(HsmState.ZEROIZED)


def frame(command: str, code: str, sentence: str, end: str = FAILURE) -> str:
    """An error as the vendor's shell frames it, with what precedes it."""
    return f"\nError:  '{command}' failed. ({code})\n\nError:  {sentence}\n\n{end}"


@pytest.mark.parametrize("words", ["show", "login", "logout", "init -label x", "factoryReset -force", "zeroize -force"])
async def test_without_a_built_in_hsm_every_command_says_so(words: str) -> None:
    """One sentence, and a failure."""
    screen = await Shell(hsm=FakeBuiltin(None)).command(f"hsm {words}")

    assert screen == f"\nError:  No built-in HSM is configured on this appliance.\n{FAILURE}"


async def test_an_interrupted_reset_of_an_hsm_that_is_not_configured_any_more() -> None:
    """The person who follows the warning at login is told how to come to the HSM."""
    screen = await Shell(hsm=FakeBuiltin(None), manager=FakeManager([], [INTENT])).command("hsm factoryReset -force")

    assert "has not ended: name it under [hsm.builtin] in console.toml." in screen


async def test_show_has_the_look_of_the_vendors() -> None:
    """Two empty lines, the appliance, the HSM, its attempts and its state."""
    screen = await Shell().command("hsm show")

    assert (
        screen
        == f"""

   Appliance Details:
   ==================
   Software Version:                   {__version__}

   HSM Details:
   ============
   HSM Label:                          vault
   Serial #:                           16ee9f728a964fdf
   Firmware:                           2.6
   Hardware Model:                     SoftHSM v2
   Authentication Method:              Password
   HSM Admin login status:             Not Logged In
   HSM Admin login attempts left:      3 before HSM zeroization!
   State:                              initialized

{SUCCESS}"""
    )


@pytest.mark.parametrize(
    ("hsm", "lines"),
    [
        (FakeBuiltin(left=1), ["HSM Admin login attempts left:      1 before HSM zeroization!"]),
        (FakeBuiltin(someone=True), ["HSM Admin login status:             Logged In"]),
        (
            FakeBuiltin(BLANK),
            [
                "HSM Label:                          no label",
                "Serial #:                           none",
                "HSM Admin login attempts left:      HSM IS ZEROIZED !!!!",
                "State:                              zeroized",
            ],
        ),
        (
            FakeBuiltin(left=StateError(Path("x"), "is damaged")),
            ["HSM Admin login attempts left:      unknown: is damaged"],
        ),
        (
            FakeBuiltin(builtin_device(interrupted=INTENT)),
            [
                "Factory Reset:                      INTERRUPTED",
                "To complete it:                     hsm factoryReset",
            ],
        ),
    ],
)
async def test_show_tells_the_state(hsm: FakeBuiltin, lines: list[str]) -> None:
    """Who is logged in, how many attempts are left, and whether a reset has no outcome."""
    screen = await Shell(hsm=hsm).command("hsm show")

    assert [line for line in lines if f"   {line}\n" not in screen] == []


async def test_an_hsm_that_cannot_be_asked_is_said() -> None:
    """The vendor's sentence, and the reason."""
    shell = Shell(hsm=FakeBuiltin(builtin_device(probe=None, problem="the library crashed (load: SIGSEGV)")))

    assert await shell.command("hsm show") == "\n" + frame(
        "hsm show",
        "300000 : CKR_DEVICE_ERROR",
        "Unable to communicate with HSM.\n        Reason: the library crashed (load: SIGSEGV)",
    )


async def test_a_login_is_the_vendors() -> None:
    """Question, empty line, success."""
    shell = Shell()

    assert await shell.command("hsm login", "s3cret-pin") == f"{ASKED}'hsm login' successful.\n{SUCCESS}"
    assert shell.hsm.asked == [("log in", "s3cret-pin", "Console", "3")]


async def test_a_wrong_password_tells_what_is_left() -> None:
    """The vendor's code, and how many attempts there are."""
    shell = Shell(hsm=FakeBuiltin(left=2, problem=SecretRefused("the SO PIN is wrong", 0xA0)))

    assert await shell.command("hsm login", "s3cret-pin") == ASKED + frame(
        "hsm login",
        "A00000 : LUNA_RET_UM_PIN_INCORRECT",
        "The password is wrong.\n        HSM Admin login attempts left: 2 before HSM zeroization!",
    )


async def test_the_last_attempt_is_the_vendors() -> None:
    """A caution, `proceed`, and when it is wrong the HSM is zeroized; the vendor's shell calls that 0 (Success)."""
    shell = Shell(hsm=FakeBuiltin(left=1, problem=Zeroized(Report(Outcome.DONE, "", "builtin"))))
    asked = "  Please enter the HSM Administrators' password:\n  > \n\n"

    assert await shell.command("hsm login", "proceed", "s3cret-pin") == f"{LAST}proceed\n\n{asked}" + frame(
        "hsm login", THRESHOLD, "  The HSM is in the factory reset (zeroized) state.", SUCCESS
    )
    assert not shell.done


async def test_only_a_login_that_zeroizes_ends_with_0() -> None:
    """The last attempt may be that of an initialisation, which has not been done, and says so."""
    shell = Shell(hsm=FakeBuiltin(left=1, someone=True, problem=Zeroized(Report(Outcome.DONE, "", "builtin"))))
    asked = "  Please enter the HSM Administrators' password:\n  > \n\n"

    assert await shell.command(
        "hsm init -label x -force", "proceed", "s3cret-pin"
    ) == f"{LAST}proceed\n\n{asked}" + frame(
        "hsm init", THRESHOLD, "  The HSM is in the factory reset (zeroized) state.", FAILURE
    )
    assert [record["code"] for record in shell.audit.records if record["event"] == "result"] == [65535]
    assert not shell.done


@pytest.mark.parametrize("answer", ["quit", "", "PROCEED", Interrupt(), EndOfFile()])
async def test_the_last_attempt_can_be_declined(answer: Answer) -> None:
    """Whatever is not `proceed` asks for no password."""
    shell = Shell(hsm=FakeBuiltin(left=1))
    screen = await shell.command("hsm login", answer)

    assert screen.endswith(f"\n'hsm login' aborted.\n{FAILURE}")
    assert shell.hsm.asked == []


@pytest.mark.parametrize("words", ["login", "init -label x -force"])
async def test_where_no_attempt_is_left_no_password_is_asked_for(words: str) -> None:
    """The person is told what helps; nothing is destroyed."""
    shell = Shell(hsm=FakeBuiltin(left=0, someone=True))

    assert await shell.command(f"hsm {words}", "s3cret-pin") == "\n" + frame(
        f"hsm {words.split()[0]}",
        THRESHOLD,
        "The HSM takes no login: no attempt is left.\n"
        "        Use 'hsm factoryReset' on the local console. It destroys all data.",
    )
    assert shell.hsm.asked == [("log out", "Console")]


async def test_an_initialisation_cautions_of_the_last_attempt_too() -> None:
    """Its password is one like that of a login, whether it is forced or not."""
    shell = Shell(hsm=FakeBuiltin(left=1, someone=True))

    assert (await shell.command("hsm init -label x -force", "quit")).startswith(LAST)
    assert shell.hsm.asked == [("log out", "Console")]


async def test_a_login_of_another_session_is_none() -> None:
    """No password is asked for that would be refused anyway."""
    shell = Shell(hsm=FakeBuiltin(someone=True, elsewhere=True))
    screen = await shell.command("hsm init -label x -force", "s3cret-pin")

    assert "Use 'hsm login' first." in screen
    assert "password" not in screen


@pytest.mark.parametrize("words", ["show", "login", "init -label x -force", "factoryReset -force", "zeroize -force"])
async def test_every_command_asks_the_hsm_first(words: str) -> None:
    """What it was when the daemon began is not what it is: it may have been zeroized since."""
    shell = Shell(hsm=FakeBuiltin(renewed=BLANK))
    screen = await shell.command(f"hsm {words}", "s3cret-pin", "s3cret-pin")

    assert shell.hsm.refreshed == 1
    assert shell.hsm.first is words.endswith(("factoryReset -force", "zeroize -force"))
    assert words != "show" or "HSM IS ZEROIZED !!!!" in screen


async def test_an_hsm_that_hangs_is_told_of() -> None:
    """Without an answer what it was once is not shown."""
    shell = Shell(hsm=FakeBuiltin(renewed=DeviceTimeout("no answer in time")))

    assert "Unable to communicate with HSM.\n        Reason: no answer in time" in await shell.command("hsm show")


@pytest.mark.parametrize("answer", ["abc", "x" * 256])
async def test_a_new_password_is_as_long_as_the_hsm_wants(answer: str) -> None:
    """The shortest is the HSM's to say."""
    assert BLANK.probe is not None
    shell = Shell(hsm=FakeBuiltin(replace(BLANK, probe=replace(BLANK.probe, shortest_password=4))))
    screen = await shell.command("hsm init -label x -force", answer)

    assert "The password has 4 to 255 ASCII characters. Nothing was done." in screen
    assert shell.hsm.asked == []


async def test_a_reset_after_the_last_attempt_that_fails_is_said() -> None:
    """The person is told what completes it, and the result is a failure."""
    shell = Shell(hsm=FakeBuiltin(problem=Zeroized(Report(Outcome.UNKNOWN, "it hangs", "builtin"))))

    assert await shell.command("hsm login", "s3cret-pin") == ASKED + frame(
        "hsm login",
        THRESHOLD,
        "The HSM takes no login, and is not known to be zeroized.\n        Reason: unknown: it hangs\n"
        "        Use 'hsm factoryReset' to complete it.",
    )


async def test_a_zeroized_hsm_takes_no_login() -> None:
    """There is no password to be right or wrong, and so no attempt."""
    shell = Shell(hsm=FakeBuiltin(BLANK))

    assert await shell.command("hsm login") == "\n" + frame(
        "hsm login",
        "1020000 : CKR_USER_PIN_NOT_INITIALIZED",
        "The HSM is in the factory reset (zeroized) state.\n        Use 'hsm init' to initialize it.",
    )


@pytest.mark.parametrize("device", [builtin_device(interrupted=INTENT), builtin_device(HsmState.TERMINATED)])
@pytest.mark.parametrize("words", ["login", "init -label x"])
async def test_an_unfinished_reset_is_to_be_completed_first(words: str, device: Device) -> None:
    """Nobody is asked for a password of an HSM that may be half destroyed."""
    shell = Shell(hsm=FakeBuiltin(device))

    assert await shell.command(f"hsm {words}", "s3cret-pin") == "\n" + frame(
        f"hsm {words.split()[0]}",
        "300000 : CKR_DEVICE_ERROR",
        "A reset of this HSM was begun and has not ended. Its state is unknown.\n"
        "        Use 'hsm factoryReset' to complete it.",
    )
    assert shell.hsm.asked == []


@pytest.mark.parametrize("answer", ["", "\u00e4", "m\udcfcnchen", "x" * 256, "tab\tbed"])
async def test_a_password_that_cannot_be_one_costs_no_attempt(answer: str) -> None:
    """Only what can be a password is tried."""
    shell = Shell()

    assert await shell.command("hsm login", answer) == ASKED + frame(
        "hsm login", "70000 : CKR_ARGUMENTS_BAD", "The password has 1 to 255 ASCII characters. Nothing was done."
    )
    assert shell.hsm.asked == []


async def test_logout_ends_a_login_and_nothing_else() -> None:
    """It succeeds once."""
    shell = Shell(hsm=FakeBuiltin(someone=True))

    assert await shell.command("hsm logout") == f"\n'hsm logout' successful.\n{SUCCESS}"
    assert await shell.command("hsm logout") == "\n" + frame(
        "hsm logout", "1010000 : CKR_USER_NOT_LOGGED_IN", "You are not logged in to the HSM."
    )


async def test_a_login_ends_with_the_session() -> None:
    """However it ends, nobody who comes after is logged in."""
    shell = Shell(hsm=FakeBuiltin(someone=True))
    await shell.session(FakeTerminal("hsm show", "exit")).run()

    assert shell.hsm.asked == [("log out", "Console")]


async def test_a_zeroized_hsm_is_given_a_password() -> None:
    """Twice the same, then the vendor's question."""
    shell = Shell(hsm=FakeBuiltin(BLANK))
    screen = await shell.command('hsm init -label "my vault"', "s3cret-pin", "s3cret-pin", "proceed")

    assert screen == f"{NEW}{INIT}proceed\n\n'hsm init' successful.\n{SUCCESS}"
    assert shell.hsm.asked == [("initialize", "my vault", "s3cret-pin", "Console", "None")]


async def test_two_passwords_are_none() -> None:
    """Where the second is another nothing is done."""
    shell = Shell(hsm=FakeBuiltin(BLANK))

    assert await shell.command("hsm init -label x -force", "s3cret-pin", "s3cret-pim") == NEW + frame(
        "hsm init", "70000 : CKR_ARGUMENTS_BAD", "The passwords do not match. Nothing was done."
    )
    assert shell.hsm.asked == []


async def test_an_initialised_hsm_asks_for_its_password() -> None:
    """It keeps it."""
    shell = Shell(hsm=FakeBuiltin(someone=True))

    assert await shell.command("hsm init -l x -f", "s3cret-pin") == f"{ASKED}'hsm init' successful.\n{SUCCESS}"
    assert shell.hsm.asked[0] == ("initialize", "x", "s3cret-pin", "Console", "3")


async def test_an_initialised_hsm_wants_a_login_first() -> None:
    """Without one nothing is asked."""
    assert await Shell(hsm=FakeBuiltin(problem=NotLoggedIn("x"))).command("hsm init -l x") == "\n" + frame(
        "hsm init", "1010000 : CKR_USER_NOT_LOGGED_IN", "The HSM is initialized.\n        Use 'hsm login' first."
    )


async def test_who_quits_an_initialisation_is_logged_out() -> None:
    """As the vendor has it; the session goes on, without the login."""
    shell = Shell(hsm=FakeBuiltin(someone=True))
    terminal = FakeTerminal("hsm init -l x", "s3cret-pin", "quit", "hsm logout", "exit")
    await shell.session(terminal).run()

    assert f"{ASKED}{INIT}quit\n\n'hsm init' aborted.\n{FAILURE}" in terminal.screen
    assert (
        frame("hsm logout", "1010000 : CKR_USER_NOT_LOGGED_IN", "You are not logged in to the HSM.") in terminal.screen
    )
    assert shell.hsm.asked == [("log out", "Console")]


@pytest.mark.parametrize("label", ["x" * 33, '"\u00e4"', '"vault "', '" vault"'])
async def test_a_label_that_does_not_fit_is_refused(label: str) -> None:
    """32 bytes are what PKCS#11 has for it."""
    shell = Shell(hsm=FakeBuiltin(BLANK))

    assert "The label has 1 to 32 ASCII characters, and no blank at either end." in await shell.command(
        f"hsm init -label {label}"
    )
    assert shell.hsm.asked == []


@pytest.mark.parametrize("command", CAUTIONS)
async def test_a_reset_is_confirmed(command: str) -> None:
    """The caution, `proceed`, success; -force leaves the question out."""
    shell = Shell()

    assert await shell.command(command, "proceed") == (
        f"{CAUTIONS[command]}proceed\n\n'{command}' successful.\n{SUCCESS}"
    )
    assert await shell.command(f"{command} -f") == f"\n'{command}' successful.\n{SUCCESS}"
    assert shell.hsm.asked == [("reset", "admin", "Console")] * 2


@pytest.mark.parametrize("command", CAUTIONS)
@pytest.mark.parametrize("answer", ["quit", "", "Proceed", "yes", Interrupt(), EndOfFile()])
async def test_anything_else_aborts(command: str, answer: Answer) -> None:
    """Nothing is touched."""
    shell = Shell()
    screen = await shell.command(command, answer)

    assert screen.endswith(f"\n'{command}' aborted.\n{FAILURE}")
    assert shell.hsm.asked == []


@pytest.mark.parametrize("arguments", ["", " -force", " -nonsense"])
@pytest.mark.parametrize("command", CAUTIONS)
async def test_the_network_is_refused(command: str, arguments: str) -> None:
    """The vendor's text with the command's own name, whatever the arguments; the HSM is not looked at."""
    shell = Shell(origin=Origin.NETWORK)

    assert await shell.command(f"{command}{arguments}", "proceed") == REFUSAL.replace("token factoryReset", command)
    assert (shell.done, shell.hsm.asked, shell.manager.looked) == (False, [], 0)


@pytest.mark.parametrize("line", ["hsm show", "hsm login", "hsm logout", "hsm init -l x -f"])
async def test_the_rest_runs_from_the_network(line: str) -> None:
    """As on the vendor's appliance."""
    shell = Shell(hsm=FakeBuiltin(someone=True), origin=Origin.NETWORK)
    await shell.command(line, "s3cret-pin")

    assert shell.done


@pytest.mark.parametrize("role", set(Role) - {Role.ADMIN})
@pytest.mark.parametrize("words", ["login", "logout", "init -l x", "factoryReset -f", "zeroize -f"])
async def test_only_admin_may_do_anything(role: Role, words: str) -> None:
    """Others see the HSM, and no other command."""
    shell = Shell(account=an_account(role=role))

    assert "is not a valid command." in await shell.command(f"hsm {words}")
    assert "HSM Details" in await shell.command("hsm show")


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        (Report(Outcome.NOT_DONE, "why", ""), "The HSM refused the reset.\n        Reason: why"),
        (
            Report(Outcome.UNKNOWN, "why", ""),
            "Contact with the HSM was lost. Its state is unknown.\n        Reason: why\n"
            "        Run this command again to complete it.",
        ),
    ],
)
async def test_what_is_not_done_is_not_called_so(report: Report, sentence: str) -> None:
    """The outcome in words."""
    shell = Shell(hsm=FakeBuiltin(report=report))

    assert await shell.command("hsm factoryReset -f") == "\n" + frame(
        "hsm factoryReset", "300000 : CKR_DEVICE_ERROR", sentence
    )


@pytest.mark.parametrize(
    ("problem", "code", "sentence"),
    [
        (DeviceBusy("x"), "300000 : CKR_DEVICE_ERROR", "The HSM is being reset. Nothing was done."),
        (
            DeviceRefused("why", 0x30),
            "300000 : CKR_DEVICE_ERROR",
            "The HSM refused. Nothing was done.\n        Reason: why (status 0030)",
        ),
        (
            AttemptsDropped(),
            "300000 : CKR_DEVICE_ERROR",
            "The password was not tried. Run the command again.\n        Reason: another login has failed meanwhile",
        ),
        *(
            (lost("why"), "300000 : CKR_DEVICE_ERROR", "Unable to communicate with HSM.\n        Reason: why")
            for lost in (DeviceGone, DeviceTimeout, ProtocolError)
        ),
        *(
            (DeviceError(reason), "300000 : CKR_DEVICE_ERROR", f"This cannot be done now.\n        Reason: {reason}")
            for reason in (CHANGED, "the console is being stopped")
        ),
        (
            StateError(Path("audit.jsonl"), "full"),
            "50000 : CKR_GENERAL_ERROR",
            "This cannot be recorded, so nothing was done.\n        Reason: audit.jsonl: full",
        ),
    ],
)
async def test_trouble_is_said_in_words(problem: ApplianceError, code: str, sentence: str) -> None:
    """Each with its code and its reason; communication is blamed only where it failed."""
    shell = Shell(hsm=FakeBuiltin(problem=problem))

    assert await shell.command("hsm zeroize -f") == "\n" + frame("hsm zeroize", code, sentence)


async def test_an_obstacle_is_said_before_the_question() -> None:
    """What cannot be reset is not asked about."""
    shell = Shell(hsm=FakeBuiltin(builtin_device(obstacle="softhsm2-util is not installed")))

    assert await shell.command("hsm factoryReset", "proceed") == "\n" + frame(
        "hsm factoryReset",
        "540000 : CKR_FUNCTION_NOT_SUPPORTED",
        "This HSM cannot be reset. Nothing was done.\n        Reason: softhsm2-util is not installed",
    )


async def test_a_login_tells_of_an_interrupted_reset() -> None:
    """With the command that completes it."""
    terminal = FakeTerminal("exit")
    await Shell(manager=FakeManager([], [INTENT])).session(terminal).run()

    assert (
        "WARNING:  The factory reset of the built-in HSM was interrupted.\n          Complete it by\n"
        "    hsm factoryReset\n"
    ) in terminal.screen


@pytest.mark.parametrize(
    "line", ["hsm init -label x -password s3cret-pin", "hsm login s3cret-pin", "hsm show s3cret-pin"]
)
async def test_a_password_on_the_command_line_is_not_recorded(line: str) -> None:
    """There is no such argument, and what was typed is nobody's business."""
    shell = Shell(hsm=FakeBuiltin(BLANK))
    await shell.command(line)

    assert shell.audit.records[0]["command"] == f"{' '.join(line.split()[:2])} (and more)"
    assert "s3cret-pin" not in str(shell.audit.records)
