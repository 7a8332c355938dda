# SPDX-License-Identifier: Apache-2.0
"""`hsm`: the HSM that is built into the appliance (Luna SA 5.1 and 6.2, Luna Network HSM 7.x captures)."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from appliance import __version__
from appliance.accounts.store import Role
from appliance.errors import (
    ApplianceError,
    AttachmentChanged,
    DeviceBusy,
    DeviceError,
    DeviceGone,
    DeviceRefused,
    DeviceTimeout,
    Hangup,
    NotLoggedIn,
    ProtocolError,
    ResetUnsupported,
    SecretRefused,
    StateError,
    Timeout,
    UnknownSerial,
)
from appliance.hsm.attempts import AttemptsDropped, NoAttemptLeft
from appliance.hsm.builtin import Zeroized
from appliance.hsm.model import Device, HsmClass, HsmState, Outcome, Secret
from appliance.shell import text
from appliance.shell.dialogue import ask, confirm, progress, settled
from appliance.shell.grammar import Command, Group, Option
from appliance.shell.invocation import FAILURE, SUCCESS, Invocation, Reply

_PIN_INCORRECT = "A00000 : LUNA_RET_UM_PIN_INCORRECT"
_THRESHOLD = "30000F : LUNA_RET_SO_LOGIN_FAILURE_THRESHOLD"
_NOT_LOGGED_IN = "1010000 : CKR_USER_NOT_LOGGED_IN"
_NOT_INITIALIZED = "1020000 : CKR_USER_PIN_NOT_INITIALIZED"

Work = Callable[[Invocation, Device], Awaitable[Reply]]

_ZEROIZED = "  The HSM is in the factory reset (zeroized) state."
_UNREACHABLE = "Unable to communicate with HSM.\n"
_LONGEST_PASSWORD = 255
_LABEL = re.compile("[!-~]([ -~]{0,30}[!-~])?")  # a token pads it with blanks, which nobody can tell from its own
_PROMPT = "          > "
_ASK = "Please enter the HSM Administrators' password:"

_RESET_CAUTION = """\
CAUTION:  Are you sure you wish to reset this HSM to factory
          default settings? All data will be erased.

          Type 'proceed' to return the HSM to factory default, or
          'quit' to quit now.
"""
_ZEROIZE_CAUTION = """\
CAUTION:  Are you sure you wish to zeroize this HSM?
          All data will be erased.

          Type 'proceed' to zeroize the HSM, or 'quit'
          to quit now.
"""
_INIT_CAUTION = """\
CAUTION:  Are you sure you wish to initialize this HSM?

          Type 'proceed' to initialize the HSM, or 'quit'
          to quit now.
"""
_LAST_ATTEMPT = """\
Caution:  This is your LAST available HSM Admin login attempt.
          If the wrong HSM Admin password is provided the HSM will
          be ZEROIZED!!!

          Type 'proceed' if you are certain you have the right
          HSM Admin login credentials or 'quit' to quit now.
