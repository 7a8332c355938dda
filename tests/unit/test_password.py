# SPDX-License-Identifier: Apache-2.0
"""Passwords: the verifier of RFC 7914 and the vendor's rule for new ones."""

import tracemalloc
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.accounts.password import INITIAL, INITIAL_VERIFIER, NOBODY, POLICY_TEXT, Verifier, check, make, policy

CHEAP = Verifier(salt=b"NaCl", hash=b"", n=16, r=1, p=1)


@pytest.mark.parametrize(
    ("password", "salt", "n", "r", "p", "begins"),
    [
        ("", b"", 16, 1, 1, "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442"),
        ("password", b"NaCl", 1024, 8, 16, "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"),
        (
            "pleaseletmein",
            b"SodiumChloride",
            16384,
            8,
            1,
            "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2",
        ),
    ],
)
def test_the_hash_is_scrypt(password: str, salt: bytes, n: int, r: int, p: int, begins: str) -> None:
    """The vectors of RFC 7914, section 12, are accepted (the first half: the hash is 32 bytes long)."""
    assert check(Verifier(salt, bytes.fromhex(begins), n, r, p), password)
    assert not check(Verifier(salt, bytes.fromhex(begins), n, r, p), password + " ")


def test_a_verifier_accepts_its_password_alone() -> None:
    """What was made of a password accepts it, and nothing like it."""
    verifier = make("correct Horse 7 battery")

    assert check(verifier, "correct Horse 7 battery")
    for wrong in ("correct horse 7 battery", "correct Horse 7 batter", "correct Horse 7 battery ", ""):
        assert not check(verifier, wrong)


def test_a_new_verifier_has_the_documented_cost() -> None:
    """The cost is 32 MiB, the salt has 16 bytes of its own and the hash 32."""
    one, two = make("a"), make("a")

    assert (one.n, one.r, one.p) == (32768, 8, 1)
    assert (len(one.salt), len(one.hash)) == (16, 32)
    assert one.salt != two.salt
    assert one.hash != two.hash


def test_the_initial_verifier_is_of_the_initial_password() -> None:
    """The verifier that every appliance starts with accepts the initial password, at the cost of a new one."""
    assert check(INITIAL_VERIFIER, INITIAL)
    assert (INITIAL_VERIFIER.n, INITIAL_VERIFIER.r, INITIAL_VERIFIER.p) == (NOBODY.n, NOBODY.r, NOBODY.p)


def test_nobody_costs_what_everybody_costs() -> None:
    """The stand-in for an unknown user has the cost of a new verifier, and no password."""
    verifier = make("a")

    assert replace(verifier, salt=bytes(16), hash=bytes(32)) == NOBODY
    assert not check(NOBODY, "a")
    assert not check(NOBODY, "")


def test_a_verifier_does_not_show_itself() -> None:
    """Neither salt nor hash is in the text of a verifier: that text may reach a log."""
    verifier = make("a")

    assert repr(verifier) == "Verifier(n=32768, r=8, p=1)"


def test_the_whole_password_counts() -> None:
    """256 characters are as good as eight: the last one makes a difference."""
    verifier = make("x" * 255 + "y")

    assert check(verifier, "x" * 255 + "y")
    assert not check(verifier, "x" * 255 + "z")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Z\u00fcrich", "Zu\u0308rich"),  # composed and decomposed
        ("\u212bngstr\u00f6m", "\u00c5ngstr\u00f6m"),  # the sign for angstrom and the letter
        ("\uff30\uff49\uff4e", "Pin"),  # full width
    ],
)
def test_the_same_characters_are_the_same_password(one: str, other: str) -> None:
    """How a keyboard composes a character does not matter (NFKC)."""
    assert check(make(one), other)


@given(raw=st.binary(max_size=300))
@settings(max_examples=50)
def test_any_bytes_can_be_typed(raw: bytes) -> None:
    """Bytes that are no UTF-8 are no error."""
    assert not check(CHEAP, raw.decode("utf-8", "surrogateescape"))


