# SPDX-License-Identifier: Apache-2.0
"""Style, types and the text of the project are tests like the others."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT, tracked_files

README = ROOT / "README.md"

# ruff reads no setup.cfg, so its rules stand here.
RUFF = (sys.executable, "-m", "ruff")
LAYOUT = ("--isolated", "--line-length=120", "--target-version=py311")
SELECT = (
    "ASYNC",  # blocking calls in coroutines
    "B",  # likely bugs
    "BLE",  # blind except
    "C4",  # comprehensions
    "DTZ",  # times without a zone
    "E",
    "F",
    "I",  # order of imports
    "N",  # names
    "PIE",
    "PT",  # pytest
    "PTH",  # pathlib instead of os.path
    "RET",
    "RUF",
    "S",  # security
    "SIM",
    "TRY",
    "UP",  # language of Python 3.11
    "W",
)
IGNORE = (
    "N818",  # an error is named after what happened, in the field's words: Hangup, DeviceGone
    "TRY003",  # a sentence for the operator belongs where it is raised; a class for each would say it twice
)
IGNORE_IN_TESTS = "S101"  # assert is how pytest tests


def run(*command: str | Path) -> str:
    """What a linter says; empty when it is content."""
    environment = os.environ | {"NO_COLOR": "1"}
    result = subprocess.run(  # noqa: S603  # a linter of the tests' own environment
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return f"{result.stdout}\nexit status {result.returncode}" if result.returncode else ""


def content(said: str) -> None:
    """Fail with everything that was found."""
    if said:
        pytest.fail(said, pytrace=False)


def ruff_check(*paths: str | Path) -> str:
    """What ruff finds in files and folders."""
    rules = (f"--select={','.join(SELECT)}", f"--ignore={','.join(IGNORE)}")
    return run(*RUFF, "check", "--quiet", *LAYOUT, *rules, f"--per-file-ignores=tests/**:{IGNORE_IN_TESTS}", *paths)


def test_ruff_finds_nothing() -> None:
    """No rule is broken; an exception stands in its line, with its reason."""
    content(ruff_check("appliance", "tests"))


def test_the_layout_is_ruffs() -> None:
    """Nobody discusses blanks."""
    content(run(*RUFF, "format", "--check", *LAYOUT, "appliance", "tests"))


def test_mypy_finds_nothing() -> None:
    """Everything is typed, strictly, the tests too (setup.cfg)."""
    content(run(sys.executable, "-m", "mypy"))


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("import os\n", "F401"),
        ("try:\n    pass\nexcept Exception:\n    pass\n", "BLE001"),
        ("assert len('x')\n", "S101"),
    ],
)
def test_ruff_is_not_asleep(tmp_path: Path, source: str, rule: str) -> None:
    """The options in force do find faults, and an assert outside the tests is one."""
    path = tmp_path / "module.py"
    path.write_text(source)

    assert rule in ruff_check(path)


# --- the text of the project ---

# The folders of every machine (Filesystem Hierarchy Standard 3.0, section 3), and what Linux adds.
STANDARD_FOLDERS = re.compile("bin|boot|dev|etc|home|lib|media|mnt|opt|proc|root|run|sbin|srv|sys|tmp|usr|var")
REGISTRIES = tuple(
    ".".join(parts)
    for parts in (
        ("deb", "debian", "org"),
        ("security", "debian", "org"),
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("docker", "io"),
    )
)


def foreign_words(checkout: Path) -> re.Pattern[str]:
    """What must not stand in a file: where this checkout is, somebody's home, a package registry.

    The folder that holds the checkout counts from its first name on, unless that is a folder of every machine.
    """
    top = checkout.parts[1]
    own = rf"{re.escape(str(checkout))}\b" if STANDARD_FOLDERS.fullmatch(top) else f"/{re.escape(top)}/"
    hosts = (re.escape(host) for host in REGISTRIES)
    return re.compile("|".join([rf"(?<![\w./-])(?:{own}|/home/\w|/root/[\w.])", *hosts]))


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    """No path of a workplace and no registry's host stands in the tree."""
    pattern = foreign_words(ROOT)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if (match := pattern.search(line))
    ]

    content("\n".join(found))