"""


async def _show(call: Invocation, device: Device) -> Reply:
    probe = device.probe
    if probe is None:
        reason = device.problem or "it has not answered yet"
        return await _failed(call, text.DEVICE_ERROR, _UNREACHABLE + text.reason(reason), reason)
    builtin = call.services.builtin
    pairs = [
        ("HSM Label", text.shown(probe.label) or "no label"),
        ("Serial #", text.shown(probe.told or probe.serial or "none")),
        ("Firmware", text.shown(probe.firmware)),
        ("Hardware Model", text.shown(probe.model)),
        ("Authentication Method", "Password"),
        ("HSM Admin login status", "Logged In" if builtin.logged_in() else "Not Logged In"),
        ("HSM Admin login attempts left", await _attempts(call, device)),
        ("State", str(device.state)),
        *((name, text.shown(value)) for name, value in probe.details),
    ]
    if device.interrupted:
        intent = device.interrupted
        pairs += [
            ("Factory Reset", "INTERRUPTED"),
            ("Begun", f"{intent.begun} by {text.shown(intent.actor, 12)}"),
            ("To complete it", "hsm factoryReset"),
        ]
    appliance = text.fields("Appliance Details", [("Software Version", __version__)])
    await call.terminal.write(f"\n{appliance}\n{text.fields('HSM Details', pairs)}\n")
    return SUCCESS


async def _attempts(call: Invocation, device: Device) -> str:
    if device.state is HsmState.ZEROIZED:
        return "HSM IS ZEROIZED !!!!"
    try:
        left = await call.services.builtin.attempts_left()
    except (DeviceError, StateError) as problem:
        return f"unknown: {text.shown(problem.reason)}"
    return f"{left} before HSM zeroization!" if left else "none; 'hsm factoryReset' resets it"


async def _login(call: Invocation, device: Device) -> Reply:
    if _half_done(device):
        return await _unfinished(call)
    if device.state is HsmState.ZEROIZED:
        hint = "The HSM is in the factory reset (zeroized) state.\nUse 'hsm init' to initialize it."
        return await _failed(call, _NOT_INITIALIZED, hint, "zeroized")
    left = await _tries(call)
    if isinstance(left, Reply):
        return left
    secret = await _password(call, _ASK, "  " if left == 1 else "")
    if isinstance(secret, Reply):
        return secret
    await call.services.builtin.log_in(secret, call.person, left)
    return await _successful(call)


async def _tries(call: Invocation) -> int | Reply:
    """How many attempts are left, when the person wants to make one of them. Raises `NoAttemptLeft`."""
    left = await call.services.builtin.attempts_left()
    if not left:
        raise NoAttemptLeft
    if left == 1 and (stopped := await confirm(call, _LAST_ATTEMPT, _PROMPT)):
        return stopped
    return left


async def _logout(call: Invocation, _: Device) -> Reply:
    if not await call.services.builtin.log_out(call.person):
        return await _failed(call, _NOT_LOGGED_IN, "You are not logged in to the HSM.", "not logged in")
    return await _successful(call)


async def _init(call: Invocation, device: Device) -> Reply:
    builtin, person = call.services.builtin, call.person
    label = call.options["label"]
    if not _LABEL.fullmatch(label):
        sentence = "The label has 1 to 32 ASCII characters, and no blank at either end."
        return await _failed(call, text.ARGUMENTS_BAD, sentence, "malformed label")
    if _half_done(device):
        return await _unfinished(call)
    blank = device.state is HsmState.ZEROIZED
    if not blank and not builtin.logged_in(person):
        raise NotLoggedIn("not logged in")
    left = None if blank else await _tries(call)
    if isinstance(left, Reply):
        return left
    secret = await _new_password(call, device) if blank else await _password(call, _ASK, "  " if left == 1 else "")
    if isinstance(secret, Reply):
        return secret
    if "force" not in call.options and (stopped := await confirm(call, _INIT_CAUTION, _PROMPT)):
        await builtin.log_out(person)  # as the vendor has it
        return stopped
    report = await builtin.initialize(label, secret, person, left)
    if report.outcome is Outcome.DONE:
        return await _successful(call)
    sentence = f"Contact with the HSM was lost. Its state is unknown.\n{text.reason(report.reason)}"
    return await _failed(call, text.DEVICE_ERROR, sentence, f"{report.outcome}: {report.reason}")


async def _reset(caution: str, call: Invocation, device: Device) -> Reply:
    if device.probe and device.probe.obstacle:
        raise ResetUnsupported(device.probe.obstacle)
    if "force" not in call.options and (stopped := await confirm(call, caution, _PROMPT)):
        return stopped
    async with progress(call.terminal, "The HSM is being reset. Do not turn it off.") as steps:
        report = await call.services.builtin.factory_reset(call.person, steps)
    if report.outcome is Outcome.DONE:
        return await _successful(call)
    reason = text.reason(report.reason)
    sentence = (
        f"The HSM refused the reset.\n{reason}"
        if report.outcome is Outcome.NOT_DONE
        else f"Contact with the HSM was lost. Its state is unknown.\n{reason}\nRun this command again to complete it."
    )
    return await _failed(call, text.DEVICE_ERROR, sentence, f"{report.outcome}: {report.reason}")


async def _run(work: Work, call: Invocation) -> Reply:
    """One command of the group, with the troubles of the HSM in words."""
    manager = call.services.manager
    await settled(manager)
    device = call.services.builtin.device()
    if device is None:
        sentence = "No built-in HSM is configured on this appliance."
        if any(intent.hsm_class is HsmClass.BUILTIN for intent in manager.interrupted()):
            sentence += "\nA reset of one was begun and has not ended: name it under [hsm.builtin] in console.toml."
        await call.terminal.write(text.error(sentence))
        return replace(FAILURE, note="none configured")
    try:
        return await work(call, device)
    except Zeroized as end:
        return await _zeroized(call, end)
    except SecretRefused as problem:
        sentence = f"The password is wrong.\nHSM Admin login attempts left: {await _attempts(call, device)}"
        return await _failed(call, _PIN_INCORRECT, sentence, str(problem))
    except ApplianceError as problem:
        if isinstance(problem, Timeout | Hangup):
            raise
        code, sentence = _explain(problem)
        return await _failed(call, code, sentence, f"{type(problem).__name__}: {problem}")


async def _asked(work: Work, first: bool, call: Invocation, device: Device) -> Reply:
    """With the HSM as it is now: another program, or a tamper, may have zeroized it since it was asked.

    `first` goes before all who wait for it.
    """
    builtin = call.services.builtin
    async with progress(call.terminal, "The HSM is being asked what it is."):
        await builtin.refresh(first=first)
    return await work(call, builtin.device() or device)


async def _zeroized(call: Invocation, end: Zeroized) -> Reply:
    """The last attempt was wrong. The vendor's own shell ends a login that zeroized the HSM with code 0."""
    if end.report.outcome is Outcome.DONE:
        reply = await _failed(call, _THRESHOLD, _ZEROIZED, "zeroized")
        return replace(reply, code=0) if call.command == "hsm login" else reply
    sentence = f"The HSM takes no login, and is not known to be zeroized.\n{text.reason(str(end))}"
    return await _failed(call, _THRESHOLD, f"{sentence}\nUse 'hsm factoryReset' to complete it.", str(end))


