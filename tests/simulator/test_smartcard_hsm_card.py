# SPDX-License-Identifier: Apache-2.0
"""The simulated SmartCard-HSM: its PINs, its files, its keys, and what INITIALIZE DEVICE leaves of them."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import ApplianceError
from appliance.simulator import cvc
from appliance.simulator.families import load, new_token
from appliance.simulator.iso7816 import objects, tlv
from appliance.simulator.memory import dump
from appliance.simulator.smartcard_hsm_card import SmartcardHsmCard
from appliance.simulator.smartcard_hsm_flash import SmartcardHsmFlash
from tests.support.signature import verifies, verifies_rsa
from tests.support.smartcard_hsm_bench import (
    CERTIFICATE,
    ENUMERATE,
    FULL,
    SELECT,
    SERIAL,
    SO_PIN,
    SO_TRIES,
    USER_TRIES,
    VERIFY,
    VERIFY_WRONG,
    WRONG,
    Bench,
    initialize,
)


@pytest.fixture
def bench() -> Bench:
    """A card with two keys."""
    return Bench()


def test_it_is_selected_by_its_name(bench: Bench) -> None:
    """And says its options and its version; nothing is answered before."""
    fresh = SmartcardHsmCard(FULL, lambda flash: None)
    fresh.power_on()

    assert fresh.transmit(bytes.fromhex(ENUMERATE)).hex() == "6985"
    assert bench(SELECT) == "6F14840BE82B0601040181C31F020185050001000305" + "9000"
    assert bench("00A4040006D27600012401") == "6A82"


def test_what_it_holds_is_enumerated(bench: Bench) -> None:
    """Its own key first, the keys, and what belongs to them."""
    assert bench(ENUMERATE) == "CC00CC01CC02CE01C401CE02C402" + "9000"
    assert bench("8058000000") == "CC00CC01CC02CE01C401CE02C402" + "9000"


def test_counters_are_asked_for_at_no_cost(bench: Bench) -> None:
    """However often; and there are none before the first initialisation."""
    assert [bench(SO_TRIES), bench(USER_TRIES)] * 2 == ["63CF", "63C3"] * 2
    assert bench.writes == []
    virgin = Bench(replace(FULL, so=None, user=None))
    assert (virgin(SO_TRIES), virgin(USER_TRIES), virgin(VERIFY)) == ("6A88", "6A88", "6A88")


def test_the_user_pin_has_three_tries(bench: Bench) -> None:
    """The right one restores them; without any it is blocked, and a power cut changes nothing."""
    assert (bench(VERIFY_WRONG), bench(USER_TRIES), bench(VERIFY), bench(USER_TRIES)) == (
        "63C2",
        "63C2",
        "9000",
        "9000",
    )
    assert [bench(VERIFY_WRONG) for _ in range(4)] == ["63C2", "63C1", "63C0", "6983"]
    bench.card.power_on()
    assert bench(SELECT, VERIFY) == "6983"


def test_the_device_is_lost_after_fifteen_wrong_so_pins(bench: Bench) -> None:
    """Each costs one try, durable before it is answered, and the last one leaves nothing to be done."""
    answers = [bench(initialize(WRONG)) for _ in range(15)]

    assert set(answers) == {"6985"}
    assert [flash.so.tries for flash in bench.writes if flash.so] == list(range(14, -1, -1))
    assert bench(initialize()) == "6983"
    assert bench(SO_TRIES) == "6983"
    assert bench.flash.keys == FULL.keys


def test_initialising_leaves_nothing(bench: Bench) -> None:
    """Keys, files and the KEK are gone in one step; the device's own key and its number are as they were."""
    bench(initialize(WRONG))
    assert bench(initialize(tries=5)) == "9000"
    after = bench.flash

    assert (after.keys, after.files, after.serial, after.device_key) == ({}, {}, SERIAL, FULL.device_key)
    assert after.kek != FULL.kek
    assert (bench(SO_TRIES), bench(USER_TRIES), bench(ENUMERATE)) == ("63CF", "63C5", "CC009000")
    assert bench(VERIFY) == "9000"
    assert len(bench.writes) == 4  # the wrong PIN, the right one, the initialisation, the user PIN


def test_the_first_initialisation_sets_the_so_pin() -> None:
    """Whatever it is; from then on it is wanted."""
    bench = Bench(replace(FULL, so=None, user=None))

    assert (bench(initialize(WRONG)), bench(initialize(SO_PIN)), bench(initialize(WRONG))) == ("9000", "6985", "9000")


