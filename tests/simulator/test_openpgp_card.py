# SPDX-License-Identifier: Apache-2.0
"""The card does what the OpenPGP card specification 3.4 says, command by command."""

import hashlib

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from appliance.simulator.iso7816 import Refused, objects, tlv
from appliance.simulator.openpgp_card import OpenPgpCard
from appliance.simulator.openpgp_flash import OpenPgpFlash, Password, Slot
from tests.support.simulated import (
    ACTIVATE,
    SELECT,
    TERMINATE,
    VERIFY_ADMIN,
    VERIFY_OTHER,
    VERIFY_USER,
    WRONG_ADMIN,
    Bench,
    Memory,
)

AID = "D276000124010304FFFE006677880000"
GENERATE, READ = "0047800002B60000", "0047810002B60000"
DIGEST = hashlib.sha256(b"a backup").digest()
SIGN = "002A9E9A20" + DIGEST.hex() + "00"
AUTHENTICATE = "0088000020" + DIGEST.hex() + "00"
CRT = {Slot.SIGNATURE: "B600", Slot.DECRYPTION: "B800", Slot.AUTHENTICATION: "A400"}


def put(tag: int, value: bytes) -> str:
    """PUT DATA."""
    return f"00DA{tag:04X}{len(value):02X}{value.hex()}"


def generate(slot: Slot) -> str:
    """GENERATE ASYMMETRIC KEY PAIR."""
    return f"0047800002{CRT[slot]}00"


# The answer to reset and the selection


def test_the_answer_to_reset_is_whole() -> None:
    """T=1, the historical bytes of 5F52, and a check byte that makes the exclusive or of all but the first zero."""
    bench = Bench()
    answer = bench.card.power_on()

    check = 0
    for byte in answer[1:]:
        check ^= byte
    bench(SELECT)
    assert answer.startswith(bytes.fromhex("3B8A81"))
    assert bench.data(0x5F52) in answer
    assert check == 0


@pytest.mark.parametrize("length", range(6, 17))
def test_the_application_is_selected_by_any_beginning_of_its_name(length: int) -> None:
    """From the six bytes that all OpenPGP cards share to the whole AID."""
    name = bytes.fromhex(AID)[:length]

    assert Bench(selected=False)(f"00A40400{length:02X}{name.hex()}00") == "9000"


@pytest.mark.parametrize(
    "apdu",
    [
        "00A4040005D276000124",
        "00A4040006D27600012402",
        "00A4040010D276000124010304FFFE006677890000",
        "00A4040011D276000124010304FFFE00667788000000",
        "00A4000C023F00",
        "00A40400",
    ],
)
def test_nothing_else_is_selected(apdu: str) -> None:
    """Too little, too much, another application, another serial number, a file: 6A82."""
    assert Bench(selected=False)(apdu) == "6A82"


@pytest.mark.parametrize("apdu", [READ, VERIFY_USER, TERMINATE, ACTIVATE, "00CA004F00"])
def test_nothing_is_done_before_the_selection(apdu: str) -> None:
    """A card without a selected application answers 6985."""
    bench = Bench(selected=False)

    assert bench(apdu) == "6985"
    assert bench.memory.writes == []


@pytest.mark.parametrize(
    ("apdu", "status"), [("00FF0000", "6D00"), ("80CA004F00", "6E00"), ("00CA", "6700"), ("002A000000", "6A86")]
)
def test_unknown_commands_are_refused(apdu: str, status: str) -> None:
    """By the status word that says what is wrong with them."""
    assert Bench()(apdu) == status


# Data objects


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (0x4F, AID),
        (0x5F52, "0031C573C00180059000"),
        (0xC4, "007F7F7F030003"),
        (0xC5, "00" * 60),
        (0xC6, "00" * 60),
        (0xCD, "00" * 12),
        (0xDE, "010002000300"),
        (0xC1, "132A8648CE3D030107"),
        (0xC2, "122A8648CE3D030107"),
        (0xC3, "132A8648CE3D030107"),
        (0x93, "000000"),
        (0x5E, ""),
        (0x5F50, ""),
        (0x7F21, ""),
        (0x65, "65085B005F2D005F3500"),
        (0x7A, "7A0593 03000000"),
        (0x7F66, "020200FF02020100"),
    ],
)
def test_a_new_card_holds(tag: int, value: str) -> None:
    """The data objects of the factory state; a constructed one comes whole."""
    assert Bench().data(tag) == bytes.fromhex(value)


