# SPDX-License-Identifier: Apache-2.0
"""Names, accounts and sentences of `appliance-console ssh-user add`; what it does is in `console/test_ssh_user.py`."""

import os
import pwd
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance import cli
from appliance.config import NAME
from appliance.programs import NotDone
from appliance.ssh.user import HOMES, account_of, check_name, strangeness

CONFIG = Path("/etc/appliance/console.toml")


@pytest.mark.parametrize("name", ["admin", "a", "_x", "hsm-operator_2", "a" * 32])
def test_a_name_is_taken(name: str) -> None:
    """Every one that useradd recommends; each of them can stand in the configuration."""
    check_name(name)

    assert NAME.fullmatch(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "-r", "--root", "+a", "~a", "Admin", "1a", "a b", "a:b", "a,b", "a/b", "../a", ".", "a\n", "a\0", "a$"),
        *("ä", "a" * 33, "a.b"),
    ],
)
def test_a_name_is_refused(name: str) -> None:
    """None reaches useradd that is an option, a path, or another line of the user database."""
    with pytest.raises(NotDone, match="cannot be a user's name") as refused:
        check_name(name)

    assert str(refused.value).isprintable()


def entry(*, uid: int = 1000, gecos: str = "", home: str = str(HOMES / "admin"), shell: str = "/usr/bin/lunash") -> Any:
    """An account as it is set up, with changes."""
    return pwd.struct_passwd(("admin", "x", uid, 994, gecos, home, shell))


@pytest.mark.parametrize(
    ("changes", "groups", "expected"),
    [
        ({}, ["lunash"], []),
        ({"gecos": "The operator"}, ["lunash"], []),
        ({"uid": 0}, ["lunash"], ["its number is 0, one of the system's own"]),
        ({"uid": 999}, ["lunash"], ["its number is 999, one of the system's own"]),
        ({}, ["users"], ["its groups are users and not lunash alone"]),
        ({}, ["lunash", "sudo"], ["its groups are lunash, sudo and not lunash alone"]),
        ({"home": "/"}, ["lunash"], ["its home is /"]),
        ({"shell": "/bin/sh"}, ["lunash"], ["its shell is /bin/sh"]),
        ({"shell": ""}, ["lunash"], ["its shell is "]),
    ],
)
def test_an_account_of_another_kind_is_seen(changes: dict[str, Any], groups: list[str], expected: list[str]) -> None:
    """Whatever is otherwise is told."""
    assert list(strangeness(entry(**changes), groups)) == expected


@pytest.mark.parametrize(
    ("name", "users", "account"),
    [
        ("admin", {}, "admin"),
        ("admin", {"admin": "monitor"}, "monitor"),
        ("operator", {"operator": "admin"}, "admin"),
    ],
)
def test_an_account_is_told(name: str, users: Mapping[str, str], account: str) -> None:
    """It is what the door makes of the same table."""
    assert account_of(name, users, CONFIG) == f"On the appliance the user has the account '{account}'."


@pytest.mark.parametrize("users", [{}, {"alice": "admin", "bob.b": "monitor"}])
def test_the_line_that_is_missing_is_told(users: Mapping[str, str]) -> None:
    """It is TOML, adds the user, and keeps everybody who is there."""
    told = account_of("operator", users, CONFIG)
    [line] = [line for line in told.splitlines() if line.startswith("    ")]

    assert tomllib.loads(line) == {"users": {**users, "operator": "admin"}}
    assert f"under [network] in {CONFIG}" in told
    assert ("in the place of" in told) is bool(users)
    assert "systemctl restart" in told


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything else."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert cli.main(["ssh-user", "add", "admin", "--key", "/nowhere"]) == 1
    assert capsys.readouterr() == ("", "appliance-console: Only root can set up a user.\n")
