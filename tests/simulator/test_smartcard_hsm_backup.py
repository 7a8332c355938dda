# SPDX-License-Identifier: Apache-2.0
"""The simulated SmartCard-HSM backs its keys up: it is given a DKEK, and wraps and unwraps keys under it.

What it wraps is taken apart here by other code than its own, and it unwraps what other code has wrapped.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.simulator.families import load
from appliance.simulator.iso7816 import objects
from appliance.simulator.memory import dump
from appliance.simulator.smartcard_hsm_dkek import Dkek
from appliance.simulator.smartcard_hsm_flash import SmartcardHsmFlash
from tests.support.signature import verifies
from tests.support.smartcard_hsm_bench import FULL, SERIAL, VERIFY, Bench, initialize

STATUS = "8052000000"
SHARES = bytes(range(32)), b"\xa5" * 32
DKEK = bytes(one ^ 0xA5 for one in range(32))
CHECK = hashlib.sha256(DKEK).hexdigest()[:16].upper()
DIGEST = hashlib.sha256(b"a backup").digest()
P256 = bytes.fromhex("04007F00070202020203")  # id-TA-ECDSA-SHA-256 (BSI TR-03110-3, A.7.1.3)
PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1  # of P-256, and its order (FIPS 186-4, D.1.2.3)
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
RSA = bytes.fromhex("04007F00070202020102")  # id-TA-RSA-v1-5-SHA-256


def share(value: bytes) -> str:
    """MANAGE KEY DOMAIN, with a share of the DKEK."""
    return f"80520000{len(value):02X}{value.hex()}00"


def wrap(number: int) -> str:
    """WRAP KEY."""
    return f"8072{number:02X}92000000"


def unwrap(number: int, wrapped: bytes) -> str:
    """UNWRAP KEY."""
    return f"8074{number:02X}9300{len(wrapped):04X}{wrapped.hex()}"


def delete(number: int) -> str:
    """DELETE FILE, of a key."""
    return f"00E4020002CC{number:02X}"


def with_dkek(flash: SmartcardHsmFlash, key: bytes = DKEK) -> SmartcardHsmFlash:
    """The same, as if it had been initialised with one share and been given it."""
    return replace(flash, dkek=Dkek.awaited(flash.kek, 1).with_share(flash.kek, key))


def wrapped_by(bench: Bench, number: int) -> bytes:
    """A key that it gives away, in one part."""
    answer = bytes.fromhex(bench(VERIFY, wrap(number)))
    assert answer[-2:] == b"\x90\0"
    return answer[:-2]


@pytest.fixture
def bench() -> Bench:
    """A card with two EC keys and a DKEK."""
    return Bench(with_dkek(FULL))


# The DKEK


@pytest.mark.parametrize("command", [STATUS, share(SHARES[0]), wrap(1), unwrap(9, bytes(48))])
def test_without_a_dkek_nothing_of_it_is_known(command: str) -> None:
    """An initialisation with no number of shares takes the DKEK away, too."""
    never, no_more = Bench(), Bench(with_dkek(FULL))

    assert never(VERIFY, command) == "6D00"
    assert no_more(STATUS) != "6D00"
    assert no_more(initialize(), VERIFY, command) == "6D00"


def test_shares_make_the_dkek() -> None:
    """It tells anybody how many are missing, also after a power cut, and a check value when none is."""
    bench = Bench()
    nothing = "00" * 8

    assert bench(initialize(shares="02"), STATUS) == f"0202{nothing}9000"
    assert bench(share(SHARES[0])) == f"0201{nothing}9000"
    bench.restart()
    assert bench(STATUS) == f"0201{nothing}9000"
    assert bench(share(SHARES[1])) == bench(STATUS) == f"0200{CHECK}9000"
    assert bench(share(SHARES[1])) == "6985"
    assert bench.flash.dkek is not None
    assert bench.flash.dkek.key(bench.flash.kek) == DKEK


def test_without_shares_it_is_drawn_by_the_device() -> None:
    """Each time another one, and no share is wanted."""
    bench = Bench()
    first = bench(initialize(shares="00"), STATUS)
    second = bench(initialize(shares="00"), STATUS)

    assert (first[:4], first[-4:], second[:4]) == ("0000", "9000", "0000")
    assert len({first, second, f"0000{'00' * 8}9000"}) == 3
    assert bench(share(SHARES[0])) == "6985"


@pytest.mark.parametrize(
    ("command", "status"),
    [(share(bytes(31)), "6700"), (share(bytes(33)), "6700"), ("8052000100", "6A86"), ("8052010000", "6A86")],
)
def test_nothing_else_is_a_share(command: str, status: str) -> None:
    """It has 32 bytes; and there is one key domain."""
    bench = Bench()
    bench(initialize(shares="01"))
    before = bench.flash

    assert bench(command) == status
    assert bench.flash == before


def test_a_share_that_cannot_be_kept_is_not_taken() -> None:
    """With a full disk it is still missing afterwards."""
    bench = Bench()
    bench(initialize(shares="01"))
    bench.full = True

    assert bench(share(SHARES[0])) == "6581"
    assert bench(STATUS)[:4] == "0101"


# Keys


@pytest.mark.parametrize("number", [1, 3])
def test_a_wrapped_key_comes_back(number: int) -> None:
    """To the same card or to another one with that DKEK, in any free place; it is the same key, EC or RSA."""
    flash = with_dkek(FULL.with_new_key(3, "DEMINE00001", rsa=True))
    here, there = Bench(flash), Bench(with_dkek(SmartcardHsmFlash.new("DENK0403515")))
    public = flash.keys[number].public
    blob = wrapped_by(here, number)

    assert here(delete(number), unwrap(number, blob)) == "9000"
    assert there(VERIFY, unwrap(9, blob)) == "9000"
    here.restart()
    there.restart()
    for bench, place in ((here, number), (there, 9)):
        key = bench.flash.keys[place]
        assert (key.public, signs(bench, place, public)) == (public, True)


def signs(bench: Bench, place: int, public: bytes) -> bool:
    """Whether the key there is the private half of this one, which its signature shows."""
    if len(public) > 65:
        block = b"\0\1" + bytes(range(254))
        answer = bytes.fromhex(bench(VERIFY, f"8068{place:02X}2000{len(block):04X}{block.hex()}0000"))
        return pow(int.from_bytes(answer[:-2]), 65537, int.from_bytes(public)) == int.from_bytes(block)
    answer = bytes.fromhex(bench(VERIFY, f"8068{place:02X}7020{DIGEST.hex()}00"))
    numbers = [int.from_bytes(value) for _, value in objects(dict(objects(answer[:-2]))[0x30])]
    return verifies(public, b"".join(number.to_bytes(32) for number in numbers), DIGEST)


@pytest.mark.parametrize(
    ("commands", "status"),
    [
        ([wrap(1)], "6982"),
        ([unwrap(9, bytes(48))], "6982"),
        ([VERIFY, wrap(7)], "6A82"),
        ([VERIFY, wrap(0)], "6A86"),
        ([VERIFY, "80720191000000"], "6A86"),
        ([VERIFY, unwrap(0, bytes(48))], "6A86"),
        ([VERIFY, unwrap(9, bytes(48)).replace("740993", "740992")], "6A86"),
        ([VERIFY, unwrap(1, bytes(48))], "6A89"),
        ([VERIFY, unwrap(9, bytes(48))], "6A80"),
        ([VERIFY, "80740993"], "6A80"),
    ],
)
def test_what_is_not_backed_up(bench: Bench, commands: list[str], status: str) -> None:
    """Nothing without the user PIN, no key that is not there, none in place of another, and nothing that is no key."""
    before = bench.flash

    assert bench(*commands) == status
    assert bench.flash == before


def test_no_key_leaves_before_the_dkek_is_whole() -> None:
    """While shares are missing, what there is of it protects nothing."""
    bench = Bench(replace(FULL, dkek=Dkek.awaited(FULL.kek, 2).with_share(FULL.kek, SHARES[0])))

    assert (bench(VERIFY, wrap(1)), bench(unwrap(9, bytes(48)))) == ("6985", "6985")


def test_a_key_is_unwrapped_with_its_own_dkek_only(bench: Bench) -> None:
    """The one of another card does not open it, nor does one that the card has got since INITIALIZE DEVICE."""
    blob = wrapped_by(bench, 1)
    other = Bench(with_dkek(FULL, SHARES[0]))

    assert other(VERIFY, unwrap(9, blob)) == "6A80"
    assert bench(initialize(shares="01"), share(SHARES[0])) != "6D00"
    assert bench(VERIFY, unwrap(9, blob)) == "6A80"
    bench(initialize(shares="02"), share(SHARES[0]), share(SHARES[1]))
    assert bench(VERIFY, unwrap(9, blob)) == "9000"


def test_no_dkek_opens_with_another_kek(bench: Bench) -> None:
    """One that outlived INITIALIZE DEVICE by some trick is noise, and nothing is wrapped or unwrapped under it."""
    blob, dkek = wrapped_by(bench, 1), bench.flash.dkek
    bench(initialize(), VERIFY)
    ghost = Bench(replace(bench.flash, dkek=dkek, keys=FULL.keys))

    assert ghost(VERIFY, wrap(1)) == "6A80"
    assert ghost(unwrap(9, blob)) == "6A80"
    assert dkek is not None
    part = Bench(replace(bench.flash, dkek=replace(dkek, shares=2, missing=1, check=b"")))
    assert part(share(SHARES[0])) == "6A80"


def test_a_key_that_cannot_be_kept_does_not_come_back(bench: Bench) -> None:
    """With a full disk it is not there afterwards."""
    blob = wrapped_by(bench, 1)
    bench.full = True

    assert bench(unwrap(9, blob)) == "6581"
    assert 9 not in bench.card.memory.flash.keys


def test_a_changed_key_is_refused(bench: Bench) -> None:
    """Wherever a bit has been turned, and wherever it has been cut off."""
    blob = wrapped_by(bench, 1)
    turned = [blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :] for place in range(len(blob))]

    assert {bench(unwrap(9, other)) for other in turned} == {"6A80"}
    assert {bench(unwrap(9, blob[:length])) for length in range(1, len(blob))} == {"6A80"}


# The format, by other code


def derived(number: int) -> AES:
    """The key that enciphers (1), or authenticates (2)."""
    return AES(hashlib.sha256(DKEK + number.to_bytes(4)).digest())


def code(body: bytes) -> bytes:
    """The authentication code of a wrapped key."""
    mac = CMAC(derived(2))
    mac.update(body)
    return mac.finalize()


def foreign(kind: int, algorithm: bytes, bits: int, *parts: bytes) -> bytes:
    """A key, wrapped as another device does it."""
    clear = os.urandom(8) + bits.to_bytes(2) + b"".join(len(part).to_bytes(2) + part for part in parts) + b"\x80"
    clear += bytes(-len(clear) % 16)
    encryptor = Cipher(derived(1), CBC(bytes(16))).encryptor()
    head = bytes.fromhex(CHECK) + bytes([kind]) + len(algorithm).to_bytes(2) + algorithm + bytes(6)
    body = head + encryptor.update(clear) + encryptor.finalize()
    return body + code(body)


@pytest.mark.parametrize(
    ("number", "kind", "algorithm", "bits", "lengths"),
    [
        (1, 12, P256, 256, [32, 32, 32, 32, 65, 32, 65]),
        (3, 6, RSA, 2048, [128, 128, 128, 128, 128, 256, 3]),
    ],
)
def test_a_wrapped_key_is_as_genuine_devices_have_it(
    number: int, kind: int, algorithm: bytes, bits: int, lengths: list[int]
) -> None:
    """Check value, kind, algorithm, three empty fields; the numbers of the key under AES; a code over all of it."""
    flash = with_dkek(FULL.with_new_key(3, "DEMINE00001", rsa=True))
    blob = wrapped_by(Bench(flash), number)
    head = bytes.fromhex(CHECK) + bytes([kind]) + b"\0\x0a" + algorithm + bytes(6)
    decryptor = Cipher(derived(1), CBC(bytes(16))).decryptor()
    clear = decryptor.update(blob[len(head) : -16]) + decryptor.finalize()
    parts, rest = [], clear[10:]
    for _ in lengths:
        length = int.from_bytes(rest[:2])
        parts.append(rest[2 : 2 + length])
        rest = rest[2 + length :]

    assert (blob[: len(head)], blob[-16:]) == (head, code(blob[:-16]))
    assert (int.from_bytes(clear[8:10]), [len(part) for part in parts]) == (bits, lengths)
    assert rest == b"\x80" + bytes(len(rest) - 1)
    numbers = [int.from_bytes(part) for part in parts]
    if kind == 6:
        exponent, other, p, inverse, q, modulus, public = numbers
        assert (p * q, public, inverse * q % p) == (modulus, 65537, 1)
        assert (exponent * public % (p - 1), other * public % (q - 1)) == (1, 1)
        assert parts[5] == flash.keys[3].public
    else:
        a, b, prime, order = numbers[:4]
        assert (a, prime, order) == (PRIME - 3, PRIME, ORDER)
        for x, y in ((part[1:33], part[33:]) for part in (parts[4], parts[6])):
            assert (pow(int.from_bytes(x), 3) + a * int.from_bytes(x) + b - pow(int.from_bytes(y), 2)) % prime == 0
        point = ec.derive_private_key(numbers[5], ec.SECP256R1()).public_key()
        assert point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) == parts[6] == flash.keys[1].public


def elliptic(curve: ec.EllipticCurve, prime: int) -> bytes:
    """A key on that curve, of which a card looks at the prime."""
    key = ec.generate_private_key(curve)
    scalar = key.private_numbers().private_value.to_bytes(32)
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return foreign(12, P256, 256, b"\0", b"\0", prime.to_bytes(32), b"\0", b"\0", scalar, point)


def modular(bits: int = 2048, exponent: int = 65537, *, halves: bool = False, other: int = 0) -> bytes:
    """An RSA key, with its primes or without; `other` is added to its modulus."""
    numbers = rsa.generate_private_key(exponent, bits).private_numbers()
    modulus = (numbers.public_numbers.n + other).to_bytes(bits // 8)
    tail = modulus, exponent.to_bytes(3)
    if not halves:
        return foreign(5, RSA, bits, numbers.d.to_bytes(bits // 8), *tail)
    parts = numbers.dmp1, numbers.dmq1, numbers.p, numbers.iqmp, numbers.q
    return foreign(6, RSA, bits, *(part.to_bytes(bits // 16) for part in parts), *tail)


GOOD = {
    "EC": lambda: elliptic(ec.SECP256R1(), PRIME),
    "RSA": modular,
    "RSA with primes": lambda: modular(halves=True),
}
BAD = {
    "another curve": lambda: elliptic(ec.SECP256R1(), 2**256 - 2**32 - 977),
    "another curve under this name": lambda: elliptic(ec.SECP256K1(), PRIME),
    "another length": lambda: modular(3072, halves=True),
    "another exponent": lambda: modular(exponent=3, halves=True),
    "another modulus": lambda: modular(halves=True, other=2),
    "no modulus of this key": lambda: modular(other=2),
    "no primes": lambda: composite(2**1024 - 1, 2**1024 - 3),
    "ones": lambda: composite(1, 1),
    "an AES key": lambda: foreign(15, bytes.fromhex("608648016503040110"), 32, bytes(32)),
    "no key": lambda: foreign(12, P256, 256),
    "another check value": lambda: resealed(elliptic(ec.SECP256R1(), PRIME)),
    "nothing": lambda: sealed(b""),
    "no clear text": lambda: sealed(b"\x0c" + bytes(8)),
    "half a block": lambda: sealed(b"\x0c" + bytes(12)),
}


def composite(p: int, q: int) -> bytes:
    """An RSA key of these numbers in place of primes."""
    halves = [number.to_bytes(128) for number in (1, 1, p, 1, q)]
    return foreign(6, RSA, 2048, *halves, (p * q).to_bytes(256), b"\1\0\1")


def resealed(wrapped: bytes) -> bytes:
    """The same with another check value, and the right code for it."""
    body = bytes(8) + wrapped[8:-16]
    return body + code(body)


def sealed(rest: bytes) -> bytes:
    """Anything behind the check value, with the right code."""
    body = bytes.fromhex(CHECK) + rest
    return body + code(body)


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_a_key_of_another_device_is_taken(bench: Bench, make: Callable[[], bytes]) -> None:
    """Whichever way that device has written it down."""
    assert bench(VERIFY, unwrap(9, make())) == "9000"
    assert signs(bench, 9, bench.flash.keys[9].public)


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_a_key_that_the_card_does_not_know_is_refused(bench: Bench, make: Callable[[], bytes]) -> None:
    """Although it was wrapped under this DKEK."""
    assert bench(VERIFY, unwrap(9, make())) == "6A80"


# The file


@pytest.mark.parametrize(
    "flash",
    [
        with_dkek(FULL),
        replace(FULL, dkek=Dkek.awaited(FULL.kek, 2)),
        replace(FULL, dkek=Dkek.awaited(FULL.kek, 0)),
    ],
)
def test_the_dkek_comes_back(flash: SmartcardHsmFlash) -> None:
    """`load` is the inverse of `dump`; the key and its shares are not to be read in the file."""
    assert load(dump(flash)) == flash
    text = dump(flash).decode().lower()
    assert not any(secret.hex() in text for secret in (DKEK, *SHARES))


def test_a_file_without_one_is_of_a_device_without() -> None:
    """As files were that have been made before there was any."""
    entry = json.loads(dump(FULL))
    del entry["dkek"]

    assert load(json.dumps(entry).encode()) == FULL


@pytest.mark.parametrize(
    "change",
    [
        {"shares": 256},
        {"shares": -1},
        {"missing": 2},
        {"missing": -1, "check": ""},
        {"missing": 1},  # and a check value
        {"check": ""},
        {"check": "00"},
        {"sealed": "00"},
        {"sealed": None},
        {"shares": "many"},
    ],
)
def test_no_other_dkek_is_believed(change: dict[str, Any]) -> None:
    """Damage is a ValueError."""
    entry = json.loads(dump(with_dkek(SmartcardHsmFlash.new(SERIAL))))
    entry["dkek"].update(change)

    with pytest.raises(ValueError, match=r"."):
        load(json.dumps(entry).encode())