def _half_done(device: Device) -> bool:
    return device.interrupted is not None or device.state is HsmState.TERMINATED


async def _unfinished(call: Invocation) -> Reply:
    hint = "Use 'hsm factoryReset' to complete it."
    sentence = f"A reset of this HSM was begun and has not ended. Its state is unknown.\n{hint}"
    return await _failed(call, text.DEVICE_ERROR, sentence, "unfinished reset")


async def _new_password(call: Invocation, device: Device) -> Secret | Reply:
    shortest = min(max(1, device.probe.shortest_password), _LONGEST_PASSWORD) if device.probe else 1
    first = await _password(call, "Please enter a password for the HSM Administrator:", shortest=shortest)
    if isinstance(first, Reply):
        return first
    second = await _password(call, "Please re-enter password to confirm:", shortest=shortest)
    if isinstance(second, Reply) or second.text == first.text:
        return second
    return await _failed(call, text.ARGUMENTS_BAD, "The passwords do not match. Nothing was done.", "no match")


async def _password(call: Invocation, question: str, indent: str = "", shortest: int = 1) -> Secret | Reply:
    """What was typed, if it can be a password: one that exists may be shorter than new ones have to be."""
    await call.terminal.write(f"{indent}{question}\n")
    answer = await ask(call, f"{indent}> ", secret=True)
    if isinstance(answer, Reply):
        return answer
    await call.terminal.write("\n")
    if shortest <= len(answer) <= _LONGEST_PASSWORD and re.fullmatch("[ -~]*", answer):
        return Secret(answer)
    sentence = f"The password has {shortest} to {_LONGEST_PASSWORD} ASCII characters. Nothing was done."
    return await _failed(call, text.ARGUMENTS_BAD, sentence, "malformed password")