def test_the_application_related_data_hold_the_parts() -> None:
    """6E has in it what can also be read alone, and 73 in 6E likewise."""
    bench = Bench()

    parts = dict(objects(dict(objects(bench.data(0x6E)))[0x6E]))
    discretionary = dict(objects(parts[0x73]))

    assert {tag: bench.data(tag) for tag in parts if tag != 0x73} == {
        tag: value for tag, value in parts.items() if tag != 0x73
    }
    assert {tag: bench.data(tag) for tag in discretionary} == discretionary
    assert {0x4F, 0x5F52, 0x73} <= parts.keys()
    assert {0xC0, 0xC4, 0xC5, 0xC6, 0xCD} <= discretionary.keys()


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (0x5B, b"Backup"),
        (0x5E, b"login"),
        (0x5F2D, b"en"),
        (0x5F35, b"9"),
        (0x5F50, b"https://example.org"),
        (0xC7, bytes(range(20))),
        (0xCC, bytes(range(20))),
        (0xCE, b"\1\2\3\4"),
        (0x0102, b"x" * 254),
        (0x0104, b"secret"),
        (0x5B, b""),
    ],
)
def test_the_administrator_puts_data(tag: int, value: bytes) -> None:
    """What PW3 put is read back, and is there after a power cut; nobody else may put it."""
    bench = Bench()

    assert bench(put(tag, value)) == "6982"
    assert bench(VERIFY_ADMIN, put(tag, value)) == "9000"
    assert bench.data(tag) == value
    later = Bench(Memory(bench.flash))
    later(VERIFY_ADMIN)
    assert later.data(tag) == value


@pytest.mark.parametrize(
    ("tag", "value", "status"),
    [
        (0x5B, b"x" * 40, "6A80"),
        (0xC7, b"x" * 19, "6A80"),
        (0xCE, b"", "6A80"),
        (0xC1, b"\x01\x08\x00\x00\x20\x00", "6A80"),
        (0xC4, b"\x02", "6A80"),
        (0xC4, b"", "6A80"),
        (0xD3, b"short", "6A80"),
        (0x4F, b"x", "6A88"),
        (0x0105, b"x", "6A88"),
    ],
)
def test_wrong_data_are_refused(tag: int, value: bytes, status: str) -> None:
    """Of a wrong length or meaning, or no object that can be put; nothing is written."""
    bench = Bench()
    bench(VERIFY_ADMIN)

    assert bench(put(tag, value)) == status
    assert bench.memory.writes == []


def test_private_objects_have_their_own_rules() -> None:
    """0103 is the user's alone, 0104 is the administrator's to read."""
    bench = Bench()

    assert [bench("00CA010300"), bench("00CA010400"), bench(put(0x0103, b"x"))] == ["6982"] * 3
    assert bench(VERIFY_OTHER, put(0x0103, b"x"), "00CA010300") == "789000"
    assert bench("00CA010400") == "6982"
    assert bench(VERIFY_ADMIN, "00CA010400") == "9000"


def test_each_certificate_has_its_place() -> None:
    """SELECT DATA chooses among three; SELECT goes back to the first."""
    bench = Bench()
    bench(VERIFY_ADMIN)
    for number in range(3):
        assert bench(f"00A50{number}040660045C027F21", put(0x7F21, bytes([number]))) == "9000"

    assert [bench(f"00A50{number}040660045C027F21", "00CA7F2100") for number in range(3)] == [
        "009000",
        "019000",
        "029000",
    ]
    assert bench(SELECT, "00CA7F2100") == "009000"
    assert bench("00A503040660045C027F21") == "6A88"
    assert bench("00A500040660045C027F22") == "6A80"


