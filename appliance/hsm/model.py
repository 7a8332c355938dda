# SPDX-License-Identifier: Apache-2.0
"""The values of the domain: frozen, comparable, free of I/O."""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum


class HsmClass(StrEnum):
    """What an HSM is for, and so which LunaSH word manages it."""

    BACKUP = "backup"  # token backup
    PKI = "pki"  # token pki
    BUILTIN = "builtin"  # hsm


class HsmState(StrEnum):
    """What is known of the contents of an HSM."""

    INITIALIZED = "initialized"
    ZEROIZED = "zeroized"  # factory state
    TERMINATED = "terminated"  # a reset is half done; only its second half is possible
    UNREACHABLE = "unreachable"  # attached, but it could not be asked
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """What a factory reset came to; `DONE` is only ever what a read-back proved."""

    DONE = "done"
    NOT_DONE = "not done"  # proved or certain: nothing was destroyed
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One plug-in of one USB device, from udev `add` to `remove`.

    Two attachments are equal only when they are the same plug-in: the same device plugged in again has another
    address or another `initialized` time. All strings but the mark come from the device and are untrusted.
    """

    sys_path: str
    bus: int
    address: int
    initialized: int  # microseconds on the monotonic clock when udev first knew it (USEC_INITIALIZED)
    vendor_id: int
    product_id: int
    usb_serial: str = ""  # iSerial as the device gives it, "" when it has none
    manufacturer: str = ""
    product: str = ""
    class_mark: str = ""  # udev's property HSM_CLASS, by which the administrator says what the device is for

    @property
    def usb_id(self) -> str:
        """The USB id as it is usually written, e.g. ``234b:0000``; "" for what is not on USB."""
        return "" if self == BUILTIN else f"{self.vendor_id:04x}:{self.product_id:04x}"

    @property
    def looks(self) -> tuple[str, str]:
        """By what two plug-ins can be known for the same device without asking it; others can look alike."""
        return self.usb_id, self.usb_serial

    @property
    def port(self) -> str:
        """The port path as the kernel writes it, e.g. ``1-1.4``: bus, port of the root hub, port of the next hub."""
        return self.sys_path.rpartition("/")[2]


# The place of the HSM that is built into the appliance: it is on no bus, and neither comes nor goes.
BUILTIN = Attachment(sys_path="builtin", bus=0, address=0, initialized=0, vendor_id=0, product_id=0)


class Secret:
    """A PIN or password on its way from the person to the device. Nothing that shows values shows its text."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return "Secret()"


@dataclass(frozen=True, slots=True)
class Credential:
    """What a device wants to be given before it resets itself."""

    name: str  # for people, as in "the SO PIN of this token"
    pattern: str  # a regular expression that every one of them matches as a whole
    form: str  # the same for people, as in "The SO PIN has 16 hexadecimal digits."
    tries_left: int | None = None  # how many wrong ones it takes before it takes none; None when that is not known


@dataclass(frozen=True, slots=True)
class Probe:
    """What a device said of itself in its own protocol, on one open connection."""

    serial: str | None  # normalised by its family's rule; None when a terminated device cannot tell it
    state: HsmState
    model: str
    firmware: str
    label: str = ""
    obstacle: str = ""  # why a factory reset is impossible on this device; "" when it is possible
    conflict: str = ""  # how the numbers that USB and the device tell differ; "" when they do not
    details: tuple[tuple[str, str], ...] = ()  # further lines for `token backup show`: name, value
    remarks: tuple[tuple[str, str], ...] = field(default=(), compare=False)  # such lines, of what changes by itself
    shortcomings: tuple[str, ...] = ()  # what speaks against factory state; empty if and only if ZEROIZED
    alias: str = ""  # of one that is ZEROIZED: how it was called while it was terminated and only USB could name it
    credential: Credential | None = None  # None when a factory reset needs none
    final_try: bool = False  # the token itself says that the next wrong login of its security officer is the last
    shortest_password: int = 1  # for its security officer, as the library says, which may be nonsense
    leaves: str = ""  # what is in the device, and out of reach of its factory reset: sentences; "" for nothing
    told: str = ""  # the serial number that the token tells, where that changes and `serial` is what it was set up as


@dataclass(frozen=True, slots=True)
class Intent:
    """A factory reset that was begun and whose outcome is not recorded: it survives power cuts on disk."""

    serial: str
    family: str
    hsm_class: HsmClass
    usb_id: str
    usb_serial: str
    begun: str  # UTC, ISO 8601, to the second
    actor: str
    origin: str


@dataclass(frozen=True, slots=True)
class Device:
    """One attached HSM as the registry knows it; a cheap reference, never an open connection."""

    attachment: Attachment
    family: str
    hsm_class: HsmClass
    serial: str  # normalised; from the probe, else from an unfinished intent, else from USB; "" when there is none
    probe: Probe | None = None  # None until it has been asked, or when it could not be
    problem: str = ""  # why it is unreachable, one sentence; "" when it is not
    interrupted: Intent | None = None  # a reset of this serial that was begun and never finished

    @property
    def state(self) -> HsmState:
        """The state to show: `UNREACHABLE` with a problem, `UNKNOWN` while the device is still being asked."""
        if self.problem:
            return HsmState.UNREACHABLE
        return self.probe.state if self.probe else HsmState.UNKNOWN

    def unfinished(self, intents: Collection[Intent]) -> Intent | None:
        """Which of the intents is this device's, under whichever of its names; no intent has an empty one."""
        names = {self.serial, self.probe.alias if self.probe else ""}
        of_family = (intent for intent in intents if intent.family == self.family)
        return next((intent for intent in of_family if intent.serial in names), None)
