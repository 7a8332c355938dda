# SPDX-License-Identifier: Apache-2.0
"""Runs on the appliance, as root: the vendor's driver of the simulated devices behind a library, over libusb.

A group of users may connect to it, as with the node of a driver in the kernel.
"""

import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from appliance.hsm.usb import UsbBus
from appliance.simulator.vendor_driver import VendorDriver
from appliance.simulator.vendor_library import FAMILIES, socket
from appliance.systemd import notify


def main(folder: str, group: str) -> None:
    """Serve the libraries in `folder` until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    with ExitStack() as running:
        for family in FAMILIES:
            path = socket(Path(folder), family)
            running.enter_context(VendorDriver(UsbBus(), family, path))
            shutil.chown(path, group=group)
            path.chmod(0o660)
        notify(READY=1)
        signal.sigwait([signal.SIGTERM])


if __name__ == "__main__":
    main(*sys.argv[1:])
