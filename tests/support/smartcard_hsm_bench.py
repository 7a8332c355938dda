# SPDX-License-Identifier: Apache-2.0
"""A simulated SmartCard-HSM with power, to which commands are given in hexadecimal digits."""

from dataclasses import dataclass, field
from pathlib import Path

from appliance.errors import StateError
from appliance.simulator.iso7816 import tlv
from appliance.simulator.smartcard_hsm_card import SmartcardHsmCard
from appliance.simulator.smartcard_hsm_flash import SmartcardHsmFlash

SERIAL = "DENK0403514"
SO_PIN, WRONG = "3537363231383830", "0000000000000001"
SELECT = "00A404000BE82B0601040181C31F020100"
ENUMERATE = "80580000000000"
SO_TRIES, USER_TRIES = "00200088", "00200081"
VERIFY, VERIFY_WRONG = "0020008106" + b"648219".hex(), "0020008106" + b"654321".hex()
CERTIFICATE = "00B12F02000004540200000000"
FULL = SmartcardHsmFlash.new(SERIAL).with_keys(2)


def initialize(
    so: str = SO_PIN, user: bytes = b"648219", tries: int = 3, options: str = "0001", shares: str = ""
) -> str:
    """INITIALIZE DEVICE; `shares` is the number of them, "" for a device without a DKEK."""
    parts = [(0x80, bytes.fromhex(options)), (0x81, user), (0x82, bytes.fromhex(so)), (0x91, bytes([tries]))]
    if shares:
        parts.append((0x92, bytes.fromhex(shares)))
    data = b"".join(tlv(*part) for part in parts)
    return f"80500000{len(data):02X}{data.hex()}"


@dataclass
class Bench:
    """A card with power, and the application selected."""

    flash: SmartcardHsmFlash = FULL
    writes: list[SmartcardHsmFlash] = field(default_factory=list)
    full: bool = False

    def __post_init__(self) -> None:
        self.card = SmartcardHsmCard(self.flash, self._save)
        self.card.power_on()
        self(SELECT)

    def _save(self, flash: SmartcardHsmFlash) -> None:
        if self.full:
            raise StateError(Path("a.token"), "cannot be written: No space left on device")
        self.writes.append(flash)
        self.flash = flash

    def __call__(self, *apdus: str) -> str:
        """The last response, in upper-case hexadecimal digits."""
        responses = [self.card.transmit(bytes.fromhex(apdu)) for apdu in apdus]
        return responses[-1].hex().upper()

    def restart(self) -> None:
        """Cut its power, and begin anew with what it keeps."""
        self.__post_init__()