@pytest.mark.parametrize(
    "apdu",
    [
        initialize(so="00"),
        initialize(user=b"12345"),
        initialize(user=b"1" * 17),
        initialize(tries=0),
        initialize(tries=16),
        initialize(options="01"),
        initialize(shares="0001"),
        "8050000000",
        "8050000003820801",
    ],
)
def test_a_malformed_initialisation_costs_nothing(bench: Bench, apdu: str) -> None:
    """It is refused before the SO PIN is looked at."""
    assert bench(apdu) in ("6A80", "6700")
    assert bench(SO_TRIES) == "63CF"
    assert bench.flash == FULL


def test_initialising_ends_an_authorisation(bench: Bench) -> None:
    """The user PIN must be given anew."""
    assert bench(VERIFY, initialize(), "00D7C40106540200005300") == "6982"


def test_pins_are_changed(bench: Bench) -> None:
    """The user PIN by itself or by the SO PIN, where the options allow that; the SO PIN by itself."""
    new = b"135790".hex()
    assert bench(f"002400810C{b'648219'.hex()}{new}") == "9000"
    assert bench(f"0020008106{new}") == "9000"
    assert bench(f"002C00810E{SO_PIN}{b'648219'.hex()}") == "9000"
    assert bench(VERIFY) == "9000"
    assert bench(VERIFY_WRONG, f"002C018108{SO_PIN}", USER_TRIES) == "63C3"
    assert bench(f"0024008810{SO_PIN}{WRONG}") == "9000"
    assert bench(f"002C018108{SO_PIN}") == "63CE"
    locked = Bench(replace(FULL, options=b"\0\0"))
    assert locked(f"002C018108{SO_PIN}") == "6982"
    assert locked(SO_TRIES) == "63CF"


def test_the_certificate_says_who_it_is(bench: Bench) -> None:
    """The device's own key signs it, and its holder is the serial number and a sequence number."""
    answer = bytes.fromhex(bench(CERTIFICATE))
    assert answer[-2:] == b"\x62\x82"
    certificate = dict(objects(dict(objects(answer[:-2]))[cvc.CERTIFICATE]))
    body = dict(objects(certificate[cvc.BODY]))
    point = dict(objects(body[cvc.PUBLIC_KEY]))[0x86]

    assert body[cvc.HOLDER] == body[cvc.AUTHORITY] == b"DENK040351400001"
    digest = hashlib.sha256(tlv(cvc.BODY, certificate[cvc.BODY])).digest()
    assert verifies(point, certificate[cvc.SIGNATURE], digest)


def test_a_lying_card_tells_another_number(bench: Bench) -> None:
    """Until its power is cut."""
    bench.card.serial = "00112233"
    assert b"0011223300001" in bytes.fromhex(bench(CERTIFICATE))
    bench.card.power_on()
    assert b"DENK040351400001" in bytes.fromhex(bench(SELECT, CERTIFICATE))


def test_a_file_is_read_in_parts(bench: Bench) -> None:
    """From an offset, in short commands too; with a warning at its end, and a refusal behind it."""
    whole = bytes.fromhex(bench("00B1CE01000004540200000000"))[:-2]
    first = bytes.fromhex(bench("00B1CE01045402000000"))
    second = bytes.fromhex(bench("00B1CE01045402010000"))

    assert (first[-2:].hex(), second[-2:].hex()) == ("9000", "6282")
    assert whole == first[:-2] + second[:-2]
    assert bench(f"00B1CE01045402{len(whole):04X}00") == "6282"
    assert bench(f"00B1CE01045402{len(whole) + 1:04X}00") == "6A86"
    assert bench("00B1CE09045402000000") == "6A82"


def test_files_are_written_and_deleted(bench: Bench) -> None:
    """With the user PIN only; a key goes with its number, and the device's own things stay."""
    write = "00D7CF01085402000053021234"
    assert (bench(write), bench("00E4020002C401")) == ("6982", "6982")
    bench(VERIFY)
    assert (bench(write), bench("00B1CF01045402000000")) == ("9000", "12346282")
    assert bench("00A4000002CF0100")[-4:] == "9000"
    assert bench("00D70000085402000153025678") == "9000"
    assert bench("00B10000045402000000") == "1256786282"
    assert bench("00D7CF0108540200095302FFFF") == "6A80"
    assert (bench("00E4020002CF01"), bench("00E4020002CF01")) == ("9000", "6A82")
    assert (bench("00E4020002CC02"), 2 in bench.flash.keys, 1 in bench.flash.keys) == ("9000", False, True)
    assert (bench("00E4020002CC00"), bench("00D72F02085402000053021234")) == ("6A82", "6982")


