# SPDX-License-Identifier: Apache-2.0
"""A program runs under the system call filter of a unit file, without systemd: python -m tests.support.confinement.

What systemd 252 makes a seccomp filter of is made one here: SystemCallFilter=, SystemCallErrorNumber=EPERM,
MemoryDenyWriteExecute= and RestrictAddressFamilies=. The rest of a unit needs the service manager.
"""

import ctypes
import os
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from errno import EPERM
from mmap import PROT_EXEC, PROT_WRITE
from pathlib import Path

ALLOW = 0x7FFF0000  # seccomp_init(3)
REFUSE = 0x00050000 | EPERM
EQUAL, MASKED_EQUAL = 4, 7  # enum scmp_compare
SHM_EXEC = 0o100000


class Comparison(ctypes.Structure):
    """``struct scmp_arg_cmp``: one condition on an argument of a system call."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


# Calls that are allowed with some arguments only: each comparison is one way to be allowed.
def conditions(families: Iterable[str]) -> dict[str, list[Comparison]]:
    """What MemoryDenyWriteExecute= and RestrictAddressFamilies= leave of the calls they restrict."""
    both = PROT_WRITE | PROT_EXEC
    return {
        "mmap": [Comparison(2, MASKED_EQUAL, both, left) for left in (0, PROT_WRITE, PROT_EXEC)],
        "mprotect": [Comparison(2, MASKED_EQUAL, PROT_EXEC, 0)],
        "pkey_mprotect": [Comparison(2, MASKED_EQUAL, PROT_EXEC, 0)],
        "shmat": [Comparison(2, MASKED_EQUAL, SHM_EXEC, 0)],
        "socket": [Comparison(0, EQUAL, getattr(socket, family), 0) for family in families],
    }


def settings(unit: Path) -> dict[str, list[str]]:
    """Every setting of a unit file with all its values; a line is one setting."""
    found = defaultdict(list)
    for line in unit.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") and "=" in line:
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def allowed(filters: Iterable[str]) -> set[str]:
    """The system calls that the values of SystemCallFilter= allow, taken in order; systemd.exec(5)."""
    names = members("@default")
    for value in filters:
        calls = {call for word in value.removeprefix("~").split() for call in members(word)}
        names = names - calls if value.startswith("~") else names | calls
    return names


def members(word: str) -> set[str]:
    """The system calls in a set, and in the sets in it; a call is its own only member."""
    if not word.startswith("@"):
        return {word}
    text = subprocess.run(  # noqa: S603  # systemd-analyze and the name of a set
        ["systemd-analyze", "syscall-filter", word],  # noqa: S607  # wherever the system has it
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    words = [line.strip() for line in text.splitlines()[1:]]
    return {call for inner in words if inner and not inner.startswith("#") for call in members(inner)}


def confine(unit: Path) -> None:
    """Put this process under the filter, for good and for every program it executes."""
    said = settings(unit)
    if said["MemoryDenyWriteExecute"] != ["yes"] or said["SystemCallErrorNumber"] != ["EPERM"]:
        raise ValueError(f"{unit}: this filter is made otherwise here")
    special = conditions(said["RestrictAddressFamilies"][0].split())
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(REFUSE)))
    for name in allowed(said["SystemCallFilter"]):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            continue  # not on this architecture
        for comparison in special.get(name, [None]):
            conditional = (1, ctypes.byref(comparison)) if comparison else (0, None)
            if library.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), number, *conditional):
                raise OSError(f"seccomp_rule_add_array: {name}")
    if library.seccomp_load(context):
        raise OSError("seccomp_load")


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  # the program that is to be confined
