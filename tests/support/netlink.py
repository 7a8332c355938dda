# SPDX-License-Identifier: Apache-2.0
"""udevd's side of the netlink socket: well-formed messages, multicast to whoever listens in this network namespace."""

import socket
import struct
from collections.abc import Mapping

UDEV_GROUP = 2  # multicast group of processed events; 1 is the kernel's (systemd: device-monitor.c)
_MAGIC = 0xFEEDCAFE


class Udevd:
    """Sends what udevd would send. Needs a network namespace of its own and root in it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)  # NETLINK_KOBJECT_UEVENT
        self._sequence = 0

    def say(self, action: str, port: str) -> None:
        """Announce something about the USB device at a port; dropped silently by a listener whose buffer is full."""
        self._sequence += 1
        device = {"DEVPATH": f"/devices/usb1/{port}", "SUBSYSTEM": "usb", "DEVTYPE": "usb_device"}
        message = _message({"ACTION": action, **device, "SEQNUM": str(self._sequence)})
        self._socket.sendto(message, (0, UDEV_GROUP))

    def close(self) -> None:
        """Fall silent."""
        self._socket.close()


def _message(properties: Mapping[str, str]) -> bytes:
    """A message as libudev takes it: a header with the hashes that its socket filter looks at, then the properties."""
    body = b"".join(f"{name}={value}\0".encode() for name, value in properties.items())
    subsystem, devtype = _hash(properties["SUBSYSTEM"]), _hash(properties["DEVTYPE"])
    return (
        b"libudev\0"
        + struct.pack(">I", _MAGIC)
        + struct.pack("=III", 40, 40, len(body))
        + struct.pack(">IIII", subsystem, devtype, 0, 0)
        + body
    )


def _hash(text: str) -> int:
    """MurmurHash2 with seed 0 (A. Appleby, public domain), 32 bits."""
    data, factor = text.encode(), 0x5BD1E995
    value = len(data)
    whole = len(data) // 4 * 4
    for (chunk,) in struct.iter_unpack("<I", data[:whole]):
        chunk = chunk * factor & 0xFFFFFFFF
        chunk = (chunk ^ chunk >> 24) * factor & 0xFFFFFFFF
        value = value * factor & 0xFFFFFFFF ^ chunk
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * factor & 0xFFFFFFFF
    value = (value ^ value >> 13) * factor & 0xFFFFFFFF
    return value ^ value >> 15