def generate(number: int, prime: bytes = cvc.PRIME) -> str:
    """GENERATE ASYMMETRIC KEY PAIR."""
    key = tlv(cvc.PUBLIC_KEY, cvc.ECDSA_WITH_SHA256 + tlv(0x81, prime))
    data = tlv(cvc.PROFILE, b"\0") + key + tlv(cvc.HOLDER, b"DEMINE00001")
    return f"0046{number:02X}00{len(data):02X}{data.hex()}"


def test_a_generated_key_signs(bench: Bench) -> None:
    """What it makes is right, hashed by the host or by the card; and nothing without the user PIN."""
    digest = hashlib.sha256(b"a backup").digest()
    sign = f"8068097020{digest.hex()}00"
    assert (bench(generate(9)), bench(sign)) == ("6982", "6982")
    bench(VERIFY)
    assert bench(sign) == "6A82"
    request = bytes.fromhex(bench(generate(9) + "00"))
    assert request[-2:] == b"\x90\x00" or request[-2] == 0x61
    public = bench.flash.keys[9].public

    for apdu in (sign, f"8068097308{b'a backup'.hex()}00"):
        answer = bytes.fromhex(bench(apdu))
        numbers = [value for _, value in objects(dict(objects(answer[:-2]))[0x30])]
        plain = b"".join(int.from_bytes(number).to_bytes(32) for number in numbers)
        assert verifies(public, plain, digest)
    assert bench("8068097001AA00") == "6A80"
    assert bench(f"8068096120{digest.hex()}00") == "6A86"
    assert (bench(generate(9, cvc.PRIME[:-1])), bench(generate(0))) == ("6A80", "6A80")


def generate_rsa(number: int, bits: int = 2048) -> str:
    """GENERATE ASYMMETRIC KEY PAIR, of an RSA key."""
    key = tlv(cvc.PUBLIC_KEY, cvc.RSA_WITH_SHA256 + tlv(0x82, b"\1\0\1") + tlv(0x02, bits.to_bytes(2, "big")))
    data = tlv(cvc.PROFILE, b"\0") + key + tlv(cvc.HOLDER, b"DEMINE00001")
    return f"0046{number:02X}00{len(data):02X}{data.hex()}"


def raise_to_private(number: int, block: bytes) -> str:
    """SIGN with an RSA key: nothing is hashed or padded by the card."""
    return f"8068{number:02X}2000{len(block):04X}{block.hex()}0000"


def test_a_generated_rsa_key_signs(bench: Bench) -> None:
    """The request for its certificate holds its modulus and is signed by it; it raises any block to its power."""
    bench(VERIFY, generate_rsa(9))
    key = bench.flash.keys[9]
    request = dict(objects(dict(objects(bench.flash.files[0xCE09]))[cvc.REQUEST]))
    certificate = dict(objects(request[cvc.CERTIFICATE]))
    body = dict(objects(certificate[cvc.BODY]))
    parts = dict(objects(body[cvc.PUBLIC_KEY]))
    block = b"\0\1" + bytes(range(254))
    answer = bytes.fromhex(bench(raise_to_private(9, block)))

    assert (key.is_rsa, bench.flash.keys[1].is_rsa) == (True, False)
    assert (parts[0x81], parts[0x82]) == (key.public, b"\1\0\1")
    assert verifies_rsa(key.public, certificate[cvc.SIGNATURE], tlv(cvc.BODY, certificate[cvc.BODY]))
    assert answer[-2:] == b"\x90\0"
    assert pow(int.from_bytes(answer[:-2]), 65537, int.from_bytes(key.public)) == int.from_bytes(block)


def test_what_no_rsa_key_can_do_is_refused(bench: Bench) -> None:
    """Other sizes, blocks that are no number below the modulus, the algorithms of the other kind of key."""
    bench(VERIFY, generate_rsa(9))

    assert (bench(generate_rsa(8, 1024)), bench(generate_rsa(0))) == ("6A80", "6A80")
    assert [bench(raise_to_private(9, block)) for block in (bytes(255), b"\xff" * 256)] == ["6A80", "6A80"]
    assert bench(raise_to_private(1, bytes(256))) == "6A86"
    assert bench(f"8068097020{'00' * 32}00") == "6A86"


