# SPDX-License-Identifier: Apache-2.0
"""Card-verifiable certificates of EC and RSA keys, as a SmartCard-HSM makes them (BSI TR-03110-3, annex C and D)."""

from collections.abc import Callable

from appliance.simulator.iso7816 import tlv

ECDSA_WITH_SHA256 = tlv(0x06, bytes.fromhex("04007F00070202020203"))
RSA_WITH_SHA256 = tlv(0x06, bytes.fromhex("04007F00070202020102"))
# The curve (FIPS 186-4, D.1.2.3): prime, coefficients, base point, order; cofactor.
PRIME = bytes.fromhex("FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF")
CURVE = (
    (0x81, PRIME),
    (0x82, bytes.fromhex("FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFC")),
    (0x83, bytes.fromhex("5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B")),
    (
        0x84,
        bytes.fromhex(
            "046B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296"
            "4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5"
        ),
    ),
    (0x85, bytes.fromhex("FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551")),
)

CERTIFICATE, BODY, SIGNATURE, REQUEST = 0x7F21, 0x7F4E, 0x5F37, 0x67
PROFILE, AUTHORITY, PUBLIC_KEY, HOLDER = 0x5F29, 0x42, 0x7F49, 0x5F20
# What the certificate of a device allows, from when and until when: a device in a network, from 2020 to 2049.
_VALIDITY = tlv(0x7F4C, tlv(0x06, bytes.fromhex("2B06010401 81C31F030202")) + tlv(0x53, b"\0")) + b"".join(
    tlv(tag, bytes(int(digit) for digit in digits)) for tag, digits in ((0x5F25, "200101"), (0x5F24, "491231"))
)

Sign = Callable[[bytes], bytes]  # what signs the SHA-256 hash of these bytes


def device_certificate(holder: str, point: bytes, sign: Sign) -> bytes:
    """The certificate of a device's own key, which it has signed itself: there is no authority over simulated ones."""
    return _signed(holder, holder, ec_key(point), sign, _VALIDITY)


def ec_key(point: bytes) -> bytes:
    """A public key on the curve."""
    curve = b"".join(tlv(tag, value) for tag, value in CURVE)
    return tlv(PUBLIC_KEY, ECDSA_WITH_SHA256 + curve + tlv(0x86, point) + tlv(0x87, b"\1"))


def rsa_key(modulus: bytes, exponent: bytes) -> bytes:
    """A public RSA key."""
    return tlv(PUBLIC_KEY, RSA_WITH_SHA256 + tlv(0x81, modulus) + tlv(0x82, exponent))


def authenticated_request(holder: str, key: bytes, sign: Sign, device: str, device_sign: Sign) -> bytes:
    """The request for a certificate of a new key: signed by it, and by the device, which so vouches that it made it."""
    inner = _signed(device, holder, key, sign) + tlv(AUTHORITY, device.encode())
    return tlv(REQUEST, inner + tlv(SIGNATURE, device_sign(inner)))


def _signed(authority: str, holder: str, key: bytes, sign: Sign, more: bytes = b"") -> bytes:
    names = tlv(PROFILE, b"\0") + tlv(AUTHORITY, authority.encode()), tlv(HOLDER, holder.encode())
    body = tlv(BODY, names[0] + key + names[1] + more)
    return tlv(CERTIFICATE, body + tlv(SIGNATURE, sign(body)))
