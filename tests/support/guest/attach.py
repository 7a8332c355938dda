# SPDX-License-Identifier: Apache-2.0
"""Runs on the appliance, as root: plugs devices into its kernel as usbip(8) does, many of them in one go.

``usbip attach`` takes half a second for each under emulation, and fails while the kernel is at work on another one.
Of many that come at once the kernel enumerates some a second time, seconds later; hence the choice. A device that has
restarted is plugged in where it was. The port of each device is printed.
"""

import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

VHCI = Path("/sys/devices/platform/vhci_hcd.0")
FREE, USED = "004", "006"  # a port's state: nothing is plugged in, what is plugged in has its address
MOST_LOOKS = 10_000
IMPORT = struct.Struct("!HHI32s")  # version, request, status, bus id
VERSION, REQUEST = 0x0111, 0x8003
ANSWER = struct.Struct("!HHI256s32sIII12s")  # version, reply, status, path, bus id, bus, device, speed, ids


def ports(wanted: str) -> Iterator[str]:
    """The numbers of the ports for full and high speed that are in a state."""
    for status in sorted(VHCI.glob("status*")):
        for line in status.read_text().splitlines():
            hub, port, state, *_ = line.split()
            if (hub, state) == ("hs", wanted):
                yield port


def await_state(port: str, state: str) -> None:
    """The kernel has begun to talk to what is plugged in, or is done with what was."""
    for _ in range(MOST_LOOKS):
        if port in ports(state):
            return
        time.sleep(0.02)  # the kernel tells nobody
    sys.exit(f"port {port} does not come to state {state}")


def attach(server: tuple[str, int], bus_id: str, port: str) -> None:
    """Import one device and hand its connection to the kernel, as usbip_protocol.rst of the kernel says."""
    with socket.create_connection(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(IMPORT.pack(VERSION, REQUEST, 0, bus_id.encode()))
        answer = connection.recv(ANSWER.size, socket.MSG_WAITALL)
        _, _, status, _, _, bus, device, speed, _ = ANSWER.unpack(answer.ljust(ANSWER.size, b"\xff"))
        if status:
            sys.exit(f"{bus_id} is not exported")
        (VHCI / "attach").write_text(f"{port} {connection.fileno()} {bus << 16 | device} {speed}")


if __name__ == "__main__":
    how, host, number, *wanted = sys.argv[1:]
    if how == "again":
        *wanted, was = wanted
        await_state(was, FREE)
        free = [was]
    else:
        free = [*ports(FREE)]
    if len(free) < len(wanted):
        sys.exit(f"only {len(free)} ports are free")
    for bus_id, port in zip(wanted, free, strict=False):
        attach((host, int(number)), bus_id, port)
        print(port)
        if how != "at-once":
            await_state(port, USED)
