# SPDX-License-Identifier: Apache-2.0
"""A user of lunash is a Unix account that leads to the network door and nowhere else, found so by reading it back.

Its home belongs to root, so that no file in it is the user's own: no key, no ``~/.ssh/rc``, no unit of a user's
systemd. A key is put there last, when sshd is known to confine the user.
"""

import grp
import json
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from appliance.config import load
from appliance.errors import StateError
from appliance.files import write_atomically
from appliance.programs import NotDone, run
from appliance.ssh import keys, server
from appliance.ssh.keys import PublicKey

NAME: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")  # useradd(8), its recommendation
HOMES: Final = Path("/home")
FIRST_UID: Final = 1000  # below are the users of the system (Debian Policy, 9.2.2)
NO_PASSWORD: Final = "*"  # noqa: S105  # none fits; unlike "!" it is no lock, which sshd without PAM takes for one

_SHELLS = Path("/etc/shells")


def add(name: str, key_file: Path | None, config: Path) -> int:
    """Set the user up, or repair what was set up, telling what is done; 0. Raises `NotDone`, `ConfigError`.

    Nothing is changed before all that can be known beforehand is known.
    """
    if os.geteuid() != 0:
        raise NotDone("Only root can set up a user.")
    check_name(name)
    new_keys = keys.read(key_file) if key_file else []
    users = load(config).network.users
    try:
        _require()
        _have_account(name)
        _have_folders(HOMES / name)
        server.check(name)
        if told := server.reload():
            print(told)
        print(_authorize(HOMES / name / ".ssh/authorized_keys", new_keys))
    except OSError as error:
        raise NotDone(f"{error.filename}: {error.strerror}.") from error
    print(account_of(name, users, config))
    return 0


def check_name(name: str) -> None:
    """Raises `NotDone` unless `name` can be a user's."""
    if not NAME.fullmatch(name):
        raise NotDone(
            f"{name[:64]!a} cannot be a user's name: it has at most 32 lower-case letters, digits, '_' and '-',"
            " and does not begin with a digit or '-'."
        )


def _require() -> None:
    """Raises `NotDone` unless there is everything that a user needs."""
    server.require()
    if not os.access(server.SHELL, os.X_OK):
        raise NotDone(f"{server.SHELL} is not there, which is to be the user's shell.")
    if str(server.SHELL) not in _SHELLS.read_text(encoding="utf-8").splitlines():
        raise NotDone(f"{_SHELLS} does not list {server.SHELL}: add it.")
    try:
        grp.getgrnam(server.GROUP)
    except KeyError as error:
        raise NotDone(f"There is no group {server.GROUP}: run systemd-sysusers.") from error


def _have_account(name: str) -> None:
    """Make the account, or take the one there is, if it is such an account."""
    if _entry(name):
        print(f"There is a Unix user '{name}' already.")
    else:
        _make(name)
        print(f"The Unix user '{name}' is made.")
    entry = _entry(name)
    if not entry:
        raise NotDone(f"useradd said nothing, and there is no Unix user '{name}'.")
    if wrong := list(strangeness(entry, _group_names(entry))):
        raise NotDone(f"The Unix user '{name}' is none that is set up here and stays as it is: {', '.join(wrong)}.")
    password = run("/usr/bin/getent", "shadow", name).split(":")[1]
    if not password or password.startswith("!"):
        run("/usr/sbin/usermod", "--password", NO_PASSWORD, name)
        print("Repaired: the user was locked." if password else "Repaired: the user's password was empty.")


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _group_names(entry: pwd.struct_passwd) -> list[str]:
    """The groups that the user is in, the first among them."""
    return [grp.getgrgid(number).gr_name for number in os.getgrouplist(entry.pw_name, entry.pw_gid)]


def _make(name: str) -> None:
    home = HOMES / name
    if os.path.lexists(home):
        raise NotDone(f"{home} is there already: move it away first.")
    options = {
        "--gid": server.GROUP,
        "--home-dir": str(home),
        "--shell": str(server.SHELL),
        "--password": NO_PASSWORD,
        # A password that is none does not age: sshd would start passwd(1) in the place of lunash when it is too old.
        "--key": "PASS_MAX_DAYS=-1",
        "--comment": "LunaSH user",
    }
    words = (word for option in options.items() for word in option)
    run("/usr/sbin/useradd", "--no-create-home", "--no-user-group", *words, name)


def strangeness(entry: pwd.struct_passwd, groups: list[str]) -> Iterator[str]:
    """What makes an account another than `_make` does; `groups` are all that it is in."""
    if entry.pw_uid < FIRST_UID:
        yield f"its number is {entry.pw_uid}, one of the system's own"
    if groups != [server.GROUP]:
        yield f"its groups are {', '.join(groups)} and not {server.GROUP} alone"
    if entry.pw_shell != str(server.SHELL):
        yield f"its shell is {entry.pw_shell}"
    if entry.pw_dir != str(HOMES / entry.pw_name):
        yield f"its home is {entry.pw_dir}"


def _have_folders(home: Path) -> None:
    """Have the home and the folder of its keys, both root's, and open to sshd, which reads them as the user."""
    for folder in (home, home / ".ssh"):
        try:
            folder.mkdir()
        except FileExistsError:
            _hold(folder, stat.S_ISDIR, 0o755)
        else:
            folder.chmod(0o755)  # whatever the umask


def _authorize(path: Path, new: list[PublicKey]) -> str:
    """Add the keys that are not there yet, and say how many there are. What an administrator wrote there stays."""
    lines = []
    if os.path.lexists(path):
        _hold(path, stat.S_ISREG, 0o644)
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    known = {word for line in lines if not line.lstrip().startswith("#") for word in line.split()}
    added = list({key.encoded: key.line for key in new if key.encoded not in known}.values())
    if added:
        text = "".join(f"{line}\n" for line in [*lines, *added])
        try:
            write_atomically(path, text.encode(errors="surrogateescape"), 0o644)
        except StateError as error:
            raise NotDone(f"The keys are not in force: {error}.") from error
    total = sum(1 for line in [*lines, *added] if line.strip() and not line.lstrip().startswith("#"))
    if not total:
        return f"No key is in {path}, so nobody can log in yet: run this again with --key."
    return f"Keys added: {len(added)}; in {path} there are now: {total}."


def _hold(path: Path, is_kind: Callable[[int], bool], mode: int) -> None:
    """Give a file or folder of root's the permissions it must have. Raises `NotDone` when it is none."""
    found = path.lstat()
    if not is_kind(found.st_mode) or found.st_uid != 0:
        raise NotDone(f"{path} is not what was set up there, or not root's: see what it is, and move it away.")
    if stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)
        print(f"Repaired: the permissions of {path}.")


def account_of(name: str, users: Mapping[str, str], config: Path) -> str:
    """Which account of the appliance the Unix user has, and what to do when that is none (`console/door.py`)."""
    account = users.get(name, name)
    if name in users or name == "admin":
        return f"On the appliance the user has the account '{account}'."
    table = ", ".join(f"{_toml(user)} = {json.dumps(account)}" for user, account in {**users, name: "admin"}.items())
    place = ", in the place of the users that stand there" if users else ""
    return (
        f"On the appliance the user has an account only if there is one named '{name}'. To give it the account 'admin',"
        f" write this line under [network] in {config}{place}:\n\n    users = {{ {table} }}\n\n"
        "and restart the console: systemctl restart 'appliance-console@*.service'"
    )


def _toml(name: str) -> str:
    """A key as TOML has it: in quotes unless it is bare."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