def test_no_rsa_key_opens_with_another_kek(bench: Bench) -> None:
    """After INITIALIZE DEVICE its ciphertext is gone from the file, and would be noise."""
    bench(VERIFY, generate_rsa(9))
    key = bench.flash.keys[9]
    bench(initialize())
    ghost = Bench(replace(bench.flash, keys={9: key}))

    assert key.sealed.hex() not in dump(bench.flash).decode()
    assert ghost(VERIFY, raise_to_private(9, bytes(256))) == "6A80"


def test_no_key_opens_with_another_kek(bench: Bench) -> None:
    """A key that outlived the KEK by some trick is noise."""
    bench(initialize())
    ghost = Bench(replace(bench.flash, keys=FULL.keys))

    assert ghost(VERIFY, f"8068017020{'00' * 32}00") == "6A80"


def test_nothing_is_done_that_cannot_be_kept(bench: Bench) -> None:
    """With a full disk INITIALIZE DEVICE says so, and everything is there."""
    bench.full = True

    assert bench(initialize()) == "6581"
    assert bench.card.memory.flash == FULL


def test_a_challenge_is_of_the_length_asked_for(bench: Bench) -> None:
    """Up to 256 bytes."""
    assert len(bench("0084000008")) == 20
    assert bench("00840000") == "6700"
    assert bench("00FF0000") == "6D00"
    assert bench("C0580000") == "6E00"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=5))
def test_any_command_is_answered(apdus: list[bytes]) -> None:
    """With a status word, whatever the bytes."""
    bench = Bench()
    for apdu in apdus:
        assert len(bench.card.transmit(apdu)) >= 2


# The file


@pytest.mark.parametrize("flash", [FULL, replace(FULL, so=None, user=None), SmartcardHsmFlash.new("1")])
def test_everything_comes_back(flash: SmartcardHsmFlash) -> None:
    """`load` is the inverse of `dump`."""
    assert load(dump(flash)) == flash


def damaged(change: Callable[[Any], object]) -> bytes:
    """A token file in which something was changed by hand."""
    entry = json.loads(dump(FULL))
    change(entry)
    return json.dumps(entry).encode()


@pytest.mark.parametrize(
    "contents",
    [
        damaged(lambda entry: entry.update(serial="DENK04035140")),
        damaged(lambda entry: entry.update(serial="DE/K")),
        damaged(lambda entry: entry.update(kek="00")),
        damaged(lambda entry: entry.update(options="00")),
        damaged(lambda entry: entry.update(user_tries=0)),
        damaged(lambda entry: entry.update(keys={"0": entry["keys"]["1"]})),
        damaged(lambda entry: entry["so"].update(tries=16)),
        damaged(lambda entry: entry.pop("device_key")),
        damaged(lambda entry: entry.update(family="luna")),
        damaged(lambda entry: entry.update(family="openpgp")),
        damaged(lambda entry: entry.update(family=["openpgp"])),
    ],
)
def test_nothing_else_is_believed(contents: bytes) -> None:
    """Damage of any kind is a ValueError, and no other exception."""
    with pytest.raises(ValueError, match=r"."):
        load(contents)


@settings(deadline=None)
@given(st.integers(0, len(dump(FULL)) - 1), st.binary(min_size=1, max_size=1))
def test_no_single_byte_breaks_the_reader(position: int, byte: bytes) -> None:
    """One changed byte gives a card or a ValueError."""
    contents = bytearray(dump(FULL))
    contents[position : position + 1] = byte
    with contextlib.suppress(ValueError):
        load(bytes(contents))


@pytest.mark.parametrize("serial", ["", "DENK04035140", "DE NK", "DÜNK", "DE-1"])
def test_nothing_else_is_a_serial_number(tmp_path: Path, serial: str) -> None:
    """One sentence says what is wanted, and no file is made."""
    with pytest.raises(ApplianceError, match=r"^The serial number must be one to 11 letters and digits, such as"):
        new_token(tmp_path / "a.token", serial, family="smartcard-hsm")

    assert list(tmp_path.iterdir()) == []


def test_no_pin_stands_in_the_file() -> None:
    """Neither as text nor in hexadecimal digits."""
    text = dump(FULL).decode().lower()

    assert SO_PIN not in text
    assert b"648219".hex() not in text
