# SPDX-License-Identifier: Apache-2.0
"""OpenSC takes the simulated card for a SmartCard-HSM, and for a blank one once our driver has reset it."""

import hashlib
from pathlib import Path

import pytest

from appliance.hsm.drivers.smartcard_hsm import SmartcardHsmDriver
from appliance.hsm.model import HsmState, Probe, Secret
from appliance.hsm.usb import UsbBus
from appliance.simulator.families import SMARTCARD_HSM
from tests.support.signature import verifies, verifies_rsa
from tests.support.token_bus import TokenBus
from tests.support.vpcd import Desk, card_of, desk

SERIAL = "DENK0403514"
SO_PIN, WRONG_SO_PIN, PIN = "3537363231383830", "3537363231383831", "648219"
DIGEST = hashlib.sha256(b"a backup").digest()


@pytest.fixture
def bus(tmp_path: Path) -> TokenBus:
    """A token with two keys, that can be plugged in where our driver is."""
    return TokenBus(tmp_path, SERIAL, 2, SMARTCARD_HSM)


def keys(at: Desk, pin: str = PIN) -> list[str]:
    """The names of the private keys that `pkcs11-tool` lists."""
    shown = at.run("pkcs11-tool", "--login", "--pin", pin, "--list-objects", "--type", "privkey")
    return [line.split(":", 1)[1].strip() for line in shown.splitlines() if "label:" in line]


def signature(at: Desk, folder: Path, key_id: str, *, status: int | None = 0) -> bytes:
    """What `pkcs11-tool` has the card sign; empty when it does not."""
    data, signed = folder / "digest", folder / "signature"
    data.write_bytes(DIGEST)
    signed.unlink(missing_ok=True)
    where = ("--login", "--pin", PIN, "--id", key_id, "-i", str(data), "-o", str(signed))
    at.run("pkcs11-tool", *where, "--sign", "-m", "ECDSA", status=status)
    return signed.read_bytes() if signed.exists() else b""


def probe(bus: TokenBus) -> Probe:
    """What our driver finds."""
    with SmartcardHsmDriver(UsbBus(bus.backend)).open(bus.plug()) as connection:
        return connection.probe()


def test_opensc_reads_the_card(bus: TokenBus, folder: Path) -> None:
    """It knows the card by its ATR and AID, its version, its serial number and its counters."""
    with desk(card_of(bus), folder) as at:
        name = at.run("opensc-tool", "--name")
        status = at.run("sc-hsm-tool")
        shown = at.run("pkcs15-tool", "--dump")

    assert "SmartCard-HSM" in name
    assert "version 3.5" in name
    assert "SO-PIN tries left    : 15" in status
    assert "User PIN tries left  : 3" in status
    assert f"Serial number  : {SERIAL}" in shown
    assert shown.count("Private EC Key [key ") == 2


def test_opensc_signs_with_a_key_until_it_is_reset(bus: TokenBus, folder: Path) -> None:
    """After our driver's reset the card has neither the key nor its description, and no PIN but the factory's."""
    public = bus.flash.keys[1].public
    with desk(card_of(bus), folder) as at:
        assert keys(at) == ["key 1", "key 2"]
        assert verifies(public, signature(at, folder, "01"), DIGEST)

    with SmartcardHsmDriver(UsbBus(bus.backend)).open(bus.plug()) as connection:
        connection.factory_reset(lambda _: None, Secret(SO_PIN))
    bus.unplug()

    with desk(card_of(bus), folder) as at:
        assert keys(at) == []
        assert signature(at, folder, "01", status=None) == b""
        assert f"Serial number  : {SERIAL}" in at.run("pkcs15-tool", "--dump")


def test_opensc_generates_a_key_and_uses_it(bus: TokenBus, folder: Path) -> None:
    """The card makes it, and our driver counts it."""
    before = dict(probe(bus).details)
    bus.unplug()
    card = card_of(bus)
    made = ("--keypairgen", "--key-type", "EC:prime256v1", "--id", "10", "--label", "mine")
    with desk(card, folder) as at:
        at.run("pkcs11-tool", "--login", "--pin", PIN, *made)
        assert "mine" in keys(at)
        assert verifies(card.memory.flash.keys[3].public, signature(at, folder, "10"), DIGEST)

    assert (before["Keys"], dict(probe(bus).details)["Keys"]) == ("2", "3")


def test_opensc_generates_an_rsa_key_and_signs_until_it_is_reset(bus: TokenBus, folder: Path) -> None:
    """The card makes it and signs with it what OpenSC has hashed and padded; nobody does after our driver's reset."""
    data, signed = folder / "data", folder / "signed"
    data.write_bytes(b"a backup")
    sign = ("--sign", "-m", "SHA256-RSA-PKCS", "--id", "10", "-i", str(data), "-o", str(signed))
    login = ("pkcs11-tool", "--login", "--pin", PIN)
    card = card_of(bus)
    with desk(card, folder) as at:
        at.run(*login, "--keypairgen", "--key-type", "rsa:2048", "--id", "10", "--label", "mine")
        listed = at.run(*login, "--list-objects")
        at.run(*login, *sign)

    assert "Private Key Object; RSA" in listed
    assert "Public Key Object; RSA 2048 bits" in listed
    assert verifies_rsa(card.memory.flash.keys[3].public, signed.read_bytes(), b"a backup")
    signed.unlink()
    with SmartcardHsmDriver(UsbBus(bus.backend)).open(bus.plug()) as connection:
        connection.factory_reset(lambda _: None, Secret(SO_PIN))
    bus.unplug()
    with desk(card_of(bus), folder) as at:
        at.run(*login, *sign, status=1)
        assert keys(at) == []
    assert not signed.exists()


def test_opensc_refuses_a_wrong_pin(bus: TokenBus, folder: Path) -> None:
    """It costs a try, which OpenSC shows, and our driver too."""
    with desk(card_of(bus), folder) as at:
        said = at.run("pkcs11-tool", "--login", "--pin", "654321", "-O", status=1)

        assert "C_Login failed" in said
        assert "User PIN tries left  : 2" in at.run("sc-hsm-tool")
    assert dict(probe(bus).details)["PIN tries left"] == "user 2, SO 15"


def test_opensc_initializes_the_card(bus: TokenBus, folder: Path) -> None:
    """With the SO PIN, and with no other: that costs a try, is said to be a wrong PIN, and leaves the keys there."""
    with desk(card_of(bus), folder) as at:
        refused = at.run("sc-hsm-tool", "--initialize", "--so-pin", WRONG_SO_PIN, "--pin", PIN)
        assert "PIN code or key incorrect" in refused
        assert "SO-PIN tries left    : 14" in at.run("sc-hsm-tool")
        assert keys(at) == ["key 1", "key 2"]

        at.run("sc-hsm-tool", "--initialize", "--so-pin", SO_PIN, "--pin", PIN, "--label", "Backup 1")
        assert "SO-PIN tries left    : 15" in at.run("sc-hsm-tool")
        assert keys(at) == []
        assert "Backup 1" in at.run("pkcs11-tool", "--list-slots")
    found = probe(bus)
    assert (found.state, found.label) == (HsmState.ZEROIZED, "Backup 1")
