# SPDX-License-Identifier: Apache-2.0
"""How LunaSH words its answers: error frames, tables, fields (Luna SA 5.x and Network HSM 6.3 captures)."""

import textwrap
from collections.abc import Iterable

from appliance.accounts.store import Role
from appliance.shell.grammar import Command, Group

NOT_IN_LIST = "C000040A : RC_OBJECT_NOT_IN_LIST"
ARGUMENTS_BAD = "70000 : CKR_ARGUMENTS_BAD"
DEVICE_ERROR = "300000 : CKR_DEVICE_ERROR"
NOT_SUPPORTED = "540000 : CKR_FUNCTION_NOT_SUPPORTED"
GENERAL_ERROR = "50000 : CKR_GENERAL_ERROR"

_COLUMNS = 79  # a line of 80 makes some terminals begin another
FIELD_COLUMNS = _COLUMNS - 39  # of the value in a block of fields; a longer word is broken
_LONGEST_SHOWN = 64  # characters of a foreign text
_HEADER = f"Name         (short)  Description\n{'-' * 35}\n"


def shown(text: str, limit: int = _LONGEST_SHOWN) -> str:
    """Foreign text for people: one line, printable, at most `limit` characters."""
    safe = "".join(c if c.isprintable() else _escape(c) for c in text)
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."


def error(sentence: str) -> str:
    """One `Error:` line; further lines of the sentence are indented by eight."""
    return "Error:  " + sentence.replace("\n", "\n        ") + "\n"


def failed(command: str, code: str, sentence: str) -> str:
    """The two-line frame of a failed command: what failed with which code, then what it means."""
    failure = error(f"'{command}' failed. ({code})")
    return f"\n{failure}\n{error(sentence)}\n"


def refusal(name: str) -> str:
    """The vendor's refusal of a command that runs only on the serial console, to the letter (6.3)."""
    return (
        f"Error:  '{name}' can only be run from the local\n"
        "console. Login as 'admin' using the serial port on\n"
        "the SafeNet Network HSM before running this command.\n"
    )


def usage(path: str, command: Command) -> str:
    """The usage line and the option table of a command."""
    optional = "".join(
        f" {part}" if option.required else f" [{part}]"
        for option in command.options
        for part in [f"{option.name} {option.value}".strip()]
    )
    words = f" {command.words}" if command.words else ""
    table = "".join(_row(option.name, option.short, option.description) for option in command.options)
    return f"Usage: {path}{optional}{words}\n" + (f"\n\n{_HEADER}{table}\n" if table else "")


def listing(path: str, group: Group, role: Role) -> str:
    """What may follow the words of `path`."""
    head = f"The following subcommands of '{path}' are available:" if path else "The following commands are available:"
    rows = (
        _row(entry.name, entry.short, ("> " if isinstance(entry, Group) else "") + entry.description)
        for entry in group.visible(role)
    )
    return f"{head}\n\n{_HEADER}{''.join(rows)}"


def reason(foreign: str) -> str:
    """What a device or the system gave as the reason, in lines that fit behind `Error:` on a terminal."""
    return textwrap.fill(f"Reason: {shown(foreign, 200)}", _COLUMNS - 8)


def note(sentence: str) -> str:
    """What a person should know before a question, in the look of the vendor's CAUTION."""
    return textwrap.fill(shown(sentence, 300), _COLUMNS, initial_indent="NOTE:     ", subsequent_indent=" " * 10) + "\n"


def warning(sentences: str, command: str = "") -> str:
    """What a person should know at once; the command for it stands in a line of its own, where it has the room."""
    typed = f"    {command}\n" if command else ""
    return "WARNING:  " + sentences.replace("\n", "\n          ") + f"\n{typed}\n"


def fields(title: str, pairs: Iterable[tuple[str, str]]) -> str:
    """A block of `Name:   value` lines in the look of `hsm show`."""
    lines = "".join(_field(name, value) for name, value in pairs)
    return f"   {title}:\n   {'=' * (len(title) + 1)}\n{lines}"


def _field(name: str, value: str) -> str:
    first, *more = textwrap.wrap(value, FIELD_COLUMNS, break_on_hyphens=False) or [""]
    return f"   {name + ':':<36}{first}\n" + "".join(f"{'':39}{line}\n" for line in more)


def _row(name: str, short: str, description: str) -> str:
    return f"{name:<15} {short:<5} {description}\n"


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # PEP 383
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