async def _successful(call: Invocation) -> Reply:
    await call.terminal.write(f"'{call.command}' successful.\n")
    return SUCCESS


async def _failed(call: Invocation, code: str, sentence: str, note: str) -> Reply:
    await call.terminal.write(text.failed(call.command, code, sentence))
    return replace(FAILURE, note=note)


def _explain(problem: ApplianceError) -> tuple[str, str]:
    """The code and the sentence for what went wrong before anything was destroyed."""
    match problem:
        case NotLoggedIn():
            return _NOT_LOGGED_IN, "The HSM is initialized.\nUse 'hsm login' first."
        case AttachmentChanged() | UnknownSerial():
            return text.NOT_IN_LIST, "The HSM is not the one that was shown any more. Nothing was done."
        case DeviceBusy():
            return text.DEVICE_ERROR, "The HSM is being reset. Nothing was done."
        case ResetUnsupported():
            return text.NOT_SUPPORTED, f"This HSM cannot be reset. Nothing was done.\n{text.reason(problem.reason)}"
        case StateError():
            return text.GENERAL_ERROR, f"This cannot be recorded, so nothing was done.\n{text.reason(str(problem))}"
        case NoAttemptLeft():
            reset = "Use 'hsm factoryReset' on the local console. It destroys all data."
            return _THRESHOLD, f"The HSM takes no login: no attempt is left.\n{reset}"
        case AttemptsDropped():
            untried = "The password was not tried. Run the command again."
            return text.DEVICE_ERROR, f"{untried}\n{text.reason(problem.reason)}"
        case DeviceRefused():
            return text.DEVICE_ERROR, f"The HSM refused. Nothing was done.\n{text.reason(problem.reason)}"
        case DeviceGone() | DeviceTimeout() | ProtocolError():
            return text.DEVICE_ERROR, _UNREACHABLE + text.reason(problem.reason)
        case DeviceError():  # nothing was lost: it may well answer
            return text.DEVICE_ERROR, f"This cannot be done now.\n{text.reason(problem.reason)}"
    raise problem


def _now(work: Work, *, first: bool = False) -> Callable[[Invocation], Awaitable[Reply]]:
    """The command that does `work` with the HSM as it is then; what runs on the console only goes `first`."""
    return partial(_run, partial(_asked, work, first))


_FORCE = Option("-force", "-f", "Force the action without prompting.")
_LABEL_OPTION = Option("-label", "-l", "Specifies the HSM label.", "<hsm_label>", required=True)
_ADMIN = frozenset({Role.ADMIN})

GROUP = Group(
    "hsm",
    "hs",
    "Commands for the built-in HSM",
    (
        Command(
            "factoryReset",
            "f",
            "Reset the HSM to factory default settings",
            _now(partial(_reset, _RESET_CAUTION), first=True),
            options=(_FORCE,),
            roles=_ADMIN,
            console_only_as="hsm factoryReset",
        ),
        Command("init", "i", "Initialize the HSM", _now(_init), options=(_LABEL_OPTION, _FORCE), roles=_ADMIN),
        Command("login", "logi", "Log in to the HSM as its administrator", _now(_login), roles=_ADMIN),
        Command("logout", "logo", "Log out of the HSM", partial(_run, _logout), roles=_ADMIN),
        Command("show", "s", "Show the HSM", _now(_show)),
        Command(
            "zeroize",
            "z",
            "Destroy everything in the HSM",
            _now(partial(_reset, _ZEROIZE_CAUTION), first=True),
            options=(_FORCE,),
            roles=_ADMIN,
            console_only_as="hsm zeroize",
        ),
    ),
)
