# SPDX-License-Identifier: Apache-2.0
"""The LunaSH language as data: words, short names, options; how a line is read by it.

Words and options match in any case: the full word, the listed short name, or any abbreviation that is unique at its
place. A listed short name wins over a longer abbreviation.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from appliance.accounts.store import Role
from appliance.errors import ApplianceError
from appliance.shell.invocation import Invocation, Reply


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a command; without `value` it is a switch."""

    name: str  # canonical, with the dash: "-serial"
    short: str
    description: str
    value: str = ""  # the placeholder: "<serialnum>"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A word that ends a command."""

    name: str
    short: str
    description: str
    run: Callable[[Invocation], Awaitable[Reply]]
    options: tuple[Option, ...] = ()
    words: str = ""  # the placeholder for free words after the command, "" when it takes none
    roles: frozenset[Role] = frozenset(Role)
    console_only_as: str = ""  # the name by which the refusal on the network calls it; "" when it runs from anywhere


@dataclass(frozen=True, slots=True)
class Group:
    """A word that another word follows."""

    name: str
    short: str
    description: str
    entries: tuple["Command | Group", ...]

    def visible(self, role: Role) -> tuple["Command | Group", ...]:
        """The entries of which `role` may use at least one command."""
        return tuple(entry for entry in self.entries if _permitted(entry, role))


class UnknownCommand(ApplianceError):
    """The words lead to no command that this role may use."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class AmbiguousWord(ApplianceError):
    """An abbreviation fits more than one word at its place."""

    def __init__(self, word: str, candidates: Sequence[str]) -> None:
        super().__init__(f"{word}: {', '.join(candidates)}")
        self.word = word
        self.candidates = tuple(candidates)


class UsageError(ApplianceError):
    """The command was found, but its arguments are wrong: one sentence."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where the words of a line lead: a command, or a group when more words are needed."""

    path: str  # canonical words, blanks between
    entry: Command | Group
    rest: str  # the text behind the words, not looked at


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a command, as `Invocation` carries them."""

    options: dict[str, str]
    words: tuple[str, ...]


def find(root: Group, line: str, role: Role) -> Found:
    """The command that the first words of `line` name. What follows them is not looked at.

    Raises `UnknownCommand` or `AmbiguousWord`.
    """
    entry: Command | Group = root
    path: list[str] = []
    rest = line.strip()
    while isinstance(entry, Group) and rest:
        word, rest = _split_word(rest)
        found = _match(word, entry.visible(role))
        if found is None:
            raise UnknownCommand(line.strip())
        entry = found
        path.append(entry.name)
    return Found(" ".join(path), entry, rest)


def parse(command: Command, text: str) -> Arguments:
    """Read what follows a command. Raises `UsageError` or `AmbiguousWord`."""
    options: dict[str, str] = {}
    words: list[str] = []
    tokens = iter(_tokens(text))
    for token in tokens:
        if not token.startswith("-"):
            words.append(token)
            continue
        option = _match(token, command.options)
        if option is None:
            raise UsageError(f"'{token}' is not an option of this command.")
        key = option.name.removeprefix("-")
        if key in options:
            raise UsageError(f"The option '{option.name}' was given twice.")
        options[key] = _value(option, tokens)
    if words and not command.words:
        raise UsageError(f"'{words[0]}' is not expected here.")
    for option in command.options:
        if option.required and option.name.removeprefix("-") not in options:
            raise UsageError(f"The option '{option.name} {option.value}' is missing.")
    return Arguments(options, tuple(words))


def is_word(value: str) -> bool:
    """Whether `value` is read as the value of an option, and as nothing else, when it is typed as it stands."""
    return value.split() == [value] and not value.startswith(('"', "-"))


def complete(root: Group, left: str, role: Role) -> list[str]:
    """The whole words or options that can end what stands left of the cursor."""
    before, last = _split_last(left)
    try:
        found = find(root, before, role)
    except (UnknownCommand, AmbiguousWord):
        return []
    names = (
        (entry.name for entry in found.entry.visible(role))
        if isinstance(found.entry, Group)
        else (option.name for option in found.entry.options)
    )
    return [name for name in names if name.lower().startswith(last.lower())]


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def short(self) -> str: ...


_Entry = TypeVar("_Entry", bound=_Named)


def _match(word: str, entries: Iterable[_Entry]) -> _Entry | None:
    """The entry that `word` names or abbreviates; None for none. Raises `AmbiguousWord`."""
    typed = word.lower()
    if not typed.strip("-"):
        return None
    candidates = []
    for entry in entries:
        if typed in (entry.name.lower(), entry.short.lower()):
            return entry
        if entry.name.lower().startswith(typed):
            candidates.append(entry)
    if len(candidates) > 1:
        raise AmbiguousWord(word, [entry.name for entry in candidates])
    return candidates[0] if candidates else None


def _value(option: Option, tokens: Iterable[str]) -> str:
    if not option.value:
        return ""
    value = next(iter(tokens), "")
    if not value.strip() or value.startswith("-"):
        raise UsageError(f"The option '{option.name}' needs a value: {option.value}.")
    return value


def _tokens(text: str) -> list[str]:
    """Blanks separate; double quotes keep blanks together."""
    tokens = []
    while text := text.lstrip():
        if text.startswith('"'):
            token, quote, text = text[1:].partition('"')
            if not quote:
                raise UsageError("A quotation mark is not closed.")
        else:
            token, text = _split_word(text)
        tokens.append(token)
    return tokens


def _split_word(text: str) -> tuple[str, str]:
    """The first word, and what follows the blanks after it."""
    word, *rest = text.split(maxsplit=1)
    return word, rest[0] if rest else ""


def _split_last(text: str) -> tuple[str, str]:
    """What stands before the last word, and the last word; it is empty after a blank."""
    last = "" if not text or text[-1].isspace() else text.split()[-1]
    return text[: len(text) - len(last)], last


def _permitted(entry: Command | Group, role: Role) -> bool:
    if isinstance(entry, Command):
        return role in entry.roles
    return any(_permitted(inner, role) for inner in entry.entries)