def test_a_long_certificate_comes_and_goes_in_parts() -> None:
    """Command chaining in, GET RESPONSE out."""
    bench = Bench()
    bench(VERIFY_ADMIN)
    content = bytes(range(256)) + b"end"

    assert bench(f"10DA7F21FF{content[:255].hex()}", f"00DA7F2104{content[255:].hex()}") == "9000"
    assert bench("00CA7F2100") == content[:256].hex().upper() + "6103"
    assert bench("00C0000003") == content[256:].hex().upper() + "9000"


# Passwords


@pytest.mark.parametrize(("which", "pin"), [(0x81, b"123456"), (0x82, b"123456"), (0x83, b"12345678")])
def test_the_state_of_a_password_can_be_asked(which: int, pin: bytes) -> None:
    """VERIFY without data: the tries left, or 9000 once verified; P1 of FF ends that."""
    bench = Bench()

    assert bench(f"002000{which:02X}") == "63C3"
    assert bench(f"002000{which:02X}{len(pin):02X}{pin.hex()}") == "9000"
    assert bench(f"002000{which:02X}") == "9000"
    assert bench(f"0020FF{which:02X}") == "9000"
    assert bench(f"002000{which:02X}") == "63C3"


@pytest.mark.parametrize(("which", "position"), [(0x81, 4), (0x82, 4), (0x83, 6)])
def test_three_wrong_tries_block(which: int, position: int) -> None:
    """Each costs a try, durably and before it is answered; then 6983, the right PIN included."""
    bench = Bench()
    wrong, right = (
        f"002000{which:02X}083030303030303030",
        VERIFY_ADMIN if which == 0x83 else f"002000{which:02X}06313233343536",
    )

    answers = [(bench(wrong), Bench(Memory(bench.flash)).data(0xC4)[position]) for _ in range(4)]

    assert answers == [("6982", 2), ("6982", 1), ("6982", 0), ("6983", 0)]
    assert bench(right) == "6983"


def test_the_right_pin_restores_the_tries() -> None:
    """And a wrong one ends an authorisation."""
    bench = Bench()

    assert bench(WRONG_ADMIN, WRONG_ADMIN, VERIFY_ADMIN) == "9000"
    assert bench.data(0xC4)[6] == 3
    assert bench(WRONG_ADMIN, put(0x5B, b"x")) == "6982"


@pytest.mark.parametrize("event", ["power", "select"])
def test_authorisations_end(event: str) -> None:
    """With the power, and with a new selection."""
    bench = Bench()
    bench(VERIFY_ADMIN)
    if event == "power":
        bench.card.power_on()
    bench(SELECT)

    assert bench(put(0x5B, b"x")) == "6982"
    assert bench("00200083") == "63C3"


@pytest.mark.parametrize(
    ("which", "old", "new"), [(0x81, b"123456", b"a longer one"), (0x83, b"12345678", b"another admin")]
)
def test_a_password_is_changed(which: int, old: bytes, new: bytes) -> None:
    """CHANGE REFERENCE DATA: the new one counts, the old one does not."""
    bench = Bench()

    assert bench(f"002400{which:02X}{len(old + new):02X}{(old + new).hex()}") == "9000"
    assert bench(f"002000{which:02X}{len(new):02X}{new.hex()}") == "9000"
    assert bench(f"002000{which:02X}{len(old):02X}{old.hex()}") == "6982"


def test_a_new_password_must_be_verified() -> None:
    """Changing a password ends what was authorised by the old one."""
    bench = Bench()
    bench(VERIFY_ADMIN)

    assert bench("0024008310" + b"1234567887654321".hex()) == "9000"
    assert bench(put(0x5B, b"x")) == "6982"


@pytest.mark.parametrize(
    ("apdu", "status", "tries"),
    [
        ("0024008106" + b"123456".hex(), "6A80", 3),
        ("002400810B" + b"12345612345".hex(), "6A80", 3),
        ("002400810C" + b"654321123456".hex(), "6982", 2),
        ("002400820C" + b"123456654321".hex(), "6A86", 3),
        ("00240081FF" + b"123456".hex() + "31" * 249, "6A80", 3),
    ],
)
def test_a_bad_change_changes_nothing(apdu: str, status: str, tries: int) -> None:
    """Too short, too long, the wrong old password, the wrong parameter."""
    bench = Bench()

    assert bench(apdu) == status
    assert bench.flash.pins[Password.USER].tries == tries
    assert bench(VERIFY_USER) == "9000"


