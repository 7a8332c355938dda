# SPDX-License-Identifier: Apache-2.0
"""A simulated PKCS#11 token, and a simulated Luna HSM, message by message, and in their files."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as some

from appliance.errors import ApplianceError, StateError
from appliance.simulator.descriptors import Level
from appliance.simulator.families import LUNA, PKCS11, load, new_token, remnant
from appliance.simulator.faults import Fault, Misdeed
from appliance.simulator.memory import dump
from appliance.simulator.pkcs11_card import MOST_ACCESSES, Code, LunaCard, Pkcs11Card
from appliance.simulator.pkcs11_flash import MOST_OBJECTS, SO_PIN_IN_USE, USER_PIN_IN_USE, LunaFlash, Pkcs11Flash
from appliance.simulator.pkcs11_objects import P256, Attribute, Failure

SO_PIN, PIN = SO_PIN_IN_USE.encode(), USER_PIN_IN_USE.encode()
NOBODY = bytes(16)  # an access that was never given out
HASH = bytes(range(32))
LABEL = b"vault".ljust(32)

# Flags of a token
LOGIN_REQUIRED, USER_PIN_SET, INITIALISED = 0x04, 0x08, 0x400
USER_LOW, USER_FINAL, USER_LOCKED = 0x10000, 0x20000, 0x40000
SO_LOW, SO_FINAL, SO_LOCKED = 0x100000, 0x200000, 0x400000
IN_USE = LOGIN_REQUIRED | USER_PIN_SET | INITIALISED


class Bench:
    """A card, what it remembers, and what it says: an answer's data, or the failure."""

    def __init__(self, flash: Pkcs11Flash) -> None:
        self.flash = flash
        self.full = False
        self.card = LunaCard(flash, self._save) if isinstance(flash, LunaFlash) else Pkcs11Card(flash, self._save)

    def __call__(self, code: int, *parts: bytes) -> bytes | Failure:
        data = b"".join(parts)
        answer = self.card.transmit(bytes([code]) + len(data).to_bytes(2, "big") + data)
        assert len(answer) == 3 + int.from_bytes(answer[1:3], "big")
        if answer[0] == 0x7F:
            return Failure(*struct.unpack("<I", answer[3:]))
        assert answer[0] == code | 0x80
        return answer[3:]

    def login(self, who: int = 1, pin: bytes = PIN) -> bytes:
        """The access of somebody who knows the PIN."""
        access = self(Code.LOGIN, bytes([who]), pin)
        assert isinstance(access, bytes)
        return access

    def so(self) -> bytes:
        """That of the security officer."""
        return self.login(0, SO_PIN)

    @property
    def flags(self) -> int:
        """What the token says of itself."""
        info = self(Code.TOKEN_INFO)
        assert isinstance(info, bytes)
        return int(struct.unpack_from("<I", info, 64)[0])

    def found(self, access: bytes, template: bytes = b"") -> tuple[int, ...]:
        """The handles."""
        handles = self(Code.FIND_OBJECTS, access, template)
        assert isinstance(handles, bytes)
        return struct.unpack(f"<{len(handles) // 4}I", handles)

    def _save(self, flash: Pkcs11Flash) -> None:
        if self.full:
            raise StateError(Path("a.token"), "cannot be written: No space left on device")
        self.flash = flash


def number(*values: int) -> bytes:
    """As messages have them."""
    return struct.pack(f"<{len(values)}I", *values)


def template(**attributes: bytes) -> bytes:
    """Attributes by their names."""
    return b"".join(number(Attribute[name], len(value)) + value for name, value in attributes.items())


def pair(public: bytes, private: bytes = b"") -> bytes:
    """The templates of a key pair."""
    return number(len(public)) + public + private


IN_USE_FLASHES = {"pkcs11": Pkcs11Flash.new("A4711").with_keys(2), "luna": LunaFlash.new("496771").with_keys(2)}
each_flash = pytest.mark.parametrize("flash", IN_USE_FLASHES.values(), ids=IN_USE_FLASHES)


@pytest.fixture
def bench() -> Bench:
    """A token in use, with two key pairs: 1 and 2, 3 and 4, the public half first."""
    return Bench(IN_USE_FLASHES["pkcs11"])


@pytest.fixture
def luna() -> Bench:
    """A Luna in use."""
    return Bench(IN_USE_FLASHES["luna"])


# Who it is


