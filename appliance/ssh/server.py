# SPDX-License-Identifier: Apache-2.0
"""sshd itself is asked what it allows to a user; only its answer counts, not what stands in a file.

``systemd/sshd_config.d/appliance-console.conf`` is how it is told.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from appliance.programs import NotDone, ask, run

DROP_IN: Final = Path("/etc/ssh/sshd_config.d/appliance-console.conf")
GROUP: Final = "lunash"  # whom the drop-in is for
SHELL: Final = Path("/usr/bin/lunash")  # their login shell, and what sshd starts in it

# What must be in force, as `sshd -T` writes it. How else somebody may prove who he is, the administrator decides.
WANTED: Final[Mapping[str, str]] = {
    "forcecommand": str(SHELL),
    "disableforwarding": "yes",
    "allowagentforwarding": "no",
    "allowstreamlocalforwarding": "no",
    "allowtcpforwarding": "no",
    "x11forwarding": "no",
    "permittunnel": "no",
    "permituserrc": "no",
    "acceptenv": "LUNASH_ACCEPTS_NOTHING",
    "pubkeyauthentication": "yes",
    "authorizedkeysfile": ".ssh/authorized_keys",
}

_SSHD = Path("/usr/sbin/sshd")
_SYSTEMCTL = "/usr/bin/systemctl"
_SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
_SEPARATION = Path("/run/sshd")  # sshd(8): without it, not even a question is answered

Settings = Mapping[str, tuple[str, ...]]


def require() -> None:
    """Raises `NotDone` unless there is an OpenSSH server."""
    if not _SSHD.exists():
        raise NotDone("There is no OpenSSH server on this appliance: install the package openssh-server first.")


def check(name: str) -> None:
    """Raises `NotDone` unless sshd confines the user `name` to lunash, and lets him in."""
    _SEPARATION.mkdir(mode=0o755, exist_ok=True)  # made by its service, which may not have run yet
    # All that a Match can ask for must be given, or sshd does not answer.
    answer = run(str(_SSHD), "-T", "-C", f"user={name},host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22")
    settings = parse(answer)
    if wrong := list(differences(settings)):
        raise NotDone(
            f"sshd does not confine '{name}' to lunash: {', '.join(wrong)}. See that {DROP_IN} is complete, that"
            " sshd_config includes it, and that nothing before it says otherwise; then run this again."
        )
    if reason := barred(settings, name):
        raise NotDone(f"sshd does not let '{name}' in: {reason}.")


def parse(answer: str) -> Settings:
    """What `sshd -T` prints: the values of each setting, which may stand in several lines."""
    settings: dict[str, tuple[str, ...]] = {}
    for line in answer.splitlines():
        key, _, value = line.partition(" ")
        settings[key] = (*settings.get(key, ()), value)
    return settings


def differences(settings: Settings) -> Iterator[str]:
    """What is not as `WANTED` has it."""
    for key, value in WANTED.items():
        found = " ".join(settings.get(key, ("not set",)))
        if found != value:
            yield f"{key} is {found} and must be {value}"


def barred(settings: Settings, name: str) -> str:
    """Why sshd would not let the user in although he has proved who he is; "" when it would (sshd_config(5))."""
    for key, own in (("users", name), ("groups", GROUP)):
        if _names(settings.get(f"deny{key}", ()), own):
            return f"deny{key} has {own}"
        if settings.get(f"allow{key}") and not _names(settings[f"allow{key}"], own):
            return f"allow{key} does not have {own}"
    return ""


def _names(patterns: tuple[str, ...], own: str) -> bool:
    """Whether one of the patterns stands for the name; from where is left open."""
    return any(fnmatchcase(own, pattern.partition("@")[0]) for pattern in patterns)


def reload() -> str:
    """Let an sshd that runs read its configuration, and say what was done. Raises `NotDone`."""
    if not _SYSTEMD.is_dir():
        return "An sshd that runs already has to be told to read its configuration again."
    status, _, _ = ask(_SYSTEMCTL, "is-active", "--quiet", "ssh.service")
    if status:  # started for each connection (ssh.socket), or not at all: it reads its configuration when it starts
        return ""
    run(_SYSTEMCTL, "reload", "ssh.service")
    return "sshd has read its configuration again."