def test_bytes_that_are_no_text_count() -> None:
    """A password with such bytes is accepted, and it is another one with others of them."""
    verifier = make(b"caf\xe9".decode("utf-8", "surrogateescape"))

    assert check(verifier, b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert not check(verifier, b"caf\xe8".decode("utf-8", "surrogateescape"))
    assert not check(verifier, "caf?")


def test_the_memory_is_given_back() -> None:
    """Checking a password leaves nothing behind that grows."""
    tracemalloc.start()
    try:
        check(NOBODY, "a")
        before = tracemalloc.get_traced_memory()[0]
        check(NOBODY, "a")
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert after - before < 10_000


OLD = make("Old horse battery 7 !")

SHORT = "The password must be at least 8 characters long."
LONG = "The password must be at most 256 characters long."
CLASSES = "The password must have characters from at least 3 of the 4 classes."
INITIAL_AGAIN = "The initial password cannot be used again."
NAME = "The password must not contain the user name."
EASY = "The password is too easy to guess."
SAME = "The new password must differ from the current one."


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        # Length.
        ("", SHORT),
        ("aB3$xyz", SHORT),
        ("aB3$xyzw", ""),
        ("aB3$" + "xyzwvu" * 42, ""),
        ("aB3$" + "xyzwvu" * 42 + "t", LONG),
        ("aB3$xyz\u0301", SHORT),  # eight code points that are seven characters
        # Three of four classes; a capital that begins and a digit that ends do not count.
        ("horsebattery", CLASSES),
        ("horse battery", CLASSES),
        ("horse7battery", CLASSES),
        ("horse 7 battery", ""),
        ("horse7Battery", ""),
        ("horse Battery", ""),
        ("Horse battery", CLASSES),
        ("Horse 7 battery", ""),
        ("Horsebattery7", CLASSES),
        ("HorseBattery7", CLASSES),
        ("HorseBattery7!", ""),
        ("HorseBattery77", ""),
        ("horse battery7", CLASSES),
        ("HORSE BATTERY", CLASSES),
        ("horse\u00c9tage 1", ""),  # letters beyond ASCII have their case
        ("horse7\udcff\udcfe", ""),  # bytes that are no UTF-8 are other characters
        # What anybody tries first.
        (INITIAL, INITIAL_AGAIN),
        ("\uff30ASSWORD", INITIAL_AGAIN),
        ("xAdmin 7!", NAME),
        ("ADMIN aB3$xyz", NAME),
        ("aB3$\uff41dmin", NAME),
        ("P@ssw0rd", EASY),
        ("Password123!", EASY),
        ("pa$$w0rd1!", EASY),
        ("Changeme1!", EASY),
        ("1qaz2WSX", EASY),
        ("Safenet2024!", EASY),
        ("aA1aA1aA1", EASY),
        # The current one.
        ("Old horse battery 7 !", SAME),
        ("Old horse battery 7 ?", ""),
    ],
)
def test_a_new_password_meets_the_rule(new: str, sentence: str) -> None:
    """A new password is accepted, or refused with one sentence that says why."""
    assert policy("admin", new, OLD) == sentence


@given(new=st.text(st.characters(codec=None, exclude_categories=()), max_size=300))
@settings(max_examples=200)
def test_the_rule_has_a_word_for_everything(new: str) -> None:
    """Any text is accepted or refused; what is accepted is long enough, and no reason quotes the password."""
    old = Verifier(b"NaCl", bytes(32), n=16, r=1)

    sentence = policy("admin", new, old)

    assert sentence in ("", SHORT, LONG, CLASSES, INITIAL_AGAIN, NAME, EASY, SAME)
    assert sentence or 8 <= len(unicodedata.normalize("NFKC", new)) <= 256


def test_the_rule_is_shown_in_the_vendors_words() -> None:
    """The paragraph before the new password is the vendor's, line by line (Luna SA 5.x, first login)."""
    assert POLICY_TEXT.splitlines() == [
        "A valid password should be a mix of upper and lower case letters,",
        "digits, and other characters. You can use an 8 character long",
        "password with characters from at least 3 of these 4 classes.",
        "An upper case letter that begins the password and a digit that",
        "ends it do not count towards the number of character classes used.",
    ]