@pytest.mark.parametrize(
    ("checkout", "text", "foreign"),
    [
        ("/build/tree", "see /build/other/file", True),
        ("/build/tree", "/dev/ttyS0 and and/build/it", False),
        ("/usr/src/tree", "/usr/src/tree/tests", True),
        ("/usr/src/tree", "/usr/src/trees and /usr/bin", False),
        ("/build/tree", "cd /home/" + "somebody", True),
        ("/build/tree", "/root/" + ".ssh", True),
        ("/build/tree", "https://" + REGISTRIES[0] + "/debian", True),
    ],
)
def test_a_foreign_word_is_seen(checkout: str, text: str, foreign: bool) -> None:
    """The pattern finds what it is for, and not the paths of every machine."""
    assert bool(foreign_words(Path(checkout)).search(text)) is foreign


EXCEPTION = re.compile(r"# (?:noqa(?!:)|noqa: [A-Z0-9, ]+|type: ignore\[[a-z-, ]+\])(?P<reason>.*)")


def unexplained(lines: list[str]) -> list[int]:
    """The numbers of the lines that silence a linter and do not say why, or not which rule."""
    found = []
    for number, line in enumerate(lines, start=1):
        match = EXCEPTION.search(line)
        if match and not match["reason"].strip(" #:-"):
            found.append(number)
    return found


def test_every_exception_has_its_reason() -> None:
    """Who silences a linter says why, in the same line."""
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("appliance", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number in unexplained(path.read_text(encoding="utf-8").splitlines())
    ]

    content("\n".join(found))


@pytest.mark.parametrize(
    ("line", "explained"),
    [
        ("x()  # no" + "qa: S603  # a fixed argv, no shell", True),
        ("x()  # no" + "qa: S603 - a fixed argv", True),
        ("x()  # no" + "qa: S603", False),
        ("x()  # no" + "qa", False),
        ("x()  # type: ig" + "nore[misc]", False),
        ("x()  # type: ig" + "nore[misc]  # the stub is wrong", True),
    ],
)
def test_an_unexplained_exception_is_seen(line: str, explained: bool) -> None:
    """A bare exception is found; one with a reason is not."""
    assert (unexplained([line]) == []) is explained


# --- the README ---

COMMAND = re.compile(r"^(?:\$ |# )?(?:\S*/)?(?P<program>appliance-console|lunash)(?P<arguments> .*)?$")


def readme_commands(text: str) -> list[tuple[str, ...]]:
    """Our own commands in the code of a Markdown text, each as program, sub-commands, options."""
    code = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    code += re.findall(r"^ {4}(.*)$", text, re.MULTILINE)
    found = set()
    for part in re.split(r"\n|&&|\||;", "\n".join(code)):
        if match := COMMAND.match(part.strip()):
            words = (match["arguments"] or "").split()
            subcommands = [word for word in words if re.fullmatch("[a-z]+(-[a-z]+)*", word)][:2]
            options = sorted(word.partition("=")[0] for word in words if re.fullmatch("--[a-z]+(-[a-z]+)*(=.*)?", word))
            found.add((match["program"], *subcommands, *options))
    return sorted(found)


def usage(program: str, *subcommands: str) -> str:
    """The help of one of our commands; empty if there is no such command."""
    result = subprocess.run(  # noqa: S603  # our own program, with words of our own README
        [Path(sys.executable).with_name(program), *subcommands, "--help"], capture_output=True, text=True, check=False
    )
    return "" if result.returncode else result.stdout


def test_the_commands_in_the_readme_exist() -> None:
    """Every command of ours that the README shows is there, with the options it shows."""
    commands = readme_commands(README.read_text(encoding="utf-8"))
    assert ("appliance-console", "demo") in commands
    for program, *words in commands:
        subcommands = [word for word in words if not word.startswith("-")]
        help_text = usage(program, *subcommands)
        assert help_text, f"{program} {' '.join(subcommands)}"
        assert [word for word in words if word.startswith("-") and word not in help_text] == []


def test_a_command_in_the_readme_is_found() -> None:
    """Code blocks and indented code count, prose and the console's own dialogue do not."""
    text = (
        "Run appliance-console prose.\n\n```sh\n$ .venv/bin/appliance-console token new FILE --serial=7\n```\n"
        "    pip install . && .venv/bin/appliance-console demo\n"
        "    lunash:>token backup list\n    lunash -c 'hsm show'\n"
    )

    assert readme_commands(text) == [
        ("appliance-console", "demo"),
        ("appliance-console", "token", "new", "--serial"),
        ("lunash",),
    ]


def test_the_links_in_the_readme_lead_somewhere() -> None:
    """A relative link names a file of the project."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README.read_text(encoding="utf-8"))

    assert [link for link in links if not (ROOT / link).exists()] == []
