# SPDX-License-Identifier: Apache-2.0
"""What a person reads of a reset that was begun and has no outcome, and how it is completed."""

import re
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.accounts.store import Role
from appliance.errors import (
    AttachmentChanged,
    DeviceBusy,
    DeviceError,
    DeviceGone,
    DeviceTimeout,
    EndOfFile,
    ResetUnsupported,
    SerialMismatch,
    StateError,
)
from appliance.hsm.manager import Manager
from appliance.hsm.model import Device, HsmClass, Intent
from appliance.shell.commands import TREE
from appliance.shell.commands.token import completion
from appliance.shell.grammar import Command, find, is_word, parse
from tests.support.fake_manager import FakeManager, token
from tests.support.fake_shell import INTENT, RESET, UNKNOWN_SERIAL, Shell, frame
from tests.support.fake_terminal import FakeTerminal

YUBIHSM = replace(token(), family="yubihsm")
LUNA = replace(token("7550054"), family="luna")


def compared(family: str, serial: str) -> str:
    """As the families compare serial numbers."""
    return serial.lstrip("0") if family == "luna" else serial


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
        (DeviceGone("x"), UNKNOWN_SERIAL[0], "Specified token was removed or replaced."),
        (AttachmentChanged("1"), UNKNOWN_SERIAL[0], "Specified token was removed or replaced."),
        (SerialMismatch("1", "2"), UNKNOWN_SERIAL[0], "The token reports another serial number."),
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


async def test_an_interrupted_pki_reset_names_its_command() -> None:
    """What completes it is the command of its class."""
    intent = replace(INTENT, hsm_class=HsmClass.PKI)

    assert "token pki factoryReset -serial 667788" in await Shell(FakeManager([], [intent])).command("token pki list")


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
