# SPDX-License-Identifier: Apache-2.0
"""The journal gets an event with its fields, and with the number under which its catalog explains it.

One event is one datagram of systemd's native journal protocol. What an auditor or an administrator may look up with
`journalctl -x` has a number here and its entry in `systemd/appliance-console.catalog`.
"""

import socket
import struct
from collections.abc import Iterator, Mapping

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "appliance-console"  # SyslogIdentifier= of the unit
AUDIT_RECORD = "audit record"  # the event that tells of a record of the audit trail, whose own event is its `record`

# In the text of the event, where everybody finds them, or fields of the journal's own.
_SAID_OTHERWISE = frozenset({"event", "level", "time", "module"})

# By the event, if need be with its outcome, or with the part of the daemon that it tells of.
MESSAGE_IDS: Mapping[str, str] = {
    "start": "ea59d3e7a9a545f9ac48aa8c83816a11",
    "stop": "041158196c2e44e5b769f6994c3b9efe",
    "recovered": "fe869bcca8ba47378e54f7f4b3ef5a86",
    "login": "55e7ec97796d49a5a3415ce92c2e2674",
    "login-failed": "b0ec6e4bfdc34ddea4a0ffe87ba5dbfd",
    "logout": "22e07a917da14565b49104707b517194",
    "door-rejected": "e146b7566cee46adbeb321cdb7678932",
    "password": "0eabe40c81f042eba221784e0de074da",
    "command": "f0c238c53bc9492da339a5feb3de7103",
    "result": "0cca3d122d3044d4a47f85a3834e6a85",
    "result: refused": "ddab88864caf4183ac8c30fef406a159",
    "present": "70e4d3b9ab98483292caf3b0bee323e4",
    "plug": "0585a3ce7aa2412b98de2f47364b4f70",
    "unplug": "02ae5bcc00e24abd8ce0f20c65f00788",
    "reset-intent": "7cef25e45d8c46959bec5ac89f45b8c9",
    "reset-outcome: done": "105f5555b6dc4c1fa91ef62839b80c59",
    "reset-outcome: not done": "ecacc23545f84583af7167fda1385fac",
    "reset-outcome: unknown": "e315723b67d5483bb2b34d2ebcd5a879",
    "hsm-init-intent": "98f6e0b07a5e4b6d8c720eff6dad5244",
    "hsm-init": "a85599fb9bf14f19ac0339f5cb350161",
    "hsm-init: unknown": "4a3f43c943064954a701324cd750147d",
    "hsm-login": "6a4de083ee72445f827afbdf7a6ac132",
    "hsm-login: not done": "ad32a6ff2cde4ce691002319dffe1ab8",
    "hsm-logout": "1f5a5956d25643da9d5921ed296af99c",
    "part not available": "b7f0b112eb674afe9057c6c24cdcd3db",
    "part not available: accounts": "13bf697c4aee4cbd9b0e1936b612ba1a",
    "part not available: audit trail": "9e4b251ae50e4336a88aa8f8a94c5421",
    "audit record lost": "8bf4835b29e34943963cea5488d0a814",
    "outcome could not be recorded": "befc68de414f41a79f1af81cd0b8931e",
}


def send(message: str, priority: int, fields: Mapping[str, object]) -> bool:
    """Hand one event to the journal: its text, its syslog priority, its fields; whether the journal has it.

    Never blocks: a journal that takes nothing, or not that much at once, does not have it.
    """
    datagram = b"".join(_entry(message, priority, fields))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(datagram, SOCKET)
    except OSError:  # of which to have no descriptor left is one
        return False
    return True


def message_id(fields: Mapping[str, object]) -> str | None:
    """The number of an event in the catalog; None: it needs no explanation."""
    event = fields.get("record") if fields.get("event") == AUDIT_RECORD else fields.get("event")
    particular = fields.get("outcome", fields.get("part"))
    return MESSAGE_IDS.get(f"{event}: {particular}", MESSAGE_IDS.get(f"{event}"))


def _entry(message: str, priority: int, fields: Mapping[str, object]) -> Iterator[bytes]:
    yield _field("MESSAGE", message)
    yield _field("PRIORITY", str(priority))
    yield _field("SYSLOG_IDENTIFIER", IDENTIFIER)
    if number := message_id(fields):
        yield _field("MESSAGE_ID", number)
    for key, value in fields.items():
        if key not in _SAID_OTHERWISE:
            yield _field(f"HSM_{key.upper()}", str(value))


def _field(name: str, value: str) -> bytes:
    """One field; the catalog puts its value on somebody's terminal, so that nothing in it may be obeyed there."""
    safe = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in value)
    data = safe.encode()
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return f"{name}={safe}\n".encode()