@pytest.mark.parametrize(
    ("flash", "label", "model", "serial", "flags", "lengths"),
    [
        (IN_USE_FLASHES["pkcs11"], b"in use", b"Simulated", b"A4711", IN_USE, (4, 32)),
        (Pkcs11Flash.new("A4711"), b"", b"Simulated", b"A4711", LOGIN_REQUIRED, (4, 32)),
        (IN_USE_FLASHES["luna"], b"in use", b"Simulated Luna", b"0000496771", IN_USE, (7, 255)),
        (LunaFlash.new("496771"), b"", b"Simulated Luna", b"0000496771", LOGIN_REQUIRED, (7, 255)),
    ],
    ids=["pkcs11 in use", "pkcs11", "luna in use", "luna"],
)
def test_who_it_is(
    flash: Pkcs11Flash, label: bytes, model: bytes, serial: bytes, flags: int, lengths: tuple[int, int]
) -> None:
    """Label, model, serial number, flags, the lengths of PINs, and the firmware's version."""
    info = Bench(flash)(Code.TOKEN_INFO)

    assert isinstance(info, bytes)
    told = struct.unpack("<32s16s16sIBBBBB", info)
    assert [text.rstrip(b"\0") for text in told[:3]] == [label, model, serial]
    assert told[3:] == (flags, *lengths, 1, 2, 3)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "01",
        "0100",
        "010001",
        "01000000",
        "EE0000",
        "030000",
        "0300020500",
        "12001000000000000000000000000000000000",
    ],
)
@each_flash
def test_what_means_nothing_is_refused(flash: Pkcs11Flash, message: str) -> None:
    """With an error; nothing changes."""
    bench = Bench(flash)

    assert bench.card.transmit(bytes.fromhex(message))[:3] == b"\x7f\0\4"
    assert bench.flash is flash


@given(message=some.binary(max_size=64), code=some.sampled_from(sorted(Code)), logged_in=some.booleans())
@each_flash
def test_rubbish_is_answered(flash: Pkcs11Flash, message: bytes, code: int, logged_in: bool) -> None:
    """Whatever follows a command: the card neither fails nor keeps anything but a counter of its PINs."""
    bench = Bench(flash)
    access = bench.login() if logged_in else b""
    bench.card.transmit(message)
    if code != Code.FACTORY_RESET:
        bench(code, access, message)

    if message[:1] != bytes([Code.FACTORY_RESET]):
        assert replace(bench.flash, so_pin=flash.so_pin, user_pin=flash.user_pin) == flash


@pytest.mark.parametrize("code", list(Code))
def test_commands_have_names(bench: Bench, code: Code) -> None:
    """By which faults are put; what it does not know has none."""
    assert bench.card.name_of(bytes([code, 0, 0])) == code.name.replace("_", " ")
    assert (bench.card.name_of(b"\xee\0\0"), bench.card.name_of(b"")) == ("", "")


# PINs


def test_wrong_so_pins_are_counted_and_lock_it() -> None:
    """The flags say so before; locked, it takes the right one neither, and a right one before gives all tries back."""
    bench = Bench(replace(IN_USE_FLASHES["pkcs11"]))
    flags = []
    for _ in range(10):
        flags.append(bench.flags - IN_USE)
        told = bench(Code.LOGIN, b"\0", b"wrong")
    assert flags == [0, *[SO_LOW] * 8, SO_LOW | SO_FINAL]
    assert (told, bench.flags - IN_USE) == (Failure.PIN_LOCKED, SO_LOCKED)
    assert bench(Code.LOGIN, b"\0", SO_PIN) == Failure.PIN_LOCKED
    assert bench(Code.INIT_TOKEN, LABEL, SO_PIN) == Failure.PIN_LOCKED

    again = Bench(IN_USE_FLASHES["pkcs11"])
    assert again(Code.LOGIN, b"\0", b"wrong") == Failure.PIN_INCORRECT
    again.so()
    assert again.flags == IN_USE


def test_wrong_user_pins_are_counted_and_lock_it(bench: Bench) -> None:
    """Until the security officer sets another one; the keys are still there then."""
    flags = []
    for _ in range(3):
        flags.append(bench.flags - IN_USE)
        told = bench(Code.LOGIN, b"\1", b"wrong")

    assert flags == [0, USER_LOW, USER_LOW | USER_FINAL]
    assert (told, bench.flags - IN_USE) == (Failure.PIN_LOCKED, USER_LOCKED)
    assert bench(Code.LOGIN, b"\1", PIN) == Failure.PIN_LOCKED
    assert bench(Code.INIT_PIN, bench.so(), b"another") == b""
    assert bench.found(bench.login(pin=b"another")) == (1, 2, 3, 4)


