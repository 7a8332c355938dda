# SPDX-License-Identifier: Apache-2.0
"""OpenSC's and SoftHSM's own programs take the simulated devices for tokens, and for empty ones after our reset."""

import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from appliance.hsm.model import HsmState
from appliance.simulator.pkcs11_flash import SO_PIN_IN_USE, USER_PIN_IN_USE
from appliance.simulator.vendor_library import compiler
from tests.support.families import LUNA, PKCS11, LibraryKind
from tests.support.token_bus import TokenBus
from tests.support.vendor_module import needs_softhsm

HASH = hashlib.sha256(b"a backup").digest()
USER = ("--login", "--pin", USER_PIN_IN_USE)
OFFICER = ("--login", "--login-type", "so", "--so-pin")
P256 = ("--key-type", "EC:prime256v1", "--label", "mine", "--id", "77")

pytestmark = [needs_softhsm, pytest.mark.skipif(compiler() is None, reason="not installed: cc")]
only_pkcs11 = pytest.mark.parametrize("kind", [PKCS11], ids=["pkcs11"])


@dataclass
class Desk:
    """A token, its library, and a folder for what the programs write."""

    kind: LibraryKind
    bus: TokenBus
    library: Path
    folder: Path

    def tool(self, *arguments: str, status: int = 0) -> str:
        """What pkcs11-tool says."""
        return self._run("pkcs11-tool", *arguments, status=status)

    def softhsm(self, *arguments: str) -> str:
        """What softhsm2-util says."""
        return self._run("softhsm2-util", *arguments, status=0)

    def _run(self, program: str, *arguments: str, status: int) -> str:
        command = [program, "--module", str(self.library), *arguments]
        result = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)  # noqa: S603  # of this file
        assert result.returncode == status, result.stderr
        return result.stdout + result.stderr

    def flags(self) -> set[str]:
        """Those of the token, as pkcs11-tool names them."""
        lines = [line.partition(":") for line in self.tool("-L").splitlines()]
        return {flag for name, _, flags in lines if name.strip() == "token flags" for flag in flags.strip().split(", ")}

    def objects(self, *login: str) -> list[str]:
        """The objects that somebody sees."""
        return [line.partition(";")[0] for line in self.tool(*login, "-O").splitlines() if "Object;" in line]


@pytest.fixture(params=[LUNA, PKCS11], ids=["luna", "pkcs11"])
def kind(request: pytest.FixtureRequest) -> LibraryKind:
    """Each of the two."""
    found: LibraryKind = request.param
    return found


@pytest.fixture
def desk(kind: LibraryKind, tmp_path: Path) -> Iterator[Desk]:
    """A token in use, with one key pair."""
    yield from plugged(kind, tmp_path, 1)


@pytest.fixture
def blank(kind: LibraryKind, tmp_path: Path) -> Iterator[Desk]:
    """One as from the factory."""
    yield from plugged(kind, tmp_path, 0)


def plugged(kind: LibraryKind, folder: Path, keys: int) -> Iterator[Desk]:
    """A token with so many key pairs."""
    bus = kind.bus(folder, keys)
    bus.plug()
    with kind.served(bus.backend) as library:
        yield Desk(kind, bus, library, folder)


def test_it_lists_the_token(desk: Desk) -> None:
    """In a slot with the vendor's name for it; what it can do; what anybody sees of what is in it."""
    slot = {"luna": "Luna UHD Slot", "pkcs11": "Simulated Slot"}[desk.kind.driver.family]
    listed = desk.tool("-L")

    assert f"Slot 0 (0x0): {slot}\n" in listed
    assert f"serial num         : {desk.bus.flash.told_serial}\n" in listed
    assert desk.flags() == {"login required", "token initialized", "PIN initialized"}
    assert "ECDSA, keySize={256,256}, hw, sign" in desk.tool("-M")
    assert desk.objects() == ["Public Key Object"]
    assert sorted(desk.objects(*USER)) == ["Private Key Object", "Public Key Object"]


