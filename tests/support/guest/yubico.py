# SPDX-License-Identifier: Apache-2.0
"""Runs on the appliance, as root: what Yubico's own package finds on the YubiHSM 2 that is plugged in, over libusb.

The passwords that are tried are its input, one a line, so that no list of processes has them.
"""

import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256
from yubihsm.backends.usb import UsbBackend
from yubihsm.core import AuthSession, YubiHsm
from yubihsm.exceptions import YubiHsmAuthenticationError
from yubihsm.objects import AsymmetricKey

MESSAGE = b"a backup"


def signs(key: AsymmetricKey) -> bool:
    """Whether the device signs with the private half of the public key that it tells."""
    try:
        key.get_public_key().verify(key.sign_ecdsa(MESSAGE), MESSAGE, ECDSA(SHA256()))  # type: ignore[no-untyped-call]  # theirs
    except InvalidSignature:
        return False
    return True


def contents(session: AuthSession) -> dict[str, list[str]]:
    """The labels of all objects, and of the keys that can be used."""
    found = session.list_objects()
    return {
        "objects": [str(entry.get_info().label) for entry in found],
        "usable": [str(entry.get_info().label) for entry in found if isinstance(entry, AsymmetricKey) and signs(entry)],
    }


def opened(hsm: YubiHsm, password: str) -> dict[str, list[str]] | None:
    """What is behind a password of the authentication key 1; None when it is not its."""
    try:
        with hsm.create_session_derived(1, password) as session:
            return contents(session)
    except YubiHsmAuthenticationError:
        return None


if __name__ == "__main__":
    with YubiHsm(UsbBackend(timeout=10)) as hsm:
        print(json.dumps([opened(hsm, password) for password in sys.stdin.read().splitlines()]))