def test_a_blocked_user_is_freed_by_the_administrator() -> None:
    """RESET RETRY COUNTER with P1 of 02."""
    bench = Bench()
    bench(*["00200081083030303030303030"] * 3)

    assert bench("002C028106" + b"abcdef".hex()) == "6982"
    assert bench(VERIFY_ADMIN, "002C028106" + b"abcdef".hex()) == "9000"
    assert bench("0020008106" + b"abcdef".hex()) == "9000"


def test_a_blocked_user_is_freed_by_the_resetting_code() -> None:
    """RESET RETRY COUNTER with P1 of 00, once the administrator has set a code."""
    bench = Bench()
    with_code = "002C00810E" + b"resettingx".hex()[:16] + b"abcdef".hex()

    assert bench(with_code) == "6983"
    assert bench(VERIFY_ADMIN, put(0xD3, b"resettin")) == "9000"
    assert bench.data(0xC4)[4:] == b"\3\3\3"
    assert bench(with_code) == "9000"
    assert bench("0020008106" + b"abcdef".hex()) == "9000"
    assert bench(put(0xD3, b"")) == "9000"
    assert bench.data(0xC4)[5] == 0


# Keys


def verify(public: bytes, signature: str) -> None:
    """Raises unless r and s, side by side, sign the digest."""
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
    r, s = int(signature[:64], 16), int(signature[64:128], 16)
    key.verify(encode_dss_signature(r, s), DIGEST, ec.ECDSA(Prehashed(SHA256())))


def test_a_key_is_generated_and_signs() -> None:
    """The administrator makes it, the user signs, once for each PIN; the counter counts."""
    bench = Bench()

    assert [bench(READ), bench(GENERATE), bench(SIGN)] == ["6A88", "6982", "6982"]
    made = bench(VERIFY_ADMIN, GENERATE)
    assert made == bench(READ)
    signature = bench(VERIFY_USER, SIGN)
    verify(bytes.fromhex(made[10:-4]), signature)
    assert bench.data(0x93) == b"\0\0\1"
    assert bench(SIGN) == "6982"
    assert bench.data(0xDE).hex() == "010102000300"


def test_one_pin_can_be_good_for_many_signatures() -> None:
    """With 01 in the first byte of C4; a new signature key begins counting anew."""
    bench = Bench()
    bench(VERIFY_ADMIN, GENERATE, put(0xC4, b"\1"), VERIFY_USER, SIGN)

    assert bench(SIGN)[-4:] == "9000"
    assert bench.data(0x93) == b"\0\0\2"
    bench(VERIFY_ADMIN, GENERATE)
    assert bench.data(0x93) == b"\0\0\0"


def test_the_authentication_key_needs_the_other_pin() -> None:
    """INTERNAL AUTHENTICATE wants PW1 in its second mode, as often as it likes."""
    bench = Bench()
    public = bench(VERIFY_ADMIN, generate(Slot.AUTHENTICATION))[10:-4]

    assert bench(VERIFY_USER, AUTHENTICATE) == "6982"
    verify(bytes.fromhex(public), bench(VERIFY_OTHER, AUTHENTICATE))
    assert bench(AUTHENTICATE)[-4:] == "9000"


def test_the_decryption_key_agrees_on_a_secret() -> None:
    """PSO: DECIPHER gives the x coordinate that the other side has too."""
    bench = Bench()
    public = bytes.fromhex(bench(VERIFY_ADMIN, generate(Slot.DECRYPTION))[10:-4])
    other = ec.generate_private_key(ec.SECP256R1())
    point = other.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    cipher = tlv(0xA6, tlv(0x7F49, tlv(0x86, point)))
    decipher = f"002A8086{len(cipher):02X}{cipher.hex()}00"

    secret = other.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public))

    assert bench(decipher) == "6982"
    assert bench(VERIFY_OTHER, decipher) == secret.hex().upper() + "9000"
    assert bench(decipher.replace(point.hex(), "04" + "11" * 64)) == "6A80"


