# SPDX-License-Identifier: Apache-2.0
"""The library of simulated tokens answers every call with a code of PKCS#11, whatever it is called with."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.simulator.pkcs11_card import ERROR, Code, Pkcs11Card
from appliance.simulator.vendor_library import compiler
from tests.support.checkout import ROOT
from tests.support.families import PKCS11

pytestmark = pytest.mark.skipif(compiler() is None, reason="not installed: cc")

BOUND = 30.0  # seconds
OK, ARGUMENTS_BAD, DEVICE_ERROR, SESSION_HANDLE_INVALID = 0, 0x07, 0x30, 0xB3
USER = 1  # CKU_
ECDSA = 0x1041  # CKM_
MANY = 1 << 59  # attributes; more than there is memory

Call = list[str | int | None]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With a token in its first slot."""
    bus = PKCS11.bus(tmp_path_factory.mktemp("bus"), 1)
    bus.plug()
    with PKCS11.served(bus.backend) as path:
        yield path


def codes(library: Path, *calls: Call) -> list[int]:
    """What the calls return in a process of their own, up to the one in which it crashes."""
    command = [sys.executable, "-m", "tests.support.library_calls", str(library), json.dumps(calls)]
    made = subprocess.run(  # noqa: S603  # this interpreter, with calls of ours
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=BOUND, check=False
    )
    return [int(line) for line in made.stdout.splitlines()]


@pytest.mark.parametrize(
    "call",
    [
        ["C_GetFunctionList", None],
        ["C_GetInfo", None],
        ["C_GetSlotList", 1, None, None],
        ["C_GetSlotInfo", 0, None],
        ["C_GetTokenInfo", 0, None],
        ["C_GetMechanismList", 0, None, None],
        ["C_GetMechanismList", 0, "room", None],
        ["C_GetMechanismInfo", 0, ECDSA, None],
        ["C_OpenSession", 0, 4, None, None, None],
        ["C_GetSessionInfo", "session", None],
        ["C_Login", "session", USER, None, 6],
        ["C_InitPIN", "session", None, 6],
        ["C_GetAttributeValue", "session", 1, None, 1],
        ["C_FindObjectsInit", "session", None, 1],
        ["C_FindObjectsInit", "session", "nowhere", 1],
        ["C_SignInit", "session", None, 1],
        ["C_GenerateKeyPair", "session", None, None, 0, None, 0, "room", "room"],
        ["C_GenerateKeyPair", "session", "EC_KEY_PAIR_GEN", None, 1, None, 0, "room", "room"],
        ["C_GenerateKeyPair", "session", "EC_KEY_PAIR_GEN", None, 0, None, 1, "room", "room"],
        ["C_GenerateKeyPair", "session", "EC_KEY_PAIR_GEN", None, 0, None, 0, None, "room"],
        ["C_GenerateKeyPair", "session", "EC_KEY_PAIR_GEN", None, 0, None, 0, "room", None],
        ["CA_GetTokenInsertionCount", 0, None],
        ["CA_GetFirmwareVersion", 0, "room", "room", None],
    ],
    ids=json.dumps,
)
def test_a_pointer_to_nothing_is_refused(library: Path, call: Call) -> None:
    """Where something is to be read or written; the next call is answered."""
    assert codes(library, call, ["C_GetSlotInfo", 0, "room"]) == [ARGUMENTS_BAD, OK]


@pytest.mark.parametrize(
    "call", [["C_InitToken", 0, None, 8, "room"], ["C_InitToken", 0, "room", 8, None]], ids=["PIN", "label"]
)
def test_no_token_is_initialised_with_a_pointer_to_nothing(library: Path, call: Call) -> None:
    """Neither for its PIN nor for its label."""
    assert codes(library, ["C_CloseAllSessions", 0], call) == [OK, ARGUMENTS_BAD]


def test_nothing_is_found_or_signed_at_a_pointer_to_nothing(library: Path) -> None:
    """When the search, or the signature, has been begun."""
    search: list[Call] = [["C_FindObjectsInit", "session", None, 0], ["C_FindObjects", "session", None, 1, "room"]]
    assert codes(library, *search, ["C_FindObjects", "session", "room", 1, None]) == [OK, *[ARGUMENTS_BAD] * 2]

    begun: Call = ["C_SignInit", "session", "ECDSA", 1]
    assert codes(library, begun, ["C_Sign", "session", "room", 32, "room", None]) == [OK, ARGUMENTS_BAD]
    assert codes(library, begun, ["C_Sign", "session", None, 32, "room", "length"]) == [OK, ARGUMENTS_BAD]


@pytest.mark.parametrize(
    "call",
    [
        ["C_FindObjectsInit", "session", "attributes", MANY],
        ["C_GenerateKeyPair", "session", "EC_KEY_PAIR_GEN", "attributes", MANY, "attributes", MANY, "room", "room"],
    ],
    ids=["search", "key pair"],
)
def test_a_template_is_not_read_beyond_what_a_message_takes(library: Path, call: Call) -> None:
    """However many attributes are said to be in it."""
    assert codes(library, call) == [ARGUMENTS_BAD]


def test_an_error_without_a_code_is_an_error(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that fails and says that nothing is wrong is broken."""
    transmit = Pkcs11Card.transmit

    def broken(card: Pkcs11Card, message: bytes) -> bytes:
        return bytes([ERROR, 0, 4, 0, 0, 0, 0]) if message[0] == Code.FIND_OBJECTS else transmit(card, message)

    monkeypatch.setattr(Pkcs11Card, "transmit", broken)
    assert codes(library, ["C_FindObjectsInit", "session", None, 0]) == [DEVICE_ERROR]


def test_sessions_end_with_the_library(library: Path) -> None:
    """When it is finalised, nothing of them is told any more, nor after it was initialised anew."""
    told: Call = ["C_GetSessionInfo", "session", "room"]
    calls: list[Call] = [told, ["C_Finalize", None], told, ["C_Initialize", None], told]

    assert codes(library, *calls) == [OK, OK, SESSION_HANDLE_INVALID, OK, SESSION_HANDLE_INVALID]
