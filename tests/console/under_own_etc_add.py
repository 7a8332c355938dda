# SPDX-License-Identifier: Apache-2.0
"""How `appliance-console ssh-user add` sets a user up, and when it does not: `test_ssh_user.py` runs this."""

import os
import pwd
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.own_etc import (
    CONSOLE_TOML,
    DROP_IN,
    FREE,
    LUNASH,
    MEMBER,
    SSHD_CONFIG,
    USER,
    add,
    inside,
    own_server,
    remove,
    sshd_says,
)
from tests.support.sshd import SshServer

if not inside():
    pytest.skip("runs where /etc is its own only", allow_module_level=True)


NEWCOMER = "operator"
HOME = Path("/home", NEWCOMER)


@pytest.fixture(scope="module")
def server() -> Iterator[SshServer]:
    """A running server with the three users."""
    with own_server() as server:
        yield server


@pytest.fixture
def newcomer(server: SshServer) -> Iterator[str]:
    """A name that is free, and the files of the system as they were when it is over."""
    saved = {path: path.read_bytes() for path in (DROP_IN, CONSOLE_TOML, SSHD_CONFIG)}
    yield NEWCOMER
    for path, data in saved.items():
        path.write_bytes(data)
    remove(NEWCOMER)


def key_of(server: SshServer) -> str:
    """The users' public key."""
    return (server.folder / "user_key.pub").read_text()


def keys_of(name: str) -> Path:
    """Where a user's keys are."""
    return Path("/home", name, ".ssh/authorized_keys")


def test_the_account(server: SshServer, newcomer: str) -> None:
    """It has the shell, one group, no password and no lock, and a home in which nothing is its own."""
    status, output, errors = add(newcomer, "--key", "-", typed=key_of(server))
    shadow = Path("/etc/shadow").read_text().splitlines()[-1].split(":")
    entry = pwd.getpwnam(newcomer)

    assert (status, errors) == (0, "")
    assert (entry.pw_dir, entry.pw_shell) == (str(HOME), str(LUNASH))
    assert entry.pw_uid >= 1000
    assert os.getgrouplist(newcomer, entry.pw_gid) == [pwd.getpwnam(USER).pw_gid]
    assert (shadow[0], shadow[1], shadow[4]) == (newcomer, "*", "")
    for path, mode in {HOME: 0o40755, HOME / ".ssh": 0o40755, keys_of(newcomer): 0o100644}.items():
        assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode) == (0, 0, mode)
    assert keys_of(newcomer).read_text().split()[:2] == key_of(server).split()[:2]
    assert '\n    users = { operator = "admin" }\n' in output


def test_again_changes_nothing(server: SshServer, newcomer: str) -> None:
    """The second time says that there is nothing to do, and keeps what an administrator wrote to the keys."""
    add(newcomer, "--key", "-", typed=key_of(server))
    keys_of(newcomer).write_text(f'# mine\nfrom="10.0.0.1" {key_of(server)}')
    before = Path("/etc/passwd").read_bytes(), Path("/etc/shadow").read_bytes(), keys_of(newcomer).read_bytes()
    status, output, errors = add(newcomer, "--key", "-", typed=key_of(server))

    assert (status, errors) == (0, "")
    assert "already" in output
    assert "Repaired" not in output
    assert "Keys added: 0" in output
    assert (
        Path("/etc/passwd").read_bytes(),
        Path("/etc/shadow").read_bytes(),
        keys_of(newcomer).read_bytes(),
    ) == before


def test_a_key_in_a_comment_is_no_key(server: SshServer, newcomer: str) -> None:
    """Where an administrator has put a key out of force, indented too, adding it puts it in force."""
    add(newcomer)
    keys_of(newcomer).write_text(f"  # {key_of(server)}\n")
    _, output, _ = add(newcomer, "--key", "-", typed=key_of(server))

    assert f"Keys added: 1; in {keys_of(newcomer)} there are now: 1." in output


def test_damage_is_repaired(server: SshServer, newcomer: str) -> None:
    """A lock, open permissions and a missing folder are put right, and said."""
    add(newcomer)
    subprocess.run(["usermod", "--lock", newcomer], check=True)  # noqa: S603, S607  in our own /etc
    (HOME / ".ssh").rmdir()
    HOME.chmod(0o777)
    status, output, errors = add(newcomer, "--key", "-", typed=key_of(server))

    assert (status, errors) == (0, "")
    assert output.count("Repaired: ") == 2
    assert HOME.stat().st_mode == 0o40755
    assert Path("/etc/shadow").read_text().splitlines()[-1].startswith("operator:*:")
    assert keys_of(newcomer).exists()


def test_without_a_key_nobody_comes_in(newcomer: str) -> None:
    """That is said."""
    status, output, _ = add(newcomer)

    assert status == 0
    assert "nobody can log in yet" in output
    assert not keys_of(newcomer).exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("root", "its number is 0, one of the system's own"),
        ("appliance", "one of the system's own"),
        ("nobody", "its shell is /usr/sbin/nologin"),
        (FREE, "its groups are nogroup and not lunash alone, its shell is /bin/sh"),
        (MEMBER, "its shell is /bin/sh"),
    ],
)
@pytest.mark.usefixtures("server")
def test_another_account_stays_as_it_is(name: str, reason: str) -> None:
    """Whoever was not set up here is left alone."""
    before = Path("/etc/passwd").read_bytes(), Path("/etc/shadow").read_bytes()
    status, _, errors = add(name)

    assert status == 1
    assert reason in errors
    assert len(errors.splitlines()) == 1
    assert (Path("/etc/passwd").read_bytes(), Path("/etc/shadow").read_bytes()) == before


