# SPDX-License-Identifier: Apache-2.0
"""Endpoint 0 of a simulated device answers the standard requests that concern it, and those of CCID.

Numbers in parentheses are sections of USB 2.0, or of the CCID specification 1.1 where it says so.
"""

from typing import Protocol

from appliance.simulator import descriptors

_ENDPOINT_HALT = 0  # the feature (table 9-6)
_CONTROL = (0x00, 0x80)  # endpoint 0 in both directions: it is never halted
_BULK = (descriptors.OUT, descriptors.IN)
_CCID = descriptors.CCID[descriptors.Level.APDU]  # the readers are alike in what follows
_CLOCK, _DATA_RATE = _CCID[10:14], _CCID[19:23]  # dwDefaultClock, dwDataRate (CCID 5.1)


class ControlledDevice(Protocol):
    """What the requests act on; every method raises `OSError` with ENODEV once the device is gone."""

    looks: descriptors.Looks
    usb_serial: str
    level: descriptors.Level
    configuration: int

    def reset(self) -> None: ...
    def halt(self, endpoint: int) -> None: ...
    def clear_halt(self, endpoint: int) -> None: ...
    def halted(self, endpoint: int) -> bool: ...
    def abort(self, sequence: int) -> None: ...


def control(device: ControlledDevice, kind: int, request: int, value: int, index: int) -> bytes | None:
    """The answer in full, empty when it has no data; None for a STALL, with which a request is refused (9.2.7).

    `kind` is bmRequestType. A remote wake-up and a test mode, which are features too, the device has not.
    """
    if kind & 0x60 == 0x20:  # a class request
        return _of_class(device, (kind, request), value, index) if device.level in descriptors.READERS else None
    match kind, request:
        case 0x80, 0x06:  # GET_DESCRIPTOR (9.4.3)
            return descriptors.descriptor(device.looks, device.usb_serial, device.level, value)
        case 0x80, 0x00 if (value, index) == (0, 0):  # GET_STATUS (9.4.5): on the bus's power
            return b"\0\0"
        case 0x81, 0x00 if (value, index) == (0, 0):
            return b"\0\0"
        case 0x82, 0x00 if value == 0 and index in (*_CONTROL, *_BULK):
            return bytes([device.halted(index), 0])
        case 0x02, 0x01 if value == _ENDPOINT_HALT and index in (*_CONTROL, *_BULK):  # CLEAR_FEATURE (9.4.1)
            device.clear_halt(index)
            return b""
        case 0x02, 0x03 if value == _ENDPOINT_HALT and index in _BULK:  # SET_FEATURE (9.4.9)
            device.halt(index)
            return b""
        case 0x80, 0x08 if (value, index) == (0, 0):  # GET_CONFIGURATION (9.4.2)
            return bytes([device.configuration])
        case 0x00, 0x09 if value in (0, 1) and index == 0:  # SET_CONFIGURATION (9.4.7)
            device.reset()
            device.configuration = value
            return b""
        case 0x81, 0x0A if (value, index) == (0, 0):  # GET_INTERFACE (9.4.4): the only setting
            return b"\0"
        case 0x01, 0x0B if (value, index) == (0, 0):  # SET_INTERFACE (9.4.10), which ends what was halted (9.1.1.5)
            for endpoint in _BULK:
                device.clear_halt(endpoint)
            return b""
        case _:
            return None


def _of_class(device: ControlledDevice, request: tuple[int, int], value: int, index: int) -> bytes | None:
    """The answer to a request of CCID."""
    match request:
        case 0x21, 0x01 if (value & 0xFF, index) == (0, 0):  # ABORT (CCID 5.3.1), of the only slot
            device.abort(value >> 8)
            return b""
        case 0xA1, 0x02 if (value, index) == (0, 0):  # GET_CLOCK_FREQUENCIES (CCID 5.3.2)
            return _CLOCK
        case 0xA1, 0x03 if (value, index) == (0, 0):  # GET_DATA_RATES (CCID 5.3.3)
            return _DATA_RATE
        case _:
            return None
