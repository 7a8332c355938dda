# SPDX-License-Identifier: Apache-2.0
"""Our PKCS#11 driver resets the one token that a module shows: python -m tests.support.module_reset MODULE USB_SERIAL.

The SO PIN is read from standard input. What the driver found before and after is printed, one JSON object a line, and
between them what the reset came to.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from appliance.config import LibrarySettings
from appliance.errors import DeviceError
from appliance.hsm.drivers.pkcs11 import Pkcs11Driver
from appliance.hsm.model import Probe, Secret
from tests.support.fake_driver import attachment
from tests.support.luna_house import USB_IDS, Plugs


def reset(module: Path, usb_serial: str, so_pin: str) -> tuple[Probe, str, Probe]:
    """What the driver finds before and right after, and the trouble with the reset."""
    place = attachment("1-1.2", 7, usb_serial)
    plugs = Plugs(place)
    driver = Pkcs11Driver(plugs, [LibrarySettings(module, tuple(USB_IDS))])
    trouble = ""
    with driver.open(place) as connection:
        before = connection.probe()
        try:
            connection.factory_reset(lambda _: None, Secret(so_pin))
        except DeviceError as problem:
            trouble = f"{type(problem).__name__}: {problem}"
        return before, trouble, connection.probe()


def _lines(found: tuple[Probe, str, Probe]) -> Iterator[str]:
    for part in found:
        yield json.dumps(part if isinstance(part, str) else dataclasses.asdict(part))


if __name__ == "__main__":
    print(*_lines(reset(Path(sys.argv[1]), sys.argv[2], sys.stdin.readline().strip())), sep="\n")
