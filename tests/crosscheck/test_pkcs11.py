# SPDX-License-Identifier: Apache-2.0
"""Other people's programs look at a token before and after our reset of it through its PKCS#11 module."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.hsm.model import HsmState
from appliance.simulator.families import SMARTCARD_HSM
from tests.support.checkout import ROOT
from tests.support.module_reset import reset
from tests.support.token_bus import TokenBus
from tests.support.vendor_module import SO_PIN, SOFTHSM, USER_PIN, needs_softhsm, softhsm, tool
from tests.support.vpcd import Desk, card_of, desk

OPENSC = Path("/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so")
SERIAL, CARD_SO_PIN, CARD_PIN = "DENK0403514", "3537363231383830", "648219"
WRONG = "0123456789ABCDEF"
REFUSED = "SecretRefused: the SO PIN is wrong (A00000 : CKR_PIN_INCORRECT)"


def slots() -> dict[str, str]:
    """What `softhsm2-util` shows of the initialised token."""
    result = subprocess.run(["softhsm2-util", "--show-slots"], capture_output=True, text=True, check=True)  # noqa: S607  # found by name
    first = result.stdout.split("\nSlot ")[1]
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


def signed(folder: Path, pin: str) -> bool:
    """Whether `pkcs11-tool` can sign with a key of SoftHSM's token."""
    data, signature = folder / "data", folder / "signature"
    data.write_bytes(b"a backup")
    signature.unlink(missing_ok=True)
    tool("--login", "--pin", pin, "--sign", "-m", "SHA256-RSA-PKCS", "-i", str(data), "-o", str(signature))
    return signature.exists() and len(signature.read_bytes()) == 256


@needs_softhsm
@pytest.mark.parametrize("right", [True, False])
def test_softhsm_is_reset_for_its_own_programs(right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the SO PIN no key and no user PIN is left, also for a new user; with another one all is as it was."""
    softhsm(tmp_path, monkeypatch)
    tool("--login", "--pin", USER_PIN, "--keypairgen", "--key-type", "rsa:2048", "--label", "signer")
    before, usable = slots(), signed(tmp_path, USER_PIN)

    found, trouble, left = reset(SOFTHSM, before["Serial number"], SO_PIN if right else WRONG)

    after = slots()
    assert (found.state, left.state) == (HsmState.INITIALIZED, HsmState.ZEROIZED if right else HsmState.INITIALIZED)
    assert (usable, signed(tmp_path, USER_PIN)) == (True, not right)
    assert (before["User PIN init."], after["User PIN init."]) == ("yes", "no" if right else "yes")
    assert after["Serial number"] == before["Serial number"]
    assert trouble == ("" if right else REFUSED)
    if right:
        tool("--login", "--login-type", "so", "--so-pin", SO_PIN, "--init-pin", "--new-pin", USER_PIN)
    objects = tool("--login", "--pin", USER_PIN, "--list-objects")
    assert objects.count("Object;") == (0 if right else 3)
    assert "error" not in objects


def of_the_card(at: Desk, pin: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """What our driver says of the card in the reader, before and after a reset through OpenSC's module."""
    command = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.support.module_reset", str(OPENSC), SERIAL)
    before, trouble, after = map(json.loads, at.run(*command, typed=f"{pin}\n").splitlines())
    return before, trouble, after


@pytest.mark.skipif(not OPENSC.exists(), reason=f"not installed: {OPENSC}")
def test_opensc_resets_a_card_for_our_driver(tmp_path: Path, folder: Path) -> None:
    """A SmartCard-HSM behind its module: a wrong SO PIN costs one try, the right one leaves no object.

    The module sets a user PIN by itself, which is no obstacle right after the reset.
    """
    bus = TokenBus(tmp_path, SERIAL, 2, SMARTCARD_HSM)
    with desk(card_of(bus), folder) as at:
        _, refused, kept = of_the_card(at, WRONG)
        tries = at.run("sc-hsm-tool")
        before, trouble, after = of_the_card(at, CARD_SO_PIN)
        left = at.run("pkcs11-tool", "--list-objects")
        login = at.run("pkcs11-tool", "--login", "--pin", CARD_PIN, "--list-objects", status=1)

    assert (refused, kept["shortcomings"]) == (REFUSED, ["a user PIN is set", "there are objects"])
    assert "SO-PIN tries left    : 14" in tries
    assert (before["serial"], before["state"], trouble) == (SERIAL, "initialized", "")
    assert (after["state"], after["shortcomings"], after["label"]) == ("zeroized", [], "blank (UserPIN)")
    assert ["Public Objects", "0"] in after["details"]
    assert "Object; EC" not in left
    assert "CKR_PIN_INCORRECT" in login
    assert not bus.flash.keys
