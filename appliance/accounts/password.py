# SPDX-License-Identifier: Apache-2.0
"""A password is kept as a scrypt verifier (RFC 7914), and a new one has to meet the vendor's rule.

Everything here computes for about a tenth of a second: call it in a worker thread.
"""

import hashlib
import hmac
import secrets
import unicodedata
from dataclasses import dataclass, field

INITIAL = "PASSWORD"  # of every account at the first start; must be changed at the first login
SHORTEST = 8  # characters
LONGEST = 256
POLICY_TEXT = """\
A valid password should be a mix of upper and lower case letters,
digits, and other characters. You can use an 8 character long
password with characters from at least 3 of these 4 classes.
An upper case letter that begins the password and a digit that
ends it do not count towards the number of character classes used."""  # Luna SA 5.x, first login; 6.3 has the same rule

# First guesses: in lower case, without the digits and signs at the end, and with those within turned into letters.
COMMON = frozenset(
    (
        *("password", "passphrase", "changeme", "letmein", "welcome", "default", "secret", "iloveyou", "trustno"),
        *("qwerty", "qwertz", "qwertyuiop", "asdfghjk", "lqaz2wsx", "abcdefgh", "abcd", "administrator", "operator"),
        *("monitor", "appliance", "console", "serial", "thales", "safenet", "gemalto", "luna", "lunash"),
    )
)
_LOOKALIKES = str.maketrans("013457@$!", "oleastasi")


@dataclass(frozen=True, slots=True)
class Verifier:
    """What is kept of a password: the scrypt hash with its salt and its cost (RFC 7914, section 2)."""

    salt: bytes = field(repr=False)
    hash: bytes = field(repr=False)
    n: int = 1 << 15  # 32 MiB with r = 8
    r: int = 8
    p: int = 1


# For a name that nobody has: checking it costs what checking any other does, and no password matches.
NOBODY = Verifier(salt=bytes(16), hash=bytes(32))

# Of the initial password. That one is public, so its verifier may be: the first start need not wait for a computation.
INITIAL_VERIFIER = Verifier(
    salt=b"initial password",
    hash=bytes.fromhex("d6ba60b6237b12499f724a47ed439f38812776f992e44c3fb60379ab951c39b1"),
)


def make(password: str) -> Verifier:
    """A new verifier for `password`, with a salt of its own."""
    salt = secrets.token_bytes(16)
    return Verifier(salt, _scrypt(password, Verifier(salt, b"")))


def check(verifier: Verifier, password: str) -> bool:
    """Whether `verifier` was made of `password`; takes the same time whatever the answer."""
    return hmac.compare_digest(_scrypt(password, verifier), verifier.hash)


def policy(name: str, new: str, old: Verifier) -> str:
    """Why `new` cannot become the password of `name`, in one sentence; "" if it can."""
    new = unicodedata.normalize("NFKC", new)
    if len(new) < SHORTEST:
        return f"The password must be at least {SHORTEST} characters long."
    if len(new) > LONGEST:
        return f"The password must be at most {LONGEST} characters long."
    if new == INITIAL:
        return "The initial password cannot be used again."
    if name.casefold() in new.casefold():
        return "The password must not contain the user name."
    if _guessable(new):
        return "The password is too easy to guess."
    if _classes(new) < 3:
        return "The password must have characters from at least 3 of the 4 classes."
    if check(old, new):
        return "The new password must differ from the current one."
    return ""


def _classes(password: str) -> int:
    """How many of the classes lower case, upper case, digit, other are used where it counts."""
    if password[0].isupper():
        password = password[1:]
    if password[-1].isdecimal():
        password = password[:-1]
    return len({_class(character) for character in password})


def _class(character: str) -> str:
    if character.islower():
        return "lower"
    if character.isupper():
        return "upper"
    return "digit" if character.isdecimal() else "other"


def _guessable(password: str) -> bool:
    core = password.casefold().rstrip("0123456789!?.,;:-_+*#$%&/=@ ").translate(_LOOKALIKES)
    return core in COMMON or len(set(password)) < 4


def _scrypt(password: str, cost: Verifier) -> bytes:
    # NFKC: the same characters, however they were typed. Bytes that are no UTF-8 arrive as surrogates and count, too.
    text = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
    memory = 128 * cost.r * (cost.n + cost.p + 2)  # bytes; OpenSSL refuses more than 32 MiB unless told
    return hashlib.scrypt(text, salt=cost.salt, n=cost.n, r=cost.r, p=cost.p, maxmem=memory, dklen=32)