def test_it_makes_a_key_and_signs_until_our_reset(desk: Desk) -> None:
    """The public key that it reads verifies the signature; after the reset there is neither a key nor a user's PIN."""
    (desk.folder / "hash").write_bytes(HASH)
    desk.tool(*USER, "--keypairgen", *P256)
    desk.tool(
        *USER, "--sign", "-m", "ECDSA", "--id", "77", "-i", "hash", "-o", "signature", "--signature-format", "openssl"
    )
    desk.tool("--read-object", "--type", "pubkey", "--id", "77", "-o", "public")

    public = load_der_public_key((desk.folder / "public").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify((desk.folder / "signature").read_bytes(), HASH, ec.ECDSA(Prehashed(SHA256())))
    assert desk.objects(*USER).count("Private Key Object") == 2

    desk.kind.reset(desk.bus, desk.bus.here)

    assert desk.objects() == []
    assert "CKR_USER_PIN_NOT_INITIALIZED" in desk.tool(*USER, "-O", status=1)
    assert "token initialized" not in desk.flags() or desk.kind is PKCS11
    assert "PIN initialized" not in desk.flags()


def test_a_luna_or_a_new_token_is_uninitialised(blank: Desk, kind: LibraryKind) -> None:
    """From the factory, and a Luna also after our reset; our driver calls it so, too."""
    assert "token state:   uninitialized" in blank.tool("-L")
    blank.kind.reset(blank.bus, blank.bus.here)

    assert "token state:   uninitialized" in blank.tool("-L")
    assert kind.probe(blank.bus, blank.bus.here).state is HsmState.ZEROIZED


def test_a_token_that_it_initialises_is_in_use(blank: Desk, kind: LibraryKind) -> None:
    """For our driver; with the SO PIN that was chosen it is reset, and then takes a new one only if it is a Luna."""
    blank.tool("--init-token", "--label", "vault", "--so-pin", SO_PIN_IN_USE)
    blank.tool(*OFFICER, SO_PIN_IN_USE, "--init-pin", "--new-pin", "another-pin")
    blank.tool("--login", "--pin", "another-pin", "--keypairgen", *P256)
    before = kind.probe(blank.bus, blank.bus.here)
    kind.reset(blank.bus, blank.bus.here)

    assert (before.state, before.label) == (HsmState.INITIALIZED, "vault")
    assert kind.probe(blank.bus, blank.bus.here).state is HsmState.ZEROIZED
    status = 0 if kind is LUNA else 1
    said = blank.tool("--init-token", "--label", "vault", "--so-pin", "a-new-so-pin", status=status)
    assert ("CKR_PIN_INCORRECT" in said) == bool(status)


def test_wrong_user_pins_are_counted(desk: Desk) -> None:
    """Down to the last one, and then no PIN is right."""
    seen = []
    for _ in range(desk.bus.flash.USER_TRIES):
        said = desk.tool("--login", "--pin", "wrong-pin", "-O", status=1)
        seen.append(desk.flags() & {"user PIN count low", "final user PIN try", "user PIN locked"})

    assert "CKR_PIN_LOCKED" in said
    assert seen[0] == {"user PIN count low"}
    assert seen[-2:] == [{"user PIN count low", "final user PIN try"}, {"user PIN locked"}]
    assert "CKR_PIN_LOCKED" in desk.tool(*USER, "-O", status=1)


def test_wrong_so_pins_are_counted(desk: Desk, kind: LibraryKind) -> None:
    """The last one locks a token's SO PIN, so that our driver resets it no more, and zeroizes a Luna."""
    seen = []
    for _ in range(desk.bus.flash.SO_TRIES):
        seen.append(desk.flags() & {"SO PIN count low", "final SO PIN try"})
        desk.tool(*OFFICER, "wrong-pin", "--init-pin", "--new-pin", "another-pin", status=1)
    probe = kind.probe(desk.bus, desk.bus.here)

    assert seen[0] == set()
    assert seen[-1] == {"SO PIN count low", "final SO PIN try"}
    if kind is LUNA:
        assert (probe.state, desk.bus.flash.keys) == (HsmState.ZEROIZED, {})
    else:
        assert (probe.state, probe.obstacle) == (HsmState.INITIALIZED, "its SO PIN is locked")
        assert len(desk.bus.flash.keys) == 1


def test_it_destroys_a_key(desk: Desk) -> None:
    """The private half, and only that."""
    desk.tool(*USER, "--delete-object", "--type", "privkey", "--id", "01")

    assert desk.objects(*USER) == ["Public Key Object"]
    assert not desk.bus.flash.keys


def test_an_empty_slot_has_no_token(desk: Desk) -> None:
    """Once the device was pulled out there is none; plugged in again, there is."""
    assert desk.flags()
    desk.bus.unplug()
    assert "  (empty)\n" in desk.tool("-L")
    desk.tool("-O", status=1)

    desk.bus.plug()
    assert desk.objects() == ["Public Key Object"]


@only_pkcs11
def test_softhsms_program_sees_the_same(desk: Desk) -> None:
    """Initialised with a user's PIN before our reset, without one after; it initialises it again itself."""

    def told() -> set[str]:
        return {" ".join(line.split()) for line in desk.softhsm("--show-slots").splitlines()}

    assert {"Serial number: A4711", "Initialized: yes", "User PIN init.: yes", "Label: in use"} <= told()
    desk.kind.reset(desk.bus, desk.bus.here)
    assert {"Serial number: A4711", "Initialized: yes", "User PIN init.: no", "Label: blank"} <= told()

    pins = ("--so-pin", SO_PIN_IN_USE, "--pin", "another-pin")
    desk.softhsm("--init-token", "--slot", "0", "--label", "mine", *pins)
    assert {"User PIN init.: yes", "Label: mine"} <= told()
    assert desk.objects("--login", "--pin", "another-pin") == []
