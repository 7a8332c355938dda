# SPDX-License-Identifier: Apache-2.0
"""OpenSC backs the keys of a simulated SmartCard-HSM up, until our driver has reset it."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.hsm.drivers.smartcard_hsm import SmartcardHsmDriver
from appliance.hsm.model import HsmState, Secret
from appliance.hsm.usb import UsbBus
from appliance.simulator.families import SMARTCARD_HSM
from appliance.simulator.smartcard_hsm_flash import SmartcardHsmFlash
from tests.support.signature import verifies, verifies_rsa
from tests.support.token_bus import TokenBus
from tests.support.vpcd import Desk, card_of, desk, short_folder

SERIAL = "DENK0403514"
SO_PIN, PIN = "3537363231383830", "648219"
INITIALIZE = ("sc-hsm-tool", "--initialize", "--so-pin", SO_PIN, "--pin", PIN)
LOGIN = ("pkcs11-tool", "--login", "--pin", PIN)
DERIVATION = 300.0  # seconds at most for ten million rounds of MD5, three times


@dataclass(frozen=True, slots=True)
class Prepared:
    """A token that OpenSC has given a DKEK, and what its tool said of that."""

    token: bytes
    awaiting: str
    importing: str
    status: str


@pytest.fixture(scope="module")
def prepared() -> Iterator[Prepared]:
    """Such a token. A share is made and imported once for all tests, because that is slow."""
    with short_folder() as folder:
        bus, share = TokenBus(folder, SERIAL, 0, SMARTCARD_HSM), str(folder / "share.pbe")
        password = ("--password", "correct-horse-battery")
        with desk(card_of(bus), folder) as at:
            at.run(*INITIALIZE, "--dkek-shares", "1")
            awaiting = at.run("sc-hsm-tool")
            at.run("sc-hsm-tool", "--create-dkek-share", share, *password, bound=DERIVATION)
            importing = at.run("sc-hsm-tool", "--import-dkek-share", share, *password, bound=DERIVATION)
            status = at.run("sc-hsm-tool")
        yield Prepared(bus.path.read_bytes(), awaiting, importing, status)


@pytest.fixture
def bus(tmp_path: Path, prepared: Prepared) -> TokenBus:
    """That token, that can be plugged in where our driver is."""
    bus = TokenBus(tmp_path, SERIAL, 0, SMARTCARD_HSM)
    bus.path.write_bytes(prepared.token)
    return bus


def wrap(at: Desk, file: Path) -> str:
    """What the tool says when it takes the key of number 1 away, wrapped, into a file."""
    return at.run("sc-hsm-tool", "--wrap-key", str(file), "--key-reference", "1", "--pin", PIN)


def unwrap(at: Desk, file: Path, place: int) -> str:
    """What the tool says when it brings a key back."""
    return at.run("sc-hsm-tool", "--unwrap-key", str(file), "--key-reference", str(place), "--pin", PIN, status=None)


def generate(at: Desk, kind: str = "EC:prime256v1") -> None:
    """Have the card make a key, which gets number 1."""
    at.run(*LOGIN, "--keypairgen", "--key-type", kind, "--id", "10", "--label", "mine")


def signed(at: Desk, folder: Path, mechanism: str) -> bytes:
    """What the card signs."""
    data, signature = folder / "data", folder / "signature"
    data.write_bytes(b"a backup")
    at.run(*LOGIN, "--sign", "-m", mechanism, "--id", "10", "-i", str(data), "-o", str(signature))
    return signature.read_bytes()


def verifies_ec(public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether it signs the data's SHA-256 hash."""
    return verifies(public, signature, hashlib.sha256(data).digest())


def reset(bus: TokenBus) -> None:
    """Our driver's."""
    with SmartcardHsmDriver(UsbBus(bus.backend)).open(bus.plug()) as connection:
        connection.factory_reset(lambda _: None, Secret(SO_PIN))
    bus.unplug()


def test_opensc_imports_a_share(prepared: Prepared, bus: TokenBus) -> None:
    """Until then it says that one is missing, and then the same key check value as our driver."""
    flash = bus.flash
    assert isinstance(flash, SmartcardHsmFlash)
    assert flash.dkek is not None
    check = flash.dkek.check.hex().upper()
    with SmartcardHsmDriver(UsbBus(bus.backend)).open(bus.plug()) as connection:
        probe = connection.probe()

    assert "DKEK import pending, 1 share(s) still missing" in prepared.awaiting
    assert "DKEK share imported" in prepared.importing
    assert "DKEK shares          : 1" in prepared.status
    assert f"DKEK key check value : {check}" in prepared.status
    assert (probe.state, dict(probe.details)["DKEK"]) == (HsmState.INITIALIZED, f"1 share, key check value {check}")


@pytest.mark.parametrize(
    ("kind", "mechanism", "verify"),
    [("EC:prime256v1", "ECDSA-SHA256", verifies_ec), ("rsa:2048", "SHA256-RSA-PKCS", verifies_rsa)],
)
def test_opensc_backs_a_key_up(
    bus: TokenBus, folder: Path, kind: str, mechanism: str, verify: Callable[[bytes, bytes, bytes], bool]
) -> None:
    """It takes it away wrapped, deletes it, brings it back to another place, and has the same key sign."""
    file = folder / "wrapped"
    card = card_of(bus)
    with desk(card, folder) as at:
        generate(at, kind)
        public = card.memory.flash.keys[1].public
        wrap(at, file)
        at.run(*LOGIN, "--delete-object", "--type", "privkey", "--id", "10")
        assert card.memory.flash.keys == {}

        assert "Key successfully imported" in unwrap(at, file, 2)
        signature = signed(at, folder, mechanism)
    assert card.memory.flash.keys[2].public == public
    assert verify(public, signature, b"a backup")


def test_nothing_is_brought_back_after_a_reset(bus: TokenBus, folder: Path) -> None:
    """OpenSC says that there is no DKEK; under another one the key does not open, either."""
    file = folder / "wrapped"
    with desk(card_of(bus), folder) as at:
        generate(at)
        wrap(at, file)

    reset(bus)

    card = card_of(bus)
    with desk(card, folder) as at:
        assert "DKEK" not in at.run("sc-hsm-tool")
        assert "Card not initialized for key wrap" in unwrap(at, file, 1)
        at.run(*INITIALIZE, "--dkek-shares", "0")
        assert "DKEK shares          : 0" in at.run("sc-hsm-tool")
        assert "Wrapped key does not match DKEK" in unwrap(at, file, 1)
    assert card.memory.flash.keys == {}