def test_a_further_group_makes_another_account(newcomer: str) -> None:
    """A user whom somebody gave more than the network door is none of ours."""
    add(newcomer)
    subprocess.run(["usermod", "--append", "--groups", "appliance-hsm", newcomer], check=True)  # noqa: S603, S607  ours

    assert "its groups are lunash, appliance-hsm and not lunash alone" in add(newcomer)[2]


def test_a_home_that_is_there_is_not_taken(newcomer: str) -> None:
    """What another left in it could be a key."""
    HOME.mkdir()
    status, _, errors = add(newcomer)

    assert (status, errors) == (1, f"appliance-console: {HOME} is there already: move it away first.\n")
    assert "operator" not in Path("/etc/passwd").read_text()


def test_a_home_that_is_not_roots_is_not_taken(server: SshServer, newcomer: str) -> None:
    """Nor is one that was given to the user later."""
    add(newcomer)
    os.chown(HOME, pwd.getpwnam(newcomer).pw_uid, 0)
    status, _, errors = add(newcomer, "--key", "-", typed=key_of(server))

    assert status == 1
    assert f"{HOME} is not what was set up there, or not root's" in errors


# --- what sshd says of it ---


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda: DROP_IN.unlink(),
            "forcecommand is none and must be /usr/bin/lunash, disableforwarding is no and must",
        ),
        (lambda: prepend("Match User operator\n ForceCommand /bin/sh\n"), "forcecommand is /bin/sh and must be"),
        (lambda: prepend("Match Address 127.0.0.0/8\n PermitTunnel yes\n"), "permittunnel is yes and must be no"),
        (lambda: replace("Include", "#"), "acceptenv is * and must be LUNASH_ACCEPTS_NOTHING"),
        (lambda: replace("Port", "AllowUsers admin@10.* oper\nPort"), "allowusers does not have operator"),
        (lambda: replace("Port", "DenyGroups luna*\nPort"), "denygroups has lunash"),
        (lambda: replace("Port", "Prot"), "sshd failed: "),
    ],
    ids=["no-drop-in", "earlier-match", "earlier-address", "no-include", "allow-users", "deny-groups", "broken"],
)
def test_no_key_where_sshd_does_not_confine(
    server: SshServer, newcomer: str, break_it: Callable[[], None], said: str
) -> None:
    """A configuration that does not confine the user, or keeps him out, is named, and his key is not put there."""
    break_it()
    status, _, errors = add(newcomer, "--key", "-", typed=key_of(server))

    assert status == 1
    assert said in errors
    assert len(errors.splitlines()) == 1
    assert not keys_of(newcomer).exists()


def prepend(text: str) -> None:
    """Put a file before ours."""
    SSHD_CONFIG.write_text(f"{text}Match all\n{SSHD_CONFIG.read_text()}")


def replace(old: str, new: str) -> None:
    """Change lines of sshd's own file."""
    SSHD_CONFIG.write_text(re.sub(f"^{old}", new, SSHD_CONFIG.read_text(), flags=re.MULTILINE))


def test_a_match_before_the_include_does_not_end_ours(server: SshServer, newcomer: str) -> None:
    """The drop-in's own Match ends with it: what comes after the Include holds for others."""
    assert add(newcomer, "--key", "-", typed=key_of(server))[0] == 0
    assert sshd_says(FREE)["forcecommand"] == "none"
    assert sshd_says(FREE)["permittunnel"] == "yes"


@pytest.mark.parametrize(("active", "reloads"), [(0, True), (3, False)])
def test_a_running_sshd_reads_its_configuration_again(
    server: SshServer, newcomer: str, active: int, reloads: bool
) -> None:
    """It is told to where systemd runs it, and the key comes after that."""
    calls, systemctl = server.folder / "calls", Path("/usr/bin/systemctl")
    saved = systemctl.read_bytes()
    systemctl.write_text(
        f'#!/bin/sh\necho "$*" "$(ls {keys_of(newcomer)} 2>&1 | grep -c "^/")" >>{calls}\n'
        f'[ "$1" != is-active ] || exit {active}\n'
    )
    Path("/run/systemd/system").mkdir(parents=True)
    try:
        status, output, errors = add(newcomer, "--key", "-", typed=key_of(server))
    finally:
        Path("/run/systemd/system").rmdir()
        systemctl.write_bytes(saved)
    told = calls.read_text().splitlines()
    calls.unlink()

    assert (status, errors) == (0, "")
    assert told == ["is-active --quiet ssh.service 0", *(["reload ssh.service 0"] if reloads else [])]
    assert ("sshd has read its configuration again." in output) is reloads


def test_a_mapped_user_is_told_his_account(newcomer: str) -> None:
    """The map of the configuration is what counts."""
    CONSOLE_TOML.write_text('[network]\nusers = { operator = "audit" }\n')

    assert "the account 'audit'" in add(newcomer)[1]


def test_a_wrong_configuration_changes_nothing(newcomer: str) -> None:
    """It is named before anybody is made."""
    CONSOLE_TOML.write_text("[network]\nuser = {}\n")
    status, _, errors = add(newcomer)

    assert (status, errors) == (78, f"appliance-console: {CONSOLE_TOML}: network.user: unknown key\n")
    assert "operator" not in Path("/etc/passwd").read_text()


@pytest.mark.parametrize("file", ["/usr/bin/lunash", "/etc/shells"])
def test_what_is_missing_is_named(newcomer: str, file: str) -> None:
    """Without the shell, or where it is no shell, nobody is made."""
    path = Path(file)
    data, mode = path.read_bytes(), path.stat().st_mode
    path.write_text("")
    path.chmod(0o644)
    try:
        status, _, errors = add(newcomer)
    finally:
        path.write_bytes(data)
        path.chmod(mode)

    assert status == 1
    assert file in errors
    assert "operator" not in Path("/etc/passwd").read_text()
