# SPDX-License-Identifier: Apache-2.0
"""GnuPG and OpenSC take the simulated card for an OpenPGP card: that is how we know that it is no fiction."""

import hashlib
from pathlib import Path

import pytest

from appliance.simulator.families import new_token
from appliance.simulator.openpgp_card import OpenPgpCard
from appliance.simulator.openpgp_flash import ADMIN_PIN, FINGERPRINT, USER_PIN, OpenPgpFlash, Slot
from tests.support.signature import verifies
from tests.support.tokens import openpgp
from tests.support.vpcd import Desk, desk

SERIAL = "00667788"
DIGEST = hashlib.sha256(b"a backup").digest()
USER, ADMIN = USER_PIN.decode(), ADMIN_PIN.decode()


@pytest.fixture
def card(folder: Path) -> OpenPgpCard:
    """A card with its three keys, in no file."""
    path = folder / "a.token"
    new_token(path, SERIAL, 3)
    return OpenPgpCard(openpgp(path.read_bytes()), lambda flash: None)


@pytest.fixture
def blank() -> OpenPgpCard:
    """A card in factory state."""
    return OpenPgpCard(OpenPgpFlash.new(SERIAL), lambda flash: None)


def gpg(at: Desk, *arguments: str, typed: str = "") -> str:
    """What gpg printed; PINs are asked for in plain text, one line of `typed` each."""
    options = ("--no-tty", "--pinentry-mode", "loopback", "--command-fd", "0", "--status-fd", "1", "--expert")
    return at.run("gpg", *options, *arguments, typed=typed)


def status(at: Desk) -> dict[str, list[str]]:
    """What `gpg --card-status` says, by the names of its machine-readable output."""
    lines = [line.split(":") for line in gpg(at, "--with-colons", "--card-status").splitlines()]
    return {line[0]: line[1:] for line in lines}


def fingerprints(flash: OpenPgpFlash) -> list[str]:
    """The fingerprints that the card holds, as GnuPG writes them."""
    return [flash.objects[FINGERPRINT[slot]].hex().upper() for slot in Slot]


def test_gnupg_reads_the_card(card: OpenPgpCard, folder: Path) -> None:
    """`gpg --card-status` shows the serial number, the retry counters and the three keys."""
    with desk(card, folder) as at:
        shown = status(at)

    assert shown["serial"][0] == SERIAL
    assert shown["version"][0] == "0304"
    assert shown["pinretry"][:3] == ["3", "0", "3"]
    assert shown["fpr"][:3] == fingerprints(card.memory.flash)


def test_opensc_reads_the_card(card: OpenPgpCard, folder: Path) -> None:
    """OpenSC recognises the card by its AID, and shows serial number and fingerprints."""
    with desk(card, folder) as at:
        name = at.run("opensc-tool", "--name")
        shown = at.run("openpgp-tool", "--card-info", "--key-info")

    assert f"OpenPGP card v3.4 (FFFE {SERIAL})" in name
    assert f"Serial number:   {SERIAL}" in shown
    found = [line.split(":", 1)[1] for line in shown.splitlines() if "Fingerprint" in line]
    assert {text.replace(":", "").strip().upper() for text in found} == set(fingerprints(card.memory.flash))


@pytest.mark.parametrize(("slot", "number", "key_id"), [(Slot.SIGNATURE, "1", "01"), (Slot.AUTHENTICATION, "0", "03")])
def test_opensc_signs_with_the_card(card: OpenPgpCard, folder: Path, slot: Slot, number: str, key_id: str) -> None:
    """`pkcs11-tool` logs in and has a hash signed, and the signature is right."""
    data, signature = folder / "digest", folder / "signature"
    data.write_bytes(DIGEST)
    where = ("--slot", number, "--login", "--pin", USER, "--id", key_id)

    with desk(card, folder) as at:
        at.run("pkcs11-tool", *where, "--sign", "-m", "ECDSA", "-i", str(data), "-o", str(signature))

    assert verifies(card.memory.flash.keys[slot].public, signature.read_bytes(), DIGEST)