@pytest.mark.parametrize("command", [(Code.LOGIN, b"\0"), (Code.INIT_TOKEN, LABEL)], ids=["login", "init"])
def test_the_third_wrong_so_pin_zeroizes_a_luna(luna: Bench, command: tuple[Code, bytes]) -> None:
    """As on the vendor's; the KEK is another one."""
    told = [luna(*command, b"wrong-pin") for _ in range(3)]

    assert told == [Failure.PIN_INCORRECT, Failure.PIN_INCORRECT, Failure.SO_LOGIN_FAILURE_THRESHOLD]
    assert luna.flags == LOGIN_REQUIRED
    assert luna.flash.kek != IN_USE_FLASHES["luna"].kek
    assert not luna.flash.keys


def test_a_try_is_spent_before_it_is_told(bench: Bench) -> None:
    """A card that cannot write refuses, also the right PIN where the counter must go back; nothing changes."""
    bench.full = True
    before = bench.flash

    assert bench(Code.LOGIN, b"\0", b"wrong") == Failure.DEVICE_ERROR
    assert bench(Code.INIT_TOKEN, LABEL, SO_PIN) == Failure.DEVICE_ERROR
    assert bench.card.memory.flash == bench.flash == before


@pytest.mark.parametrize(
    ("who", "failure"),
    [(b"\0", Failure.USER_TYPE_INVALID), (b"\1", Failure.USER_PIN_NOT_INITIALIZED), (b"\5", Failure.USER_TYPE_INVALID)],
)
def test_nobody_logs_in_to_a_new_token(who: bytes, failure: Failure) -> None:
    """There is no PIN yet, and none that is right."""
    assert Bench(Pkcs11Flash.new("A4711"))(Code.LOGIN, who, b"") == failure


@pytest.mark.parametrize(
    ("length", "result"),
    [(3, Failure.PIN_LEN_RANGE), (4, b""), (32, b""), (33, Failure.PIN_LEN_RANGE)],
)
def test_pins_have_a_length(bench: Bench, length: int, result: object) -> None:
    """The user's, and the SO PIN of a new token."""
    pin = b"1" * length

    assert bench(Code.INIT_PIN, bench.so(), pin) == result
    assert Bench(Pkcs11Flash.new("A4711"))(Code.INIT_TOKEN, LABEL, pin) == result


def test_the_first_so_pin_is_the_one(bench: Bench) -> None:
    """A new token takes it; from then on another costs a try."""
    new = Bench(Pkcs11Flash.new("A4711"))

    assert new(Code.INIT_TOKEN, LABEL, b"my so pin") == b""
    assert new.flash.label == "vault"
    assert new(Code.INIT_TOKEN, LABEL, b"another") == Failure.PIN_INCORRECT
    assert new.flags == LOGIN_REQUIRED | INITIALISED | SO_LOW


# Who has logged in


def test_an_access_ends(bench: Bench) -> None:
    """By a logout, by the token's initialisation, without power."""
    ends: list[Callable[[bytes], object]] = [
        lambda access: bench(Code.LOGOUT, access),
        lambda _: bench.card.power_off(),
        lambda _: bench(Code.INIT_TOKEN, LABEL, SO_PIN),
    ]
    for end in ends:
        access = bench.so()
        end(access)
        assert bench(Code.LOGOUT, access) == Failure.USER_NOT_LOGGED_IN


def test_of_too_many_accesses_the_oldest_ends(bench: Bench) -> None:
    """So that libraries that ended without a logout take up no room."""
    accesses = [bench.login() for _ in range(MOST_ACCESSES + 1)]

    assert [len(bench.found(access)) for access in accesses] == [2, *[4] * MOST_ACCESSES]


@pytest.mark.parametrize("who", ["nobody", "so"])
def test_private_keys_are_the_users(bench: Bench, who: str) -> None:
    """Nobody else sees, uses, makes or destroys one, the security officer neither."""
    access = NOBODY if who == "nobody" else bench.so()

    assert bench.found(access) == (1, 3)
    assert bench(Code.GET_ATTRIBUTE, access, number(2, Attribute.LABEL)) == Failure.OBJECT_HANDLE_INVALID
    assert bench(Code.SIGN, access, number(2), HASH) == Failure.OBJECT_HANDLE_INVALID
    assert bench(Code.DESTROY_OBJECT, access, number(2)) == Failure.OBJECT_HANDLE_INVALID
    assert bench(Code.DESTROY_OBJECT, access, number(1)) == Failure.USER_NOT_LOGGED_IN
    assert bench(Code.GENERATE_KEY_PAIR, access, pair(template(EC_PARAMS=P256))) == Failure.USER_NOT_LOGGED_IN
    assert bench.flash.keys == IN_USE_FLASHES["pkcs11"].keys


