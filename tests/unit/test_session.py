# SPDX-License-Identifier: Apache-2.0
"""What LunaSH answers, to the letter, whatever the command."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from appliance.accounts.store import Role
from appliance.errors import (
    Break,
    EndOfFile,
    Hangup,
    Interrupt,
    PasswordRefused,
    StateError,
    Timeout,
)
from appliance.shell.invocation import Origin
from tests.support.fake_manager import FakeManager, token
from tests.support.fake_shell import RESET, FakeStore, Shell, an_account
from tests.support.fake_terminal import Answer, FakeTerminal
from tests.support.vendor import FAILURE, REFUSAL, SUCCESS


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


@pytest.mark.parametrize(
    ("event", "typed", "outcome"),
    [
        (Timeout(), FIRST[:1], {"outcome": "not done"}),
        (Hangup(), FIRST, {"outcome": "unknown", "note": "hung up"}),
        (asyncio.CancelledError(), FIRST, {"outcome": "unknown", "note": "hung up"}),
    ],
    ids=["nothing is typed", "hung up while it is saved", "stopped while it is saved"],
)
async def test_a_first_change_that_is_left_is_in_the_audit(
    event: BaseException, typed: tuple[str, ...], outcome: dict[str, str]
) -> None:
    """At a question nothing was changed; while the new password is being saved, whether it was is not known."""
    shell = Shell(account=an_account(must_change=True), store=FakeStore(event))
    with pytest.raises(type(event)):
        await shell.session(FakeTerminal(*typed, event)).run()

    assert shell.audit.records == [{"event": "password", "actor": "admin", "origin": "Console", **outcome}]


async def test_a_first_password_that_is_being_saved_is_work() -> None:
    """Whoever waits for the session's command waits for it, too, but not for the person who is to type it."""
    asked, typed, saving, saved = asyncio.Event(), asyncio.Event(), asyncio.Event(), asyncio.Event()

    class SlowTerminal(FakeTerminal):
        async def readline(self, prompt: str, **how: Any) -> str:
            asked.set()
            await typed.wait()
            return await super().readline(prompt, **how)

    class SlowStore(FakeStore):
        async def set_password(self, name: str, new: str) -> None:
            saving.set()
            await saved.wait()

    session = Shell(account=an_account(must_change=True), store=SlowStore()).session(SlowTerminal(*FIRST))
    async with asyncio.timeout(30):
        running = asyncio.create_task(session.run())
        await asked.wait()
        await session.answered()
        typed.set()
        await saving.wait()
        answered = asyncio.create_task(session.answered())
        await asyncio.sleep(0)
        early = answered.done()
        saved.set()
        await running
        await answered

    assert not early


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