def test_opensc_refuses_a_wrong_pin(card: OpenPgpCard, folder: Path) -> None:
    """A wrong PIN is refused, and costs a try."""
    with desk(card, folder) as at:
        said = at.run("pkcs11-tool", "--slot", "0", "--login", "--pin", "654321", "-O", status=1)

        assert "C_Login failed" in said
        assert status(at)["pinretry"][:3] == ["2", "0", "3"]


def test_gnupg_generates_keys_on_the_card_and_uses_them(blank: OpenPgpCard, folder: Path) -> None:
    """GnuPG has the card make three keys, and signs and decrypts with them."""
    message, signed, sealed = (str(folder / name) for name in ("message", "signed", "sealed"))
    Path(message).write_text("what was backed up\n")
    wishes = ["admin", "generate", "n", ADMIN, USER, "0", "Somebody", "somebody@example.org", "", USER, "quit", ""]

    with desk(blank, folder) as at:
        gpg(at, "--card-edit", typed="\n".join(wishes))
        gpg(at, "--output", signed, "--sign", message, typed=f"{USER}\n")
        checked = gpg(at, "--verify", signed)
        gpg(at, "--output", sealed, "--trust-model", "always", "-r", "somebody@example.org", "--encrypt", message)
        opened = gpg(at, "--decrypt", sealed, typed=f"{USER}\n")
        shown = status(at)

    assert "[GNUPG:] GOODSIG" in checked
    assert "what was backed up\n" in opened
    assert shown["fpr"][:3] == fingerprints(blank.memory.flash)
    assert [key.source for key in blank.memory.flash.keys.values()] == [1, 1, 1]


def test_gnupg_moves_a_key_to_the_card(blank: OpenPgpCard, folder: Path) -> None:
    """A key that GnuPG made itself is imported, and the card signs with it."""
    message, signed = str(folder / "message"), str(folder / "signed")
    Path(message).write_text("what was backed up\n")

    with desk(blank, folder) as at:
        gpg(at, "--batch", "--passphrase", "", "--quick-generate-key", "somebody@example.org", "nistp256", "sign")
        gpg(at, "--edit-key", "somebody@example.org", typed=f"keytocard\ny\n1\n{ADMIN}\nsave\n")
        gpg(at, "--output", signed, "--sign", message, typed=f"{USER}\n")

        assert "[GNUPG:] GOODSIG" in gpg(at, "--verify", signed)
    assert [(slot, key.source) for slot, key in blank.memory.flash.keys.items()] == [(Slot.SIGNATURE, 2)]
    assert blank.memory.flash.signatures == 1


def test_gnupg_resets_the_card(card: OpenPgpCard, folder: Path) -> None:
    """After GnuPG's own factory-reset the card is blank, and says so."""
    with desk(card, folder) as at:
        gpg(at, "--card-edit", typed="admin\nfactory-reset\ny\nyes\nquit\n")
        shown = status(at)

    assert shown["serial"][0] == SERIAL
    assert shown["pinretry"][:3] == ["3", "0", "3"]
    assert shown["fpr"][:3] == ["", "", ""]
    assert not card.memory.flash.keys


def test_opensc_resets_the_card(card: OpenPgpCard, folder: Path) -> None:
    """After OpenSC's erasing the card is blank, and GnuPG says so."""
    with desk(card, folder) as at:
        at.run("openpgp-tool", "--erase")
        shown = status(at)

    assert shown["fpr"][:3] == ["", "", ""]
    assert not card.memory.flash.keys


def test_gnupg_finishes_a_reset_that_was_interrupted(card: OpenPgpCard, folder: Path) -> None:
    """A card that lost its power between TERMINATE DF and ACTIVATE FILE is activated as GnuPG's manual has it."""
    card.memory.change(card.memory.flash.wiped())
    commands = (
        "scd reset",
        "scd serialno undefined",
        "scd apdu 00A4040006D27600012401",
        "scd apdu 00440000",
        "scd reset",
        "/bye",
    )

    with desk(card, folder) as at:
        said = at.run("gpg-connect-agent", "--hex", typed="\n".join(commands))
        shown = status(at)

    assert [line.split()[1:3] for line in said.splitlines() if line.startswith("D[")] == [["62", "85"], ["90", "00"]]
    assert shown["serial"][0] == SERIAL
    assert shown["fpr"][:3] == ["", "", ""]
