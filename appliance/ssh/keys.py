# SPDX-License-Identifier: Apache-2.0
"""A file of public keys holds one key a line and nothing else, or it is refused as a whole with the line's number.

The form is that of authorized_keys (sshd(8)) without its options: none is needed, and some of them run programs or set
variables.
"""

import base64
import binascii
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.programs import NotDone

LARGEST_FILE: Final = 1 << 20  # bytes

# The kinds of key that sshd takes, and of how many fields the encoding of each consists, the name included: RFC 4253,
# 6.6; RFC 5656, 3.1; RFC 8709, 4; OpenSSH's PROTOCOL.u2f.
_FIELDS: Final = {
    "ssh-ed25519": 2,
    "sk-ssh-ed25519@openssh.com": 3,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
    "ssh-rsa": 3,
}
_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key."""

    kind: str
    encoded: str  # Base64
    comment: str

    @property
    def line(self) -> str:
        """As it stands in authorized_keys."""
        return f"{self.kind} {self.encoded} {self.comment}".rstrip()


def read(path: Path) -> list[PublicKey]:
    """The keys in the file `path`, or on standard input when it is ``-``. Raises `NotDone`."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(LARGEST_FILE + 1)
        else:
            with path.open("rb") as file:
                data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise NotDone(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(data) > LARGEST_FILE:
        raise NotDone(f"{path} is larger than {LARGEST_FILE} bytes: this is no file of public keys.")
    return parse(data, "standard input" if str(path) == "-" else str(path))


def parse(data: bytes, name: str) -> list[PublicKey]:
    """The keys in the text `data`, at least one; `name` says to people where it is from. Raises `NotDone`."""
    keys = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            keys.append(_key(text))
        except ValueError as error:
            raise NotDone(f"{name}, line {number}: {error}.") from error
    if not keys:
        raise NotDone(f"{name}: there is no public key in it.")
    return keys


def _key(text: str) -> PublicKey:
    """The key in a line. Raises `ValueError` with the reason, which repeats nothing of the line."""
    if "PRIVATE KEY" in text:
        raise ValueError("this is a private key; give the file that ends in .pub, and keep this one to yourself")
    kind, _, rest = text.partition(" ")
    if kind not in _FIELDS:
        if any(word in _FIELDS for word in text.split()):
            raise ValueError("options before a key are not taken")
        raise ValueError(f"this is no public key of a kind that is taken: {', '.join(_FIELDS)}")
    encoded, _, comment = rest.strip().partition(" ")
    if not comment.isprintable() or "\ufffd" in comment:
        raise ValueError("the comment after the key is not printable UTF-8")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: not ASCII
        raise ValueError("the key is not Base64; is it broken into two lines?") from error
    fields = _fields(blob)
    if len(fields) != _FIELDS[kind] or fields[0] != kind.encode():
        raise ValueError(f"the key is damaged, or not of the kind {kind}")
    return PublicKey(kind, encoded, comment.strip())


def _fields(blob: bytes) -> list[bytes]:
    """The fields of an encoded key, each with its length before it (RFC 4251, 5); none when they do not add up."""
    fields, at = [], 0
    while at < len(blob):
        if at + _LENGTH.size > len(blob):
            return []
        [length] = _LENGTH.unpack_from(blob, at)
        at += _LENGTH.size + length
        fields.append(blob[at - length : at])
    return fields if at == len(blob) and all(fields) else []
