# SPDX-License-Identifier: Apache-2.0
"""The errors that pass from one room to another, in one tree; one that stays in its room is defined there.

::

    ApplianceError
    ├── ConfigError             the configuration is wrong: file, key, reason
    ├── StateError              a file of ours cannot be read, written or believed: path, reason
    ├── PasswordRefused         a new password is not good enough: reason
    ├── LineUnavailable         the serial port cannot be opened: path, reason
    ├── LineEvent               something other than a line came from the person at the terminal
    │   ├── Hangup              the line is gone: carrier lost, end of file, output stuck
    │   ├── Break               a BREAK condition
    │   ├── Interrupt           Ctrl-C
    │   ├── EndOfFile           Ctrl-D on an empty line
    │   └── Timeout             nobody typed in the time allowed
    ├── DeviceError             one device did not do what was asked: reason
    │   ├── DeviceGone          it was unplugged
    │   ├── DeviceBusy          another program holds it
    │   ├── DeviceTimeout       it did not answer in time
    │   ├── DeviceStall         it refused the transfer (USB STALL)
    │   ├── ProtocolError       it answered something its protocol does not allow
    │   ├── DeviceRefused       it answered, and the answer was no: status
    │   │   └── SecretRefused   the PIN or password is wrong or locked; that cost one try at most, and nothing else
    │   ├── NotThisFamily       it is not what its USB id suggested
    │   ├── ResetUnsupported    it has no factory reset, or one that would break it
    │   ├── NotLoggedIn         its security officer is not logged in
    │   └── SerialMismatch      it is not the device it was taken for: expected, found
    └── InventoryError          a serial number does not lead to one device: serial
        ├── UnknownSerial       no attached device has it
        ├── WrongClass          a device has it, but of another class
        ├── AmbiguousSerial     more than one device has it
        └── AttachmentChanged   the device that was shown was removed or replaced
"""

from pathlib import Path


class ApplianceError(Exception):
    """The root of these and all others: whoever catches it catches what is raised on purpose, and no defect."""


class ConfigError(ApplianceError):
    """The configuration file is wrong at one place."""

    def __init__(self, path: Path, key: str, reason: str) -> None:
        super().__init__(f"{path}: {key}: {reason}" if key else f"{path}: {reason}")
        self.path = path
        self.key = key
        self.reason = reason


class StateError(ApplianceError):
    """A file that the daemon keeps cannot be read, written or believed."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class PasswordRefused(ApplianceError):
    """A new password is not good enough; the old one is in force. The reason never quotes the password."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LineUnavailable(ApplianceError):
    """The serial port cannot be opened, or cannot be used as it was asked for."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class LineEvent(ApplianceError):
    """Something other than a line came from the person at the terminal."""


class Hangup(LineEvent):
    """The line is gone; nothing can be read from it or written to it any more."""


class Break(LineEvent):
    """A BREAK condition was received."""


class Interrupt(LineEvent):
    """Ctrl-C: the person abandons what is being typed."""


class EndOfFile(LineEvent):
    """Ctrl-D on an empty line."""


class Timeout(LineEvent):
    """Nobody typed in the time allowed."""


class DeviceError(ApplianceError):
    """One device did not do what was asked; every other device is unaffected."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class DeviceGone(DeviceError):
    """The device was unplugged, or is not where it was."""


class DeviceBusy(DeviceError):
    """Another program holds the device."""


class DeviceTimeout(DeviceError):
    """The device did not answer in time; what it did meanwhile is not known."""


class DeviceStall(DeviceError):
    """The device refused the transfer (USB 2.0, 8.5.3.4: a STALL handshake)."""


class ProtocolError(DeviceError):
    """The device answered something that its protocol does not allow."""


class DeviceRefused(DeviceError):
    """The device answered, and the answer was no."""

    def __init__(self, reason: str, status: int, code: str = "") -> None:
        """`code` is how people know the status, where it has a name."""
        super().__init__(f"{reason} ({code or f'status {status:04X}'})")
        self.status = status


class SecretRefused(DeviceRefused):
    """The PIN or password is wrong, or locked; the device has counted one try at most, and done nothing."""


class NotThisFamily(DeviceError):
    """The device is not of the family that its USB id suggested."""


class ResetUnsupported(DeviceError):
    """The device has no factory reset, or one that would leave it unusable."""


class NotLoggedIn(DeviceError):
    """Only the security officer of the device may have that done, and nobody has logged in as it."""


class SerialMismatch(DeviceError):
    """The device says a serial number other than the one it was taken for."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected serial {expected!r}, the device says {found!r}")
        self.expected = expected
        self.found = found


class InventoryError(ApplianceError):
    """A serial number does not lead to exactly one device of the class asked for."""

    def __init__(self, serial: str) -> None:
        super().__init__(serial)
        self.serial = serial


class UnknownSerial(InventoryError):
    """No attached device has this serial number."""


class WrongClass(InventoryError):
    """A device has this serial number, but it is of another class."""


class AmbiguousSerial(InventoryError):
    """More than one attached device has this serial number."""


class AttachmentChanged(InventoryError):
    """The device that was shown was removed or replaced since."""