def test_the_user_is_no_security_officer(bench: Bench) -> None:
    """He sets no PIN."""
    assert bench(Code.INIT_PIN, bench.login(), b"another") == Failure.USER_NOT_LOGGED_IN


# Objects


def test_a_key_is_made_found_used_and_destroyed(bench: Bench) -> None:
    """The public half verifies what the private half signs; no object takes another's handle."""
    user = bench.login()
    mine = template(LABEL=b"mine", ID=b"\x77")
    made = bench(Code.GENERATE_KEY_PAIR, user, pair(mine + template(EC_PARAMS=P256), mine))
    assert made == number(5, 6)
    assert bench.found(user, mine) == (5, 6)
    assert bench.found(user, template(CLASS=struct.pack("<Q", 3))) == (2, 4, 6)
    assert bench.found(user, template(LABEL=b"yours")) == ()

    point, signature = (
        bench(Code.GET_ATTRIBUTE, user, number(5, Attribute.EC_POINT)),
        bench(Code.SIGN, user, number(6), HASH),
    )
    assert isinstance(point, bytes)
    assert isinstance(signature, bytes)
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point[2:])
    halves = (int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    public.verify(encode_dss_signature(*halves), HASH, ec.ECDSA(Prehashed(SHA256())))

    assert bench(Code.DESTROY_OBJECT, user, number(6)) == b""
    assert bench(Code.SIGN, user, number(6), HASH) == Failure.OBJECT_HANDLE_INVALID
    assert bench.found(user) == (1, 2, 3, 4, 5)
    assert list(bench.flash.keys) == [2, 4]


@pytest.mark.parametrize(
    ("handle", "kind", "told"),
    [
        (1, Attribute.LABEL, b"key 1"),
        (2, Attribute.LABEL, b"key 1"),
        (2, Attribute.ID, b"\1"),
        (2, Attribute.SENSITIVE, b"\1"),
        (2, Attribute.EXTRACTABLE, b"\0"),
        (2, Attribute.VALUE, Failure.ATTRIBUTE_SENSITIVE),
        (1, Attribute.VALUE, Failure.ATTRIBUTE_TYPE_INVALID),
        (1, 0x4711, Failure.ATTRIBUTE_TYPE_INVALID),
        (9, Attribute.LABEL, Failure.OBJECT_HANDLE_INVALID),
    ],
)
def test_what_is_told_of_an_object(bench: Bench, handle: int, kind: int, told: object) -> None:
    """Never a private key's value."""
    assert bench(Code.GET_ATTRIBUTE, bench.login(), number(handle, kind)) == told


@pytest.mark.parametrize(
    ("code", "data", "failure"),
    [
        (Code.GENERATE_KEY_PAIR, pair(b""), Failure.CURVE_NOT_SUPPORTED),
        (Code.GENERATE_KEY_PAIR, pair(template(EC_PARAMS=b"\6\5+\x81\4\0\x22")), Failure.CURVE_NOT_SUPPORTED),
        (Code.GENERATE_KEY_PAIR, b"", Failure.ARGUMENTS_BAD),
        (Code.FIND_OBJECTS, number(0, 5), Failure.ARGUMENTS_BAD),
        (Code.SIGN, number(2) + bytes(31), Failure.DATA_LEN_RANGE),
        (Code.SIGN, number(1) + HASH, Failure.OBJECT_HANDLE_INVALID),
        (Code.DESTROY_OBJECT, number(9), Failure.OBJECT_HANDLE_INVALID),
    ],
)
def test_what_it_cannot_do_is_refused(bench: Bench, code: Code, data: bytes, failure: Failure) -> None:
    """Other curves, hashes of other lengths, keys that are none."""
    assert bench(code, bench.login(), data) == failure


def test_its_room_is_bounded(bench: Bench) -> None:
    """By a number of objects."""
    key = next(iter(bench.flash.public_keys.values()))
    full = replace(bench.flash, public_keys=dict.fromkeys(range(10, 10 + MOST_OBJECTS), key))
    other = Bench(full)

    made = other(Code.GENERATE_KEY_PAIR, other.login(), pair(template(EC_PARAMS=P256)))

    assert made == Failure.DEVICE_MEMORY


@each_flash
def test_a_reset_leaves_nothing(flash: Pkcs11Flash) -> None:
    """The number and the faults stay; the KEK is another one, so that nothing that was sealed can be opened."""
    bench = Bench(flash.with_faults((Fault(Misdeed.BUSY),)))
    done = bench(Code.FACTORY_RESET) if isinstance(flash, LunaFlash) else bench(Code.INIT_TOKEN, LABEL, SO_PIN)
    left = bench.flash

    assert done == b""
    assert (left.serial, left.faults) == (flash.serial, (Fault(Misdeed.BUSY),))
    assert (left.keys, left.public_keys, left.user_pin.length) == ({}, {}, 0)
    assert left.kek != flash.kek
    old = Bench(replace(left, keys=flash.keys, user_pin=flash.user_pin))
    assert old(Code.SIGN, old.login(), number(2), HASH) == Failure.DEVICE_ERROR


def test_only_a_luna_has_a_factory_reset(bench: Bench) -> None:
    """Another token does not know it."""
    assert bench(Code.FACTORY_RESET) == Failure.FUNCTION_NOT_SUPPORTED


# Its file


@each_flash
def test_everything_comes_back(flash: Pkcs11Flash) -> None:
    """`load` is the inverse of `dump`; of a damaged file the number is left."""
    faulty = flash.with_faults((Fault(Misdeed.HANG, at="INIT TOKEN"),))

    assert load(dump(faulty)) == faulty
    assert remnant(dump(faulty)) == (LUNA if isinstance(flash, LunaFlash) else PKCS11, flash.serial)
    assert flash.level is Level.VENDOR


@each_flash
def test_no_pin_stands_in_the_file(flash: Pkcs11Flash) -> None:
    """Neither as it is nor in hexadecimal digits."""
    text = dump(flash).decode()

    assert [pin.decode() in text or pin.hex() in text for pin in (SO_PIN, PIN)] == [False, False]


def damaged(**changes: Any) -> bytes:
    """A file with something else in it."""
    return json.dumps(json.loads(dump(IN_USE_FLASHES["pkcs11"])) | changes).encode()


@pytest.mark.parametrize(
    "contents",
    [
        damaged(serial="A-1"),
        damaged(serial="a4711"[:0]),
        damaged(kek="00"),
        damaged(label=7),
        damaged(label="\ud800"),
        damaged(so_pin={}),
        damaged(so_pin={"tries": 11, "length": 4, "salt": "", "digest": ""}),
        damaged(user_pin={"tries": 4, "length": 4, "salt": "", "digest": ""}),
        damaged(keys={"x": {}}),
        damaged(keys=[]),
        damaged(public_keys={"2": {"label": "", "id": "", "point": ""}}),
        damaged(public_keys={"0": {"label": "", "id": "", "point": ""}}),
        damaged(public_keys={"9": {"label": "\ud800", "id": "", "point": ""}}),
    ],
)
def test_a_damaged_file_is_no_token(contents: bytes) -> None:
    """Whatever is wrong in it."""
    with pytest.raises(ValueError, match=r"."):
        load(contents)


@pytest.mark.parametrize(
    ("family", "serial", "kept"),
    [
        ("pkcs11", "a4711", "A4711"),
        ("pkcs11", "0" * 16, "0" * 16),
        ("luna", "496771", "496771"),
        ("luna", "0000496771", "496771"),
        ("pkcs11", "", None),
        ("pkcs11", "0" * 17, None),
        ("pkcs11", "A 1", None),
        ("luna", "A1", None),
        ("luna", "0", None),
        ("luna", "10000000000", None),
    ],
)
def test_serial_numbers(tmp_path: Path, family: str, serial: str, kept: str | None) -> None:
    """Letters and digits, as many as PKCS#11 has room for; of a Luna a decimal number."""
    path = tmp_path / "a.token"
    if kept is None:
        with pytest.raises(ApplianceError, match="The serial number must be"):
            new_token(path, serial, family=family)
    else:
        new_token(path, serial, family=family)
        assert load(path.read_bytes()).serial == kept


def test_a_lie_lasts_until_the_power_is_cut(luna: Bench) -> None:
    """The serial number that a fault makes it say."""
    luna.card.serial = "00112233"
    lie = luna(Code.TOKEN_INFO)
    luna.card.power_on()
    truth = luna(Code.TOKEN_INFO)

    assert isinstance(lie, bytes)
    assert isinstance(truth, bytes)
    assert (lie[48:56], truth[48:58]) == (b"00112233", b"0000496771")
