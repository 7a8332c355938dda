# SPDX-License-Identifier: Apache-2.0
"""What comes from the library's process is not believed: whatever it is, it is an answer or an error of ours."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.errors import DeviceError, ProtocolError
from appliance.hsm.pkcs11 import client
from appliance.hsm.pkcs11.client import Library, Token, loaded

# Answers each request with the next of the lines, each in a file of its own, on the socket that is its last argument.
IMPOSTOR = """#!{python}
import pathlib, socket, sys
line = socket.socket(fileno=int(sys.argv[-1]))
for request, answer in zip(line.makefile("rb"), sorted(pathlib.Path({folder!r}).iterdir())):
    line.sendall(answer.read_bytes())
"""
FINE = b'{"result": null}\n'
TOKEN = {
    "slot": 3,
    "slot_flags": 0,
    "slot_description": "Slot",
    "label": "",
    "model": "",
    "serial": "7",
    "flags": 0,
    "firmware": "1.0",
    "shortest_pin": 4,
}

Impostor = Callable[..., Path]


@pytest.fixture
def impostor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Impostor:
    """Takes the place of the library's process, with these answers."""

    def take_place(*answers: bytes) -> Path:
        folder, program = tmp_path / "answers", tmp_path / "impostor"
        folder.mkdir()
        for number, answer in enumerate(answers):
            (folder / str(number)).write_bytes(answer)
        program.write_text(IMPOSTOR.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        return Path("/any.so")

    return take_place


def test_a_token_is_what_is_answered(impostor: Impostor) -> None:
    """All fields, and no other, in one line or in pieces."""
    answer = json.dumps({"result": [TOKEN]}).encode() + b"\n"
    with loaded(impostor(FINE, answer)) as library:
        assert library.tokens() == (Token.parse(TOKEN),)


@pytest.mark.parametrize(
    "answer",
    [
        b"\n",
        b"\xff\n",
        b"null\n",
        b'{"result"}\n',
        b'{"failed": 7, "value": 7}\n',
        b'{"failed": "C_Initialize", "value": "7"}\n',
        b"[" * 100_000 + b"\n",
        b"9" * 10_000 + b"\n",
        b"x" * (client.LONGEST_ANSWER + 1),
    ],
)
def test_nonsense_is_named(impostor: Impostor, answer: bytes) -> None:
    """An answer that is none of ours, or has no end, is an error of the protocol."""
    with pytest.raises(ProtocolError, match="answered nonsense"), loaded(impostor(answer)):
        pass


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (Library.tokens, None),
        (Library.tokens, [None]),
        (Library.tokens, [{}]),
        (Library.tokens, [TOKEN | {"slot": "3"}]),
        (Library.tokens, [TOKEN | {"serial": 7}]),
        (Library.tokens, [TOKEN | {"more": 7}]),
        (lambda library: library.insertions(3), "1"),
        (lambda library: library.firmware(3), 1),
        (lambda library: library.objects(3), None),
    ],
)
def test_a_result_of_another_kind_is_named(
    impostor: Impostor, call: Callable[[Library], object], result: object
) -> None:
    """A value that is not what was asked for is not passed on."""
    path = impostor(FINE, json.dumps({"result": result}).encode() + b"\n")
    with loaded(path) as library, pytest.raises(ProtocolError, match="answered nonsense"):
        call(library)


def test_a_process_that_ends_is_named(impostor: Impostor) -> None:
    """One that ends without an answer has crashed, whatever it says of it."""
    with pytest.raises(ProtocolError, match=r"the library crashed \(load\)"), loaded(impostor()):
        pass


def test_a_process_that_cannot_be_started_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an interpreter there is an error of ours, not of the system's."""
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with pytest.raises(DeviceError, match="cannot be started: No such file or directory"), loaded(Path("/any.so")):
        pass
