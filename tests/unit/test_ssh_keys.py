# SPDX-License-Identifier: Apache-2.0
"""Public keys: what is one, what is none and why, and that nothing of a wrong line is repeated."""

import base64
import io
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.programs import NotDone
from appliance.ssh import keys
from appliance.ssh.keys import parse, read


def encoded(*fields: bytes) -> str:
    """Fields in the encoding of a key (RFC 4251, 5)."""
    return base64.b64encode(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).decode()


BODY = encoded(b"ssh-ed25519", bytes(32))
KEY = f"ssh-ed25519 {BODY}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (KEY, [KEY]),
        (f"{KEY} somebody@somewhere, his key\n", [f"{KEY} somebody@somewhere, his key"]),
        (f"\n# a comment\n  {KEY}  é \r\n", [f"{KEY} é"]),
        (f"{KEY} one\n{KEY} two\n", [f"{KEY} one", f"{KEY} two"]),
        (f"ssh-ed25519   {BODY}", [KEY]),
    ],
)
def test_keys_are_read(text: str, expected: list[str]) -> None:
    """One a line, with or without a comment; blank lines and remarks are none."""
    assert [key.line for key in parse(text.encode(), "file")] == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f'command="/bin/sh" {KEY}', "options before a key are not taken"),
        (f'environment="A=b" {KEY}', "options before a key are not taken"),
        (f"cert-authority {KEY}", "options before a key are not taken"),
        (f"from=10.0.0.1 {KEY}", "options before a key are not taken"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "this is a private key"),
        ("ssh-ed25519", "damaged"),
        (f"ssh-ed25519 {BODY[:-4]}", "damaged"),
        (f"ssh-ed25519 {encoded(b'ssh-ed25519', bytes(32), b'more')}", "damaged"),
        (f"ssh-ed25519 {encoded(b'ssh-ed25519', b'')}", "damaged"),
        (f"ssh-ed25519 {encoded(b'ssh-rsa', b'e', b'n')}", "damaged"),
        (f"ssh-rsa {BODY}", "damaged"),
        (f"ssh-ed25519 {BODY[:20]}", "damaged"),
        ("ssh-ed25519 AAAA!", "not Base64"),
        ("ssh-ed25519 ÄÄÄÄ", "not Base64"),
        (f"ssh-dss {BODY}", "no public key of a kind that is taken"),
        (f"ssh-ed25519-cert-v01@openssh.com {BODY}", "no public key of a kind that is taken"),
        (BODY, "no public key of a kind that is taken"),
        ("secret words", "no public key of a kind that is taken"),
        (f"{KEY} a\x1b[2Jb", "comment"),
        (f"{KEY} a\tb", "comment"),
    ],
)
def test_what_is_no_key_is_refused(line: str, reason: str) -> None:
    """The line is named, and the whole file is refused."""
    with pytest.raises(NotDone, match=reason) as refused:
        parse(f"{KEY}\n{line}\n".encode(), "file")

    assert str(refused.value).startswith("file, line 2: ")
    assert "secret" not in str(refused.value)


def test_a_comment_that_is_no_text_is_refused() -> None:
    """A terminal that shows the file shows what it means."""
    with pytest.raises(NotDone, match="comment"):
        parse(KEY.encode() + b" \xff", "file")


@pytest.mark.parametrize("text", ["", "\n", "# ssh-ed25519\n"])
def test_no_key_at_all_is_an_error(text: str) -> None:
    """Somebody meant to give one."""
    with pytest.raises(NotDone, match="no public key in it"):
        parse(text.encode(), "file")


@given(st.binary(max_size=200))
def test_random_bytes_are_keys_or_refused(data: bytes) -> None:
    """No other error comes of them, whatever they are encoded as."""
    for text in (data, b"ssh-ed25519 " + data, b"ssh-ed25519 " + base64.b64encode(data)):
        with suppress(NotDone):
            assert all(key.line.startswith(key.kind) for key in parse(text, "file"))


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa -b 256", "ecdsa -b 384", "ecdsa -b 521", "rsa -b 2048"])
def test_real_keys_are_taken(tmp_path: Path, kind: str) -> None:
    """What ssh-keygen makes is read; its private half is refused."""
    path = tmp_path / "key"
    command = ["ssh-keygen", "-q", "-N", "", "-C", "a key", "-f", str(path), "-t", *kind.split()]
    subprocess.run(command, check=True)  # noqa: S603  # a fixed command

    assert [key.line for key in read(tmp_path / "key.pub")] == (tmp_path / "key.pub").read_text().splitlines()
    with pytest.raises(NotDone, match="private key"):
        read(path)


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named so in errors."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{KEY}\nx\n".encode())))

    with pytest.raises(NotDone, match="standard input, line 2"):
        read(Path("-"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """With the reason."""
    with pytest.raises(NotDone, match="absent cannot be read: No such file"):
        read(tmp_path / "absent")


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    """Nobody has so many keys."""
    path = tmp_path / "huge"
    path.write_bytes(b"#" * (keys.LARGEST_FILE + 1))

    with pytest.raises(NotDone, match="larger than"):
        read(path)