def import_key(private: bytes, crt: str = "B600", lengths: str = "9220") -> str:
    """PUT DATA with an extended header list."""
    content = bytes.fromhex(crt) + tlv(0x7F48, bytes.fromhex(lengths)) + tlv(0x5F48, private)
    data = tlv(0x4D, content)
    return f"00DB3FFF{len(data):02X}{data.hex()}"


@pytest.mark.parametrize(("crt", "lengths"), [("B600", "9220"), ("B603840101", "9220"), ("B600", "92209941")])
def test_a_key_is_imported_and_signs(crt: str, lengths: str) -> None:
    """With and without a key reference, with and without the public point."""
    bench = Bench()
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    private = key.private_numbers().private_value.to_bytes(32, "big")
    command = import_key(private + (public if "99" in lengths else b""), crt, lengths)

    assert bench(command) == "6982"
    assert bench(VERIFY_ADMIN, command) == "9000"
    assert bench(READ)[10:-4] == public.hex().upper()
    verify(public, bench(VERIFY_USER, SIGN))
    assert bench.data(0xDE)[1] == 2


@pytest.mark.parametrize(
    "apdu",
    [
        import_key(b"\0" * 32),
        import_key(b"\xff" * 32),
        import_key(b"\1" * 31),
        import_key(b"\1" * 32, lengths="9120"),
        import_key(b"\1" * 32, lengths=""),
        import_key(b"\1" * 32, crt="A600"),
        import_key(b"\1" * 32, crt="B600B800"),
        "00DB3FFF00",
        "00DB3FFF024D00",
        "00DB3FFF044D00B600",
        "00DB3FFF034D05B6",
    ],
)
def test_no_bad_key_is_imported(apdu: str) -> None:
    """Zero, beyond the order, cut off, without its headers, for no slot or two: 6A80, and nothing is written."""
    bench = Bench()
    bench(VERIFY_ADMIN)

    assert bench(apdu) == "6A80"
    assert bench.memory.writes == []


@pytest.mark.parametrize("data", ["", "31", "31" * 33])
def test_only_hashes_are_signed(data: str) -> None:
    """What has no length of a hash is refused."""
    bench = Bench()
    bench(VERIFY_ADMIN, GENERATE, VERIFY_USER)

    assert bench(f"002A9E9A{len(data) // 2:02X}{data}00" if data else "002A9E9A00") == "6A80"


def test_the_private_key_stands_under_the_kek_only() -> None:
    """What is kept opens with the KEK, in its slot, and is found nowhere in the clear."""
    bench = Bench()
    private = bytes(range(1, 33))
    bench(VERIFY_ADMIN, import_key(private))
    flash = bench.flash
    sealed = flash.keys[Slot.SIGNATURE].sealed

    assert AESGCM(flash.kek).decrypt(sealed[:12], sealed[12:], b"signature") == private
    with pytest.raises(InvalidTag):
        AESGCM(flash.kek).decrypt(sealed[:12], sealed[12:], b"decryption")
    assert private not in sealed


def test_a_random_challenge_has_the_length_asked_for() -> None:
    """GET CHALLENGE, up to 255 bytes, and never the same twice."""
    bench = Bench()

    first, second = bench("0084000020"), bench("0084000020")

    assert (len(first), first[-4:]) == (68, "9000")
    assert first != second
    assert bench("00840000") == "6700"


# The life cycle


@pytest.mark.parametrize(
    ("before", "status"),
    [
        ([], "6982"),
        ([WRONG_ADMIN], "6982"),
        ([VERIFY_USER, VERIFY_OTHER], "6982"),
        (["00200081083030303030303030"] * 3, "6982"),
        ([VERIFY_ADMIN], "9000"),
        ([WRONG_ADMIN] * 3, "9000"),
        ([VERIFY_ADMIN, SELECT], "6982"),
    ],
)
def test_termination_needs_the_administrator(before: list[str], status: str) -> None:
    """PW3 verified, or PW3 blocked; else 6982."""
    bench = Bench()
    bench(SELECT, *before)

    assert bench(TERMINATE) == status
    assert bench.flash.terminated is (status == "9000")


