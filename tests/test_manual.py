# SPDX-License-Identifier: Apache-2.0
"""The command line, its manual pages and its completions tell the same story."""

import argparse
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance import cli
from tests.support.checkout import ROOT

MANUALS = ROOT / "docs/man"
COMPLETIONS = ROOT / "debian/completion"
HELP = ("-h", "--help")  # of every command; the manual tells it once, the completion offers the long one


@dataclass(frozen=True)
class Command:
    """One command with its words, as the parser knows it."""

    words: tuple[str, ...]  # of the program and below
    options: tuple[tuple[str, ...], ...]  # the names of each
    operands: tuple[str, ...]
    subcommands: tuple[str, ...]
    choices: tuple[tuple[str, tuple[str, ...]], ...]  # the values of each option that has a fixed set of them

    @property
    def path(self) -> str:
        """The words below the program."""
        return " ".join(self.words[1:])


def commands(program: str, entry: Callable[[], object]) -> list[Command]:
    """Every command of the parser with which a program reads its arguments."""

    class Caught(Exception):
        """Ends the program, which would do its work otherwise."""

    def catch(parser: argparse.ArgumentParser, _words: object = None) -> None:
        found.extend(walk(parser, (program,)))
        raise Caught

    found: list[Command] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", catch)
        with pytest.raises(Caught):
            entry()
    return found


def walk(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[Command]:
    """A parser and all below it."""
    below: dict[str, argparse.ArgumentParser] = {}
    options, operands, choices = [], [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below |= action.choices
        elif action.option_strings:
            options.append(tuple(action.option_strings))
            if action.choices:
                choices.append((action.option_strings[0], tuple(map(str, action.choices))))
        else:
            operands.append(str(action.metavar))
    yield Command(words, tuple(options), tuple(operands), tuple(below), tuple(choices))
    for word, inner in below.items():
        yield from walk(inner, (*words, word))


ALL = [*commands("appliance-console", cli.main), *commands("lunash", cli.lunash)]
LEAVES = [command for command in ALL if not command.subcommands]
each = pytest.mark.parametrize("command", ALL, ids=lambda command: " ".join(command.words))
each_leaf = pytest.mark.parametrize("command", LEAVES, ids=lambda command: " ".join(command.words))


def test_the_parsers_are_found() -> None:
    """The checks below are of commands that exist."""
    assert {"appliance-console audit verify", "appliance-console run", "lunash"} <= {
        " ".join(command.words) for command in LEAVES
    }


# --- manual pages ---


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
@pytest.mark.parametrize("page", sorted(MANUALS.iterdir()), ids=lambda page: page.name)
def test_a_manual_is_well_formed(page: Path) -> None:
    """mandoc has no warning about it."""
    command: list[str | Path] = ["mandoc", "-T", "lint", "-W", "warning", page]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # a page of ours

    assert (result.stdout + result.stderr, result.returncode) == ("", 0)


def manual(program: str) -> str:
    """The source of a program's manual page."""
    (page,) = MANUALS.glob(f"{program}.[18]")
    return page.read_text(encoding="utf-8")


def section(text: str, macro: str, title: str) -> str:
    """The lines below one heading, up to the next of its kind or of a higher one."""
    found = re.search(rf"^\.{macro} {re.escape(title)}\n(.*?)(?=^\.S[hs] |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def flags(line: str) -> set[str]:
    """The options in one line of a manual page: ``Fl -config`` is ``--config``."""
    return {f"-{name}" for name in re.findall(r"\bFl (-?[a-z][a-z-]*)", line)}


def described(command: Command) -> list[set[str]]:
    """The options that the manual explains to a command, with those of their other names that stand beside them."""
    text = manual(command.words[0])
    part = section(text, "Ss", command.path) if command.path else section(text, "Sh", "OPTIONS")
    items: list[set[str]] = []
    above = ""
    for line in part.splitlines():
        if line.startswith(".It Fl "):
            if above.startswith(".It Fl "):  # a second heading of one item
                items[-1] |= flags(line)
            else:
                items.append(flags(line))
        above = line
    return items


def synopsis(command: Command) -> str:
    """The part of the synopsis that is of this command, in one line."""
    forms = section(manual(command.words[0]), "Sh", "SYNOPSIS").split(".Nm\n")
    for form in forms:
        words = re.match(r"\.Cm (.*)\n", form)
        if form and (words[1] if words else "") == command.path:
            return form.replace("\n", " ")
    return ""


@each
def test_every_option_is_in_the_manual(command: Command) -> None:
    """Each option is explained where its command is, under all its names, and no other is."""
    options = {frozenset(names) for names in command.options}
    if command.path:
        options.discard(frozenset(HELP))

    assert {frozenset(names) for names in described(command)} == options


@each_leaf
def test_every_command_is_in_the_synopsis(command: Command) -> None:
    """Each command has its line, with every option by one of its names and every operand, and no other."""
    options = [names for names in command.options if names != HELP]
    line = synopsis(command)

    assert line
    assert [names for names in options if len(flags(line) & set(names)) != 1] == []
    assert flags(line) - {name for names in options for name in names} == set()
    assert [operand for operand in command.operands if not re.search(rf"Ar {operand.lower()}\b", line)] == []


# --- completion ---

# Bash without the machinery of an interactive shell: the words stand in place of the line that somebody types.
_COMPLETE = """
compopt() { :; }
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
"_${1//-/_}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(*words: str, folder: Path = ROOT) -> set[str]:
    """What is offered for the last of the words."""
    command: list[str | Path] = ["bash", "--norc", "-c", _COMPLETE, "bash", COMPLETIONS / words[0], *words]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)  # noqa: S603  # ours
    assert result.stderr == ""
    return set(result.stdout.split())


@each
def test_every_option_is_completed(command: Command) -> None:
    """Each option and each further word of the command is offered, and no other."""
    names = {name for option in command.options for name in option} - {"-h"}
    offered = completed(*command.words, "-") | completed(*command.words, "")

    assert {word for word in offered if word.startswith("-") or not command.operands} == names | {*command.subcommands}


@each_leaf
def test_every_fixed_value_is_completed(command: Command) -> None:
    """An option with a fixed set of values offers these."""
    for option, values in command.choices:
        assert completed(*command.words, option, "") == set(values)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("appliance-console", "run", "--config", ""), {"file.toml", "folder"}),
        (("appliance-console", "audit", "verify", "--state", ""), {"folder"}),
        (("appliance-console", "token", "new", "fi"), {"file.toml"}),
        (("appliance-console", "token", "new", "--serial", ""), set()),
        (("lunash", "--socket", ""), {"file.toml", "folder"}),
        (("lunash", "-c", ""), set()),
        (("lunash", "--command", ""), set()),
    ],
)
def test_a_value_is_completed_by_its_kind(words: tuple[str, ...], offered: set[str], tmp_path: Path) -> None:
    """A file, a folder, or nothing where nobody can know."""
    (tmp_path / "file.toml").touch()
    (tmp_path / "folder").mkdir()

    assert completed(*words, folder=tmp_path) == offered
