# SPDX-License-Identifier: Apache-2.0
"""The LunaSH language, as tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.accounts.store import Role
from appliance.shell.commands import TREE
from appliance.shell.grammar import AmbiguousWord, Command, Group, UnknownCommand, UsageError, complete, find, parse

RESET = "token backup factoryReset"


@pytest.mark.parametrize(
    ("line", "path", "rest"),
    [
        ("token backup factoryReset -serial 1", RESET, "-serial 1"),
        ("TOKEN BACKUP FACTORYRESET", RESET, ""),
        ("token backup factoryreset", RESET, ""),
        ("t b f -s 1", RESET, "-s 1"),
        ("tok bac fact", RESET, ""),
        ("  token \t backup   list  ", "token backup list", ""),
        ("t b l", "token backup list", ""),
        ("t b s -s 1", "token backup show", "-s 1"),
        ('t b f "-x', RESET, '"-x'),
        ("my password set", "my password set", ""),
        ("m p s", "my password set", ""),
        ("token backup", "token backup", ""),
        ("token", "token", ""),
        ("", "", ""),
        ("?", "help", ""),
        ("he token", "help", "token"),
        ("e", "exit", ""),
    ],
)
def test_words_lead_to_a_command_in_any_case_and_by_any_unique_abbreviation(line: str, path: str, rest: str) -> None:
    """A line finds its command by full words, short names and unique abbreviations, and leaves the rest alone."""
    found = find(TREE, line, Role.ADMIN)

    assert (found.path, found.rest) == (path, rest)


@pytest.mark.parametrize(
    "line", ["x", "token x", "token backup factoryResets", "tokens", "token backup list2", "-", "--", "password"]
)
def test_other_words_are_no_command(line: str) -> None:
    """Words that lead nowhere, also longer ones than the command's, are unknown."""
    with pytest.raises(UnknownCommand) as caught:
        find(TREE, line, Role.ADMIN)

    assert caught.value.words == line


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.MONITOR, Role.AUDIT])
def test_other_roles_do_not_see_factory_reset(role: Role) -> None:
    """Only admin finds the destructive command; for the others it does not exist."""
    with pytest.raises(UnknownCommand):
        find(TREE, RESET, role)


def _command(line: str) -> Command:
    entry = find(TREE, line, Role.ADMIN).entry
    assert isinstance(entry, Command)
    return entry


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("-serial 667788", {"serial": "667788"}),
        ("-s 667788 -f", {"serial": "667788", "force": ""}),
        ("-FORCE -SERIAL 667788", {"serial": "667788", "force": ""}),
        ("-ser 667788 -fo", {"serial": "667788", "force": ""}),
        ('-serial "a b"', {"serial": "a b"}),
        ("-serial a'b", {"serial": "a'b"}),
    ],
)
def test_options_are_read_in_any_order_and_case(text: str, options: dict[str, str]) -> None:
    """Full names, short names and abbreviations of options mean the same."""
    assert parse(_command(RESET), text).options == options


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "The option '-serial <serialnum>' is missing."),
        ("-force", "The option '-serial <serialnum>' is missing."),
        ("-serial", "The option '-serial' needs a value: <serialnum>."),
        ("-serial -force", "The option '-serial' needs a value: <serialnum>."),
        ('-serial ""', "The option '-serial' needs a value: <serialnum>."),
        ('-serial " "', "The option '-serial' needs a value: <serialnum>."),
        ("-serial 1 -serial 1", "The option '-serial' was given twice."),
        ("-s 1 -f -force", "The option '-force' was given twice."),
        ("-serial 1 -x", "'-x' is not an option of this command."),
        ("-serial 1 -", "'-' is not an option of this command."),
        ("-serial 1 --force", "'--force' is not an option of this command."),
        ("-serials 1", "'-serials' is not an option of this command."),
        ("667788", "'667788' is not expected here."),
        ("-serial 1 2", "'2' is not expected here."),
        ('-serial "1', "A quotation mark is not closed."),
    ],
)
def test_wrong_arguments_get_one_sentence(text: str, sentence: str) -> None:
    """A missing, doubled, unknown or empty argument is refused with what is wrong."""
    with pytest.raises(UsageError) as caught:
        parse(_command(RESET), text)

    assert str(caught.value) == sentence


def test_an_ambiguous_word_names_its_candidates() -> None:
    """An abbreviation that fits two words is refused with both; a listed short name wins over it."""
    run = _command(RESET).run
    tree = Group("", "", "", (Command("alpha", "a", "", run), Command("alps", "alp", "", run)))
    with pytest.raises(AmbiguousWord) as caught:
        find(tree, "al", Role.ADMIN)

    assert caught.value.candidates == ("alpha", "alps")
    assert [find(tree, word, Role.ADMIN).path for word in ("a", "alp", "alph")] == ["alpha", "alps", "alpha"]


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ("", ["exit", "help", "hsm", "my", "token"]),
        ("to", ["token"]),
        ("TO", ["token"]),
        ("token ", ["backup", "pki"]),
        ("token backup ", ["factoryReset", "list", "show"]),
        ("t b fac", ["factoryReset"]),
        ("token backup factoryReset ", ["-serial", "-force"]),
        ("token backup factoryReset -f", ["-force"]),
        ("x ", []),
        ("exit ", []),
    ],
)
def test_completion_offers_what_can_follow(left: str, expected: list[str]) -> None:
    """What stands left of the cursor decides which words are offered."""
    assert complete(TREE, left, Role.ADMIN) == expected


@given(st.text(max_size=60))
def test_any_text_is_found_or_refused(line: str) -> None:
    """No line makes the grammar fail in any other way than its own errors."""
    try:
        found = find(TREE, line, Role.ADMIN)
        if isinstance(found.entry, Command):
            parse(found.entry, found.rest)
    except (UnknownCommand, AmbiguousWord, UsageError):
        pass
    complete(TREE, line, Role.ADMIN)