def terminated() -> Bench:
    """A card with a key and a name, terminated a moment ago."""
    bench = Bench()
    bench(VERIFY_ADMIN, GENERATE, put(0x5B, b"Backup"), TERMINATE)
    return bench


@pytest.mark.parametrize("apdu", [SELECT, READ, VERIFY_ADMIN, TERMINATE, "00CA004F00", "00CA5F5200", SIGN])
@pytest.mark.parametrize("cut", [False, True])
def test_a_terminated_card_only_says_so(apdu: str, cut: bool) -> None:
    """6285 to everything but ACTIVATE FILE, also after a power cut."""
    bench = terminated()
    if cut:
        bench = Bench(Memory(bench.flash))

    assert bench(apdu) == "6285"


def test_termination_destroys_the_kek_first() -> None:
    """One write: the KEK is gone, the ciphertext still there; the next power-up erases it, and not before."""
    bench = Bench()
    bench(VERIFY_ADMIN, GENERATE)
    sealed = bench.flash.keys[Slot.SIGNATURE].sealed
    bench.memory.writes.clear()

    bench(TERMINATE)
    assert [(flash.kek, flash.keys, flash.remains) for flash in bench.memory.writes] == [(b"", {}, (sealed,))]
    bench(ACTIVATE)
    assert bench.flash.remains == (sealed,)
    bench.card.power_on()
    assert not bench.flash.remains


@pytest.mark.parametrize("cut", [False, True])
def test_activation_completes_the_reset(cut: bool) -> None:
    """The factory state, with the same serial number and a new KEK; also after a power cut in between."""
    bench = terminated()
    if cut:
        bench = Bench(Memory(bench.flash))

    assert bench(ACTIVATE) == "9000"
    assert bench(SELECT) == "9000"
    fresh = Bench()
    for tag in (0x4F, 0x65, 0x6E, 0x7A, 0xC4, 0xC5, 0xDE):
        assert bench.data(tag) == fresh.data(tag)
    assert bench(READ) == "6A88"
    assert [bench(VERIFY_USER), bench(VERIFY_ADMIN)] == ["9000", "9000"]
    assert len(bench.flash.kek) == 32


def test_activation_does_nothing_to_an_active_card() -> None:
    """9000, and everything is as it was."""
    bench = Bench()
    bench(VERIFY_ADMIN, put(0x5B, b"Backup"))

    assert bench(ACTIVATE) == "9000"
    assert bench.data(0x5B) == b"Backup"


@pytest.mark.parametrize("apdu", [TERMINATE, put(0x5B, b"x"), GENERATE, WRONG_ADMIN])
def test_what_cannot_be_kept_did_not_happen(apdu: str) -> None:
    """With a full disk below it the card answers 6581 and is as before."""
    bench = Bench()
    bench(VERIFY_ADMIN)
    before = bench.card.memory.flash
    bench.memory.full = True

    assert bench(apdu) == "6581"
    assert bench.card.memory.flash == before


def test_a_card_that_cannot_erase_what_is_left_does_not_start() -> None:
    """The ciphertext of a terminated card is erased before anything else is done."""
    memory = Memory(terminated().flash, full=True)
    card = OpenPgpCard(memory.flash, memory.save)

    with pytest.raises(Refused):
        card.power_on()


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                lambda ins, rest: bytes([0, ins]) + rest, st.integers(0, 255), st.binary(min_size=2, max_size=30)
            ),
        ),
        max_size=8,
    )
)
def test_no_bytes_break_the_card(apdus: list[bytes]) -> None:
    """Whatever comes is answered with a status word, and the card can be written down."""
    bench = Bench(Memory(OpenPgpFlash.new("00667788")))
    bench(VERIFY_ADMIN)
    for apdu in apdus:
        assert len(bench.card.transmit(apdu)) >= 2
