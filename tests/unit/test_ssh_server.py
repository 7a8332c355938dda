# SPDX-License-Identifier: Apache-2.0
"""What sshd says is judged as a whole: one setting that is otherwise is enough."""

from pathlib import Path

import pytest

from appliance import programs
from appliance.console.relay import FORCED
from appliance.programs import NotDone
from appliance.ssh import server
from appliance.ssh.server import WANTED, barred, differences, parse

DROP_IN = Path(__file__).resolve().parents[2] / "systemd/sshd_config.d" / server.DROP_IN.name
GOOD = "".join(f"{key} {value}\n" for key, value in WANTED.items())


def test_the_drop_in_says_what_is_wanted() -> None:
    """Whoever has the file that is installed has every setting that is asked for, for the group that is meant."""
    lines = [line.strip() for line in DROP_IN.read_text(encoding="utf-8").splitlines()]
    match, *settings = [line for line in lines if line and not line.startswith("#")]

    assert match == f"Match Group {server.GROUP}"
    assert WANTED.items() <= {key.lower(): value for key, value in (line.split(" ", 1) for line in settings)}.items()


def test_lunash_knows_the_forced_command() -> None:
    """What sshd runs in the place of every command is what `lunash` takes for the sign to look at the command."""
    assert WANTED["forcecommand"] == FORCED == str(server.SHELL)


def test_what_is_wanted_is_no_difference() -> None:
    """Settings that nobody asked about do not matter."""
    assert list(differences(parse(f"port 22\n{GOOD}acceptenvironment x\n"))) == []


@pytest.mark.parametrize("key", WANTED)
def test_each_setting_counts(key: str) -> None:
    """Another value of it, or none, is named."""
    other = GOOD.replace(f"{key} {WANTED[key]}\n", f"{key} other\n")
    absent = GOOD.replace(f"{key} {WANTED[key]}\n", "")

    assert list(differences(parse(other))) == [f"{key} is other and must be {WANTED[key]}"]
    assert list(differences(parse(absent))) == [f"{key} is not set and must be {WANTED[key]}"]


def test_a_further_variable_is_a_difference() -> None:
    """sshd writes a list in several lines."""
    [difference] = differences(parse(f"{GOOD}acceptenv LD_*\n"))

    assert difference.startswith("acceptenv is LUNASH_ACCEPTS_NOTHING LD_* and")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("", ""),
        ("allowusers admin\n", ""),
        ("allowusers root\nallowusers ad*@10.0.0.*\n", ""),
        ("allowusers root\nallowusers operator\n", "allowusers does not have admin"),
        ("denyusers operator\n", ""),
        ("denyusers operator\ndenyusers a?min\n", "denyusers has admin"),
        ("allowgroups sudo\nallowgroups lunash\n", ""),
        ("allowgroups sudo\n", "allowgroups does not have lunash"),
        ("denygroups *\n", "denygroups has lunash"),
    ],
)
def test_who_is_barred_is_told(settings: str, reason: str) -> None:
    """sshd's own lists keep users out, whatever they prove."""
    assert barred(parse(settings), "admin") == reason


def test_no_server_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And which package has it."""
    monkeypatch.setattr(server, "_SSHD", tmp_path / "sshd")

    with pytest.raises(NotDone, match="install the package openssh-server"):
        server.require()


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo warning >&2; echo the reason >&2; echo >&2; exit 3", "sh failed: the reason"),
        ("printf 'a\\033b' >&2; exit 3", "sh failed: a?b"),
        ("exit 3", "sh failed: exit status 3"),
        ("exec sleep 60", "/bin/sh did not end within 0 seconds."),
    ],
)
def test_a_program_fails_in_one_sentence(monkeypatch: pytest.MonkeyPatch, script: str, sentence: str) -> None:
    """Its last words, and no more than fits a line."""
    if "sleep" in script:
        monkeypatch.setattr(programs, "_LONGEST", 0.1)

    with pytest.raises(NotDone) as failed:
        programs.run("/bin/sh", "-c", script)

    assert str(failed.value) == sentence


def test_a_program_that_is_missing_is_named() -> None:
    """By its path."""
    with pytest.raises(NotDone, match=r"^/nowhere/useradd cannot be run: No such file or directory\.$"):
        programs.run("/nowhere/useradd")


def test_a_program_gets_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever root has set, a program of the system speaks English and is found where it is."""
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("SOMETHING", "else")

    assert sorted(programs.run("/usr/bin/env").splitlines()) == [
        "LC_ALL=C.UTF-8",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    ]
