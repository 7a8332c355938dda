# SPDX-License-Identifier: Apache-2.0
"""The data objects of the OpenPGP card, as the "OpenPGP Smart Card Application" specification 3.4, 4.4, has them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto

from appliance.simulator.iso7816 import NO_SUCH_DATA, WRONG_DATA, Refused, tlv
from appliance.simulator.memory import Pin
from appliance.simulator.openpgp_flash import TRIES, OpenPgpFlash, Password, Slot

RID = bytes.fromhex("D27600012401")  # what every OpenPGP card's AID begins with
VERSION = bytes.fromhex("0304")
VENDOR = bytes.fromhex("FFFE")  # for tests, without a registered range of serial numbers

# Category 00; 31: selection by AID; 73: whole and partial AIDs, command chaining, no extended lengths; at the end the
# life-cycle status and 9000. 05: operational, and TERMINATE DF and ACTIVATE FILE are supported.
HISTORICAL = bytes.fromhex("00 31 C5 73 C0 01 80 05 90 00")

# The occurrences of 7F21, in the order in which SELECT DATA counts them: authentication, decryption, signature.
CERTIFICATES = (0x7F21, 0x1_7F21, 0x2_7F21)

LONGEST_PIN = 127
LONGEST_CERTIFICATE = 1024
SHORTEST_PIN = {Password.USER: 6, Password.RESETTING: 8, Password.ADMIN: 8}

_P256 = bytes.fromhex("2A8648CE3D030107")
_ECDH, _ECDSA = b"\x12", b"\x13"

# GET CHALLENGE, key import and the first byte of C4 can be used, private data objects exist, algorithms can be chosen
# (from a list of one, FA); no secure messaging; the longest challenge, certificate and other object; no PIN blocks, no
# MANAGE SECURITY ENVIRONMENT.
_EXTENDED_CAPABILITIES = bytes.fromhex("7C 00 00FF 0400 00FE 00 00")


class Access(Enum):
    """Who may do it."""

    ALWAYS = auto()
    USER = auto()  # PW1 in its second mode (82)
    ADMIN = auto()  # PW3


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may put and get a data object, and how long it may be, in bytes."""

    longest: int
    shortest: int = 0
    put: Access = Access.ADMIN
    get: Access = Access.ALWAYS


RULES: Mapping[int, Rule] = {
    0x005B: Rule(39),  # name
    0x005E: Rule(254),  # login data
    0x0101: Rule(254, put=Access.USER),
    0x0102: Rule(254),
    0x0103: Rule(254, put=Access.USER, get=Access.USER),
    0x0104: Rule(254, get=Access.ADMIN),
    0x5F2D: Rule(8),  # language
    0x5F35: Rule(1),  # salutation
    0x5F50: Rule(254),  # URL
    **{tag: Rule(LONGEST_CERTIFICATE) for tag in CERTIFICATES},
    **{tag: Rule(20, 20) for tag in range(0xC7, 0xCD)},  # fingerprints of the keys and of their CAs
    **{tag: Rule(4, 4) for tag in range(0xCE, 0xD1)},  # when the keys were made
}

_ATTRIBUTES = {0xC1: _ECDSA + _P256, 0xC2: _ECDH + _P256, 0xC3: _ECDSA + _P256}
_CONSTRUCTED = {
    0x65: (0x5B, 0x5F2D, 0x5F35),
    0x6E: (0x4F, 0x5F52, 0x7F66, 0x7F74, 0x73),
    0x73: (0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xCD, 0xDE),
    0x7A: (0x93,),
    0xFA: (0xC1, 0xC2, 0xC3),
}
_CONCATENATED = {0xC5: (0xC7, 0xC8, 0xC9), 0xC6: (0xCA, 0xCB, 0xCC), 0xCD: (0xCE, 0xCF, 0xD0)}
_FIXED = {
    0x5F52: HISTORICAL,
    0x7F66: bytes.fromhex("02 02 00FF 02 02 0100"),  # the longest command and response
    0x7F74: bytes.fromhex("81 01 00"),  # general feature management: there is no button
    0xC0: _EXTENDED_CAPABILITIES,
    **_ATTRIBUTES,
}


def aid(serial: str) -> bytes:
    """The application identifier of a card (4.2.1)."""
    return RID + VERSION + VENDOR + bytes.fromhex(serial) + b"\0\0"


def get(flash: OpenPgpFlash, serial: str, tag: int) -> bytes:
    """What GET DATA answers: a primitive object's value, a constructed one whole (7.2.6). Raises `Refused`."""
    if tag in _CONSTRUCTED:
        return tlv(tag, b"".join(_object(flash, serial, part) for part in _CONSTRUCTED[tag]))
    return _value(flash, serial, tag)


def put(flash: OpenPgpFlash, tag: int, value: bytes) -> OpenPgpFlash:
    """The card's memory with another data object. Raises `Refused`."""
    if tag in RULES:
        if not RULES[tag].shortest <= len(value) <= RULES[tag].longest:
            raise Refused(WRONG_DATA)
        return replace(flash, objects={**flash.objects, tag: value})
    match tag:
        case 0xC4 if len(value) == 1 and value[0] <= 1:
            return replace(flash, many_signatures=value == b"\1")
        case 0xD3 if not value:
            return flash.with_pin(Password.RESETTING, Pin())
        case 0xD3 if SHORTEST_PIN[Password.RESETTING] <= len(value) <= LONGEST_PIN:
            return flash.with_pin(Password.RESETTING, Pin.of(value, TRIES))
        case _ if tag in (0xC4, 0xD3) or (tag in _ATTRIBUTES and value != _ATTRIBUTES[tag]):
            raise Refused(WRONG_DATA)
        case _ if tag in _ATTRIBUTES:
            return flash
        case _:
            raise Refused(NO_SUCH_DATA)


def _object(flash: OpenPgpFlash, serial: str, tag: int) -> bytes:
    return get(flash, serial, tag) if tag in _CONSTRUCTED else tlv(tag, _value(flash, serial, tag))


def _value(flash: OpenPgpFlash, serial: str, tag: int) -> bytes:
    if tag in RULES:
        return flash.objects.get(tag, b"\0" * RULES[tag].shortest)
    match tag:
        case 0x4F:
            return aid(serial)
        case 0x93:
            return flash.signatures.to_bytes(3, "big")
        case 0xC4:
            tries = [flash.pins[name].tries for name in Password]
            return bytes([flash.many_signatures, LONGEST_PIN, LONGEST_PIN, LONGEST_PIN, *tries])
        case 0xC5 | 0xC6 | 0xCD:
            return b"".join(_value(flash, serial, part) for part in _CONCATENATED[tag])
        case 0xDE:
            sources = [key.source if (key := flash.keys.get(slot)) else 0 for slot in Slot]
            return b"".join(bytes([number, source]) for number, source in enumerate(sources, 1))
        case _ if tag in _FIXED:
            return _FIXED[tag]
        case _:
            raise Refused(NO_SUCH_DATA)
