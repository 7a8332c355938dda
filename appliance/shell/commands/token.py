# SPDX-License-Identifier: Apache-2.0
"""`token backup` and `token pki`: the HSMs on the appliance's own USB ports.

The two see and manage each their own class of devices and never the other's (Luna SA 5.3, 6.0, managing PKI).
"""

import re
from dataclasses import dataclass, replace
from functools import partial

from appliance.accounts.store import Role
from appliance.errors import (
    AmbiguousSerial,
    ApplianceError,
    AttachmentChanged,
    DeviceBusy,
    DeviceError,
    DeviceGone,
    DeviceTimeout,
    Hangup,
    InventoryError,
    ResetUnsupported,
    SerialMismatch,
    StateError,
    Timeout,
    UnknownSerial,
    WrongClass,
)
from appliance.hsm.manager import Manager
from appliance.hsm.model import Device, HsmClass, Intent, Outcome, Secret
from appliance.shell import text
from appliance.shell.dialogue import ask, confirm, progress, settled
from appliance.shell.grammar import Command, Group, Option, is_word
from appliance.shell.invocation import FAILURE, SUCCESS, Invocation, Reply

_ASKING = "The token has not answered yet. It is being asked again."
_RESETTING = "The token is being reset. Do not remove it."
_LONGEST = 300  # characters of what `show` tells of one thing
_CONFLICT = "The serial numbers that USB and the token tell differ:"
_OTHER = "A reset of another token with this serial number was interrupted. The model of this one is"
_UNFINISHED = "A reset of this token was begun and has not ended. Its state is unknown.\n"
_CLASH = "Unplug the other token with this serial number.\n'token {hsm_class} list' shows the command then."
_CAUTION = """\
CAUTION:  Are you sure you wish to reset this {kind} token to
          factory default settings? All data will be erased.

          Type 'proceed' to return the token to factory default, or
          'quit' to quit now.
"""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One class of tokens, and the words for it."""

    hsm_class: HsmClass
    title: str  # as it stands in a sentence: "a backup token"
    refused_as: str  # what the refusal on the network calls the reset


_BACKUP = _Kind(HsmClass.BACKUP, "backup", "token factoryReset")  # the vendor leaves "backup" out
_PKI = _Kind(HsmClass.PKI, "PKI", "token pki factoryReset")


async def _list(kind: _Kind, call: Invocation) -> Reply:
    manager = call.services.manager
    await settled(manager)
    blocks = [_block(manager, device) for device in manager.devices(kind.hsm_class)]
    intents = (intent for intent in manager.interrupted() if intent.hsm_class is kind.hsm_class)
    blocks += [_absent(manager, intent) for intent in intents if _attached(manager, intent) is None]
    await call.terminal.write("\n" + ("\n".join(blocks) if blocks else f"No {kind.title} tokens are attached.\n"))
    return SUCCESS


async def _show(kind: _Kind, call: Invocation) -> Reply:
    manager = call.services.manager
    await settled(manager)
    try:
        device = manager.find(call.options["serial"], kind.hsm_class)
    except ApplianceError as problem:
        return await _fail(kind, call, problem)
    attachment = device.attachment
    more = [("Conflict", device.probe.conflict)] if device.probe and device.probe.conflict else []
    more += [("Left by a Reset", device.probe.leaves)] if device.probe and device.probe.leaves else []
    more += (*device.probe.details, *device.probe.remarks) if device.probe else ()
    more += [
        ("USB Product", attachment.product),
        ("USB Manufacturer", attachment.manufacturer),
        ("USB Id", attachment.usb_id),
        ("USB Serial #", attachment.usb_serial),
        ("USB Bus/Address", f"{attachment.bus:03}/{attachment.address:03}"),
    ]
    lines = tuple((name, text.shown(value, _LONGEST)) for name, value in more)
    await call.terminal.write("\n" + _block(manager, device, lines))
    return SUCCESS


async def _factory_reset(kind: _Kind, call: Invocation) -> Reply:
    manager, serial = call.services.manager, call.options["serial"]
    device: Device | None = None
    await settled(manager)
    try:
        device = manager.find(serial, kind.hsm_class)
        if device.probe is None:  # it may have been freed, or have come to itself, since it was asked
            async with progress(call.terminal, _ASKING):
                await manager.refresh(device)
            device = manager.find(serial, kind.hsm_class)
        if device.probe and device.probe.obstacle:
            raise ResetUnsupported(device.probe.obstacle)
        for note in _notes(manager, device, serial):
            await call.terminal.write(text.note(note) + "\n")
        if "force" not in call.options:
            stopped = await confirm(call, _CAUTION.format(kind=kind.title), "          > ")
            if stopped is not None:
                return stopped
        secret = await _secret(call, device)
        if isinstance(secret, Reply):
            return secret
        async with progress(call.terminal, _RESETTING) as steps:
            report = await manager.factory_reset(
                device, actor=call.account.name, origin=call.where, progress=steps, secret=secret
            )
    except ApplianceError as problem:
        if isinstance(problem, Timeout | Hangup):
            raise
        return await _fail(kind, call, problem, begun=device is not None and manager.begun(device))
    if report.outcome is Outcome.DONE:
        await call.terminal.write(f"'{call.command}' successful.\n")
        return SUCCESS
    reason = text.reason(report.reason)
    sentence = (
        f"The token refused the reset.\n{reason}"
        if report.outcome is Outcome.NOT_DONE
        else f"Contact with the token was lost. Its state is unknown.\n{reason}\n"
        "Run this command again, with the token attached, to complete the reset."
    )
    await call.terminal.write(text.failed(call.command, text.DEVICE_ERROR, sentence))
    return replace(FAILURE, note=f"{report.outcome}: {report.reason}")


def _notes(manager: Manager, device: Device, typed: str) -> list[str]:
    """What speaks against this being the token that the person means."""
    probe = device.probe
    notes = [f"{_CONFLICT} {probe.conflict}."] if probe and probe.conflict else []
    notes += [probe.leaves] if probe and probe.leaves else []
    others = (intent.serial for intent in manager.interrupted() if intent.family != device.family)
    if not {typed, device.serial}.isdisjoint(others):
        notes.append(f"{_OTHER} {probe.model if probe else device.family}.")
    return notes


async def _secret(call: Invocation, device: Device) -> Secret | Reply | None:
    """Ask for what the device wants to be given; None when it wants nothing, else the reply that ends the command."""
    credential = device.probe.credential if device.probe else None
    if credential is None:
        return None
    left = "" if credential.tries_left is None else f" ({credential.tries_left} tries left)"
    await call.terminal.write(f"Please enter the {credential.name} of this token{left}:\n")
    answer = await ask(call, "> ", secret=True)
    if isinstance(answer, Reply):
        return answer
    if re.fullmatch(credential.pattern, answer):
        await call.terminal.write("\n")
        return Secret(answer)
    sentence = f"{credential.form} Nothing was reset."
    await call.terminal.write(text.failed(call.command, text.ARGUMENTS_BAD, sentence))
    return replace(FAILURE, note=f"malformed {credential.name}")


def _block(manager: Manager, device: Device, more: tuple[tuple[str, str], ...] = ()) -> str:
    """One device in the look of `hsm show`."""
    probe = device.probe
    pairs = [
        ("Token Label", text.shown(probe.label) if probe and probe.label else "no label"),
        ("Serial #", text.shown(device.serial) or "none"),
        ("Firmware", text.shown(probe.firmware) if probe else "unknown"),
        ("HSM Model", text.shown(probe.model if probe else device.family)),
        ("Class", str(device.hsm_class)),
        ("State", str(device.state)),
    ]
    problem = device.problem or ("" if probe else "it has not answered yet")
    if problem:
        pairs.append(("Problem", text.shown(problem, 160)))
    if device.interrupted:
        pairs += _interrupted(manager, _called_now(device.interrupted, device))
    return text.fields("Token Details", (*pairs, *more))


def _absent(manager: Manager, intent: Intent) -> str:
    """A token that is not attached, but whose reset was never finished."""
    pairs = [("Serial #", text.shown(intent.serial)), ("State", "not attached"), *_interrupted(manager, intent)]
    return text.fields("Token Details", pairs)


def _interrupted(manager: Manager, intent: Intent) -> list[tuple[str, str]]:
    return [
        ("Factory Reset", "INTERRUPTED"),
        ("Begun", f"{intent.begun} by {text.shown(intent.actor, 12)}"),
        ("To complete it", completion(manager, intent) or without_completion(manager, intent)),
    ]


def as_attached(manager: Manager, intent: Intent) -> Intent:
    """The intent with the serial number and the class that its token has now, if it is attached."""
    device = _attached(manager, intent)
    return _called_now(intent, device) if device else intent


def completion(manager: Manager, intent: Intent) -> str:
    """The command that completes a reset, as it can be typed; "" where it would lead to anything else.

    The serial number is the device's own text: part of it must not be taken for another one, or for an option. And
    another token that is attached may have the same.
    """
    serial = intent.serial
    one = _is_readable(serial) and is_word(serial)
    return f"{_completing(intent)} -serial {serial}" if one and _leads_to_it(manager, intent) else ""


def without_completion(manager: Manager, intent: Intent) -> str:
    """What helps where there is no such command."""
    serial = intent.serial
    if not _is_readable(serial) or '"' in serial or re.search("(^| )-", serial) or serial != " ".join(serial.split()):
        return "This serial number cannot be typed.\nReset the token with its maker's own program, or destroy it."
    if not _leads_to_it(manager, intent):
        return _CLASH.format(hsm_class=intent.hsm_class)
    return f"Give '{_completing(intent)}' this serial number in double quotes."


def _is_readable(serial: str) -> bool:
    """Whether a person sees what to type: where a line was broken, there may be a blank or not."""
    return len(serial) <= text.FIELD_COLUMNS and re.fullmatch("[ -~]+", serial) is not None


def _leads_to_it(manager: Manager, intent: Intent) -> bool:
    """Whether the serial number leads to no other token: to this one, or to none that is attached."""
    try:
        return manager.find(intent.serial, intent.hsm_class).family == intent.family
    except UnknownSerial:
        return True
    except InventoryError:
        return False


def _attached(manager: Manager, intent: Intent) -> Device | None:
    """The token whose reset was begun, of whichever class it is now."""
    devices = (*manager.devices(HsmClass.BACKUP), *manager.devices(HsmClass.PKI))
    name = intent.serial, intent.family
    its = (device for device in devices if device.interrupted == intent or (device.serial, device.family) == name)
    return next(its, None)


def _called_now(intent: Intent, device: Device) -> Intent:
    return replace(intent, serial=device.serial, hsm_class=device.hsm_class)


def _completing(intent: Intent) -> str:
    return f"token {intent.hsm_class} factoryReset"


async def _fail(kind: _Kind, call: Invocation, problem: ApplianceError, *, begun: bool = False) -> Reply:
    """Say what went wrong; `begun` is for a token of which an earlier reset has no outcome yet."""
    code, sentence = _explain(kind, problem, begun=begun)
    await call.terminal.write(text.failed(call.command, code, f"{_UNFINISHED if begun else ''}{sentence}"))
    return replace(FAILURE, note=f"{type(problem).__name__}: {problem}")


def _explain(kind: _Kind, problem: ApplianceError, *, begun: bool) -> tuple[str, str]:
    """The code and the sentence for what went wrong before anything was destroyed, unless an earlier reset has."""
    nothing = "" if begun else " Nothing was reset."
    match problem:
        case UnknownSerial():
            hint = f"Use 'token {kind.hsm_class} list' to list all available tokens."
            return text.NOT_IN_LIST, f"Specified token does not exist.\n{hint}"
        case WrongClass():
            other = _PKI if kind is _BACKUP else _BACKUP
            hint = f"Use the commands of 'token {other.hsm_class}' for it."
            return text.NOT_IN_LIST, f"Specified token is a {other.title} token, not a {kind.title} token.\n{hint}"
        case AmbiguousSerial():
            return text.ARGUMENTS_BAD, "More than one attached token has this serial number."
        case AttachmentChanged() | DeviceGone():
            return text.NOT_IN_LIST, f"Specified token was removed or replaced.{nothing}"
        case SerialMismatch():
            return text.NOT_IN_LIST, f"The token reports another serial number.{nothing}"
        case DeviceBusy():
            return text.DEVICE_ERROR, f"The token is busy.{nothing}\n{text.reason(problem.reason)}"
        case ResetUnsupported():
            return text.NOT_SUPPORTED, f"This token cannot be reset.{nothing}\n{text.reason(problem.reason)}"
        case DeviceTimeout():
            hint = "Unplug it, plug it in again and repeat the command."
            return text.DEVICE_ERROR, f"The token does not answer.{nothing}\n{hint}"
        case StateError():
            so = "" if begun else ", so nothing was reset"
            return text.GENERAL_ERROR, f"The reset cannot be recorded{so}.\n{text.reason(problem.reason)}"
        case DeviceError():
            again = "\nUnplug it, plug it in again and run this command again." if begun else ""
            return text.DEVICE_ERROR, f"The token cannot be used.{nothing}\n{text.reason(problem.reason)}{again}"
    raise problem


_SERIAL = Option("-serial", "-s", "Specifies the token serial number.", "<serialnum>", required=True)
_FORCE = Option("-force", "-f", "Force the action without prompting.")


def _group(kind: _Kind, short: str, description: str) -> Group:
    title = kind.title
    return Group(
        str(kind.hsm_class),
        short,
        description,
        (
            Command(
                "factoryReset",
                "f",
                f"Reset a {title} token to factory default settings",
                partial(_factory_reset, kind),
                options=(_SERIAL, _FORCE),
                roles=frozenset({Role.ADMIN}),
                console_only_as=kind.refused_as,
            ),
            Command("list", "l", f"List the {title} tokens that are attached", partial(_list, kind)),
            Command("show", "s", f"Show one {title} token", partial(_show, kind), options=(_SERIAL,)),
        ),
    )


GROUP = Group(
    "token",
    "t",
    "Commands for external HSMs on USB",
    (
        _group(_BACKUP, "b", "Backup HSMs that are attached to this appliance"),
        _group(_PKI, "p", "PKI tokens that are attached to this appliance"),
    ),
)
