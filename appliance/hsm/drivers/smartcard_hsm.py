# SPDX-License-Identifier: Apache-2.0
"""A SmartCard-HSM is asked what it holds, and reset by one INITIALIZE DEVICE with its SO PIN.

Fifteen wrong SO PINs make such a device useless for ever. So the number of tries is read first, which costs none; the
command is sent once, and never again; and a refusal counts as a wrong SO PIN only if it has cost a try.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from appliance.errors import DeviceError, DeviceRefused, NotThisFamily, ProtocolError, ResetUnsupported, SecretRefused
from appliance.hsm.ccid import INTERFACE_CLASS, Card, Command, Response
from appliance.hsm.drivers import Connection, Driver, Progress, UsbId
from appliance.hsm.drivers.data_objects import find, text
from appliance.hsm.drivers.smartcard_hsm_contents import (
    EMPTY_KEY_DOMAIN,
    FILLING,
    OK,
    TAG_LABEL,
    UNPROVISIONED,
    Contents,
    Dkek,
    Tries,
    file_ids,
    holder,
    is_pico,
    names_a_holder,
    normalise,
    version,
)
from appliance.hsm.model import Attachment, Credential, HsmState, Probe, Secret

APPLICATION = bytes.fromhex("E82B0601040181C31F0201")
SELECT = Command(0xA4, p1=0x04, data=APPLICATION, le=256)  # with P2 of 0: versions before 0.16 know no other
DEVICE_CERTIFICATE, TOKEN_INFO = 0x2F02, 0x2F03
SO_PIN, USER_PIN = 0x88, 0x81
VERIFY, READ_BINARY, INITIALIZE_DEVICE, MANAGE_KEY_DOMAIN, ENUMERATE_OBJECTS = 0x20, 0xB1, 0x50, 0x52, 0x58
PROPRIETARY = 0x80  # the class byte of the last three
MOST_KEY_DOMAINS = 16  # that are looked into
LONGEST_SHORT, LONGEST_EXTENDED = 256, 65536  # bytes of one answer
LONGEST_FILE = 4096  # bytes read of one file

END_OF_FILE = 0x6282
NOT_FOUND = (0x6A82, 0x6A88)
BROKEN_OFF = 0x6400  # a pico-hsm may have set the PINs and destroyed the keys by then
# What INITIALIZE DEVICE is refused for, but for a wrong SO PIN.
REFUSALS = {0x6982: "the device's secure lock is on", 0x6983: "the SO PIN is blocked"}
# What cards without the application answer to its SELECT.
NOT_THIS_CARD = (0x6700, 0x6985, 0x6999, 0x6A80, 0x6A81, 0x6A82, 0x6A86, 0x6A87, 0x6D00, 0x6E00)

# The factory state: RESET RETRY COUNTER is allowed with the SO PIN; the user PIN, which takes three tries. There are no
# shares of a key for backups. All as the makers' manuals have it, and the SO PIN of a device that has none yet.
OPTIONS = bytes.fromhex("80 02 0001")
FACTORY_USER_PIN, FACTORY_SO_PIN = b"648219", "3537363231383830"
USER_PIN_TRIES = bytes.fromhex("91 01 03")

SO_PIN_NAME = "SO PIN"
SO_PIN_PATTERN = "[0-9A-Fa-f]{16}"
SO_PIN_FORM = "The SO PIN has 16 hexadecimal digits."

PROBE_TIMEOUT = 10.0  # seconds for one question
RESET_TIMEOUT = 90.0  # seconds; a device that is nearly full takes thirty, and asks for no more time meanwhile

NITROKEY = UsbId(0x20A0, 0x4230, "Nitrokey HSM")
SHARED_READER = UsbId(0x04E6, 0x5816, "SmartCard-HSM")  # the reader's id, also of sticks that hold something else
PICO = UsbId(0x2E8A, 0x10FD, "Pico HSM")
OTHER_PICO = UsbId(0xFEFF, 0xFCFD, PICO.name)


class SmartcardHsmDriver(Driver):
    """Sticks with a SmartCard-HSM inside, and boards that behave like one."""

    family = "smartcard-hsm"
    title = "SmartCard-HSM"
    usb_ids = (NITROKEY, SHARED_READER, PICO, OTHER_PICO)
    borrows = frozenset({"openpgp", "yubihsm"})  # boards take any id, and a reader any card

    def normalise(self, serial: str) -> str:
        """Without blanks around it, in upper case, and without what fills a Nitrokey HSM's iSerial."""
        return normalise(serial)

    def serial_from_usb(self, attachment: Attachment) -> str:
        """What USB says, but of a reader that has a number of its own: "" there."""
        return "" if _is(attachment, SHARED_READER) else self.normalise(attachment.usb_serial)

    @contextmanager
    def open(self, attachment: Attachment) -> Iterator[Connection]:
        """Open exactly this attachment and power its card."""
        with self.bus.open(attachment, INTERFACE_CLASS) as pipe:
            card = Card(pipe)
            card.power_on()
            yield SmartcardHsmConnection(card, self, attachment)


class SmartcardHsmConnection(Connection):
    """One powered card."""

    def __init__(self, card: Card, driver: SmartcardHsmDriver, attachment: Attachment) -> None:
        self._card = card
        self._driver = driver
        self._attachment = attachment

    def probe(self) -> Probe:
        """What the card says of itself. Spends no try. Raises `NotThisFamily`, another `DeviceError`."""
        fcp = self._select()
        told = holder(self._file(DEVICE_CERTIFICATE))
        contents, dkek = self._contents(), self._dkek()
        serial, mismatch = self._serial(told)
        tries_left = None if self._is_pico(told) else contents.so.left  # a pico-hsm counts none down
        credential = Credential(SO_PIN_NAME, SO_PIN_PATTERN, SO_PIN_FORM, tries_left)
        shortcomings = contents.shortcomings() + dkek.shortcomings()
        return Probe(
            serial=serial,
            state=HsmState.INITIALIZED if shortcomings else HsmState.ZEROIZED,
            model=self._model(told),
            firmware=version(fcp),
            label=self._label(),
            obstacle=self._doubt(mismatch) or self._obstacle(contents, told),
            conflict=mismatch,
            details=(*contents.details(), ("DKEK", dkek.text)),
            shortcomings=shortcomings,
            credential=None if contents.never_initialised else credential,
        )

    def factory_reset(self, progress: Progress, secret: Secret | None = None) -> None:
        """One INITIALIZE DEVICE, with the SO PIN that the device has; one that has none gets that of the factory.

        Raises `ResetUnsupported` before any try is spent when few are left, `SecretRefused` for a wrong SO PIN.
        """
        progress("selecting the card")
        self._select()
        contents = self._contents()
        reason = contents.obstacle()
        if reason and self._obstacle(contents, holder(self._file(DEVICE_CERTIFICATE))):
            raise ResetUnsupported(reason)
        if secret is None and not contents.never_initialised:
            raise DeviceError("it is reset with its SO PIN only")
        progress("initializing")
        status = self._send(_initialize(secret or Secret(FACTORY_SO_PIN)), RESET_TIMEOUT).status
        if status != OK:
            raise self._refusal(status, contents.so)
        progress("restarting the card")
        self._card.power_off()  # drops what was authorised, and shows whether the change is there for good
        self._card.power_on()

    def _refusal(self, status: int, before: Tries) -> DeviceError:
        """What a refused INITIALIZE DEVICE was: a wrong SO PIN is what has cost a try, whatever the status word.

        No refusal, where the device may have begun.
        """
        after = self._tries(SO_PIN).left
        if before.left is not None and after is not None and after < before.left:
            return SecretRefused("the SO PIN is wrong", status)
        if status == BROKEN_OFF:
            return ProtocolError(f"the device broke the initialization off (status {status:04X})")
        return DeviceRefused(REFUSALS.get(status, "the device refuses to be initialized"), status)

    def _serial(self, told: str) -> tuple[str, str]:
        """The serial number, and what is wrong with it, "" for nothing.

        The number of the certificate's holder; of a pico-hsm that was given none, that of the board. A Nitrokey HSM
        says its number on USB too.
        """
        usb = self._driver.serial_from_usb(self._attachment)
        if told in ("", *UNPROVISIONED):
            return usb, ""
        if _is(self._attachment, NITROKEY) and not self._is_pico(told) and usb not in ("", told, told + FILLING):
            return told, f"USB says {usb}, the card says {told}"
        return told, ""

    def _doubt(self, mismatch: str) -> str:
        """Why a device with two numbers is not reset: its USB side has that of another one."""
        other = names_a_holder(self._driver.serial_from_usb(self._attachment))
        return f"{mismatch}: it is reset under neither number" if mismatch and other else ""

    def _obstacle(self, contents: Contents, told: str) -> str:
        """Why no reset must be tried; a pico-hsm takes any SO PIN for its new one, and counts no try."""
        return "" if self._is_pico(told) else contents.obstacle()

    def _is_pico(self, told: str) -> bool:
        return is_pico(told) or any(_is(self._attachment, known) for known in (PICO, OTHER_PICO))

    def _model(self, told: str) -> str:
        if self._is_pico(told):  # whatever USB id the board was given
            return PICO.name
        return next((known.name for known in self._driver.usb_ids if _is(self._attachment, known)), self._driver.title)

    def _select(self) -> bytes:
        """SELECT the application; its file control parameters."""
        response = self._send(SELECT, PROBE_TIMEOUT)
        if response.status in NOT_THIS_CARD:
            raise NotThisFamily("the device has no SmartCard-HSM application")
        return _demand(response, "the card refuses to be selected")

    def _contents(self) -> Contents:
        command = Command(ENUMERATE_OBJECTS, cla=PROPRIETARY, le=self._longest)
        objects = _demand(self._send(command, PROBE_TIMEOUT), "the card does not list its objects")
        return Contents(file_ids(objects), self._tries(SO_PIN), self._tries(USER_PIN))

    def _dkek(self) -> Dkek:
        """That of the first key domain in which there is one; asking takes no PIN, and changes nothing.

        Domains without one answer with zeros, or that it is not there; any other status says that no more will follow.
        """
        for domain in range(MOST_KEY_DOMAINS):
            command = Command(MANAGE_KEY_DOMAIN, p2=domain, cla=PROPRIETARY, le=LONGEST_SHORT)
            response = self._send(command, PROBE_TIMEOUT)
            dkek = Dkek.parse(response.status, response.data)
            if dkek.present or response.status not in (OK, EMPTY_KEY_DOMAIN):
                break
        return dkek

    def _tries(self, reference: int) -> Tries:
        return Tries.parse(self._send(Command(VERIFY, p2=reference), PROBE_TIMEOUT).status)

    def _file(self, number: int) -> bytes:
        """What is in a file; empty when there is none of that number. Raises `DeviceRefused`."""
        contents = b""
        while len(contents) < LONGEST_FILE:
            offset = b"\x54\x02" + len(contents).to_bytes(2)
            command = Command(READ_BINARY, number >> 8, number & 0xFF, offset, le=self._longest)
            response = self._send(command, PROBE_TIMEOUT)
            if response.status in NOT_FOUND or (contents and response.status not in (OK, END_OF_FILE)):
                break  # of a file that ends with a part of full length, some cards do not give an empty part
            if response.status != END_OF_FILE:
                _demand(response, f"the card does not give file {number:04X}")
            contents += response.data
            if len(response.data) < self._longest:
                break
        return contents

    def _label(self) -> str:
        """The name that its owner gave it; "" when there is none, or none that can be read."""
        with suppress(DeviceRefused, ProtocolError):
            return text(find(self._file(TOKEN_INFO), TAG_LABEL) or b"")
        return ""

    @property
    def _longest(self) -> int:
        return LONGEST_SHORT if self._card.short_only else LONGEST_EXTENDED

    def _send(self, command: Command, timeout: float) -> Response:
        return self._card.transmit(command, timeout)


def _initialize(so_pin: Secret) -> Command:
    """INITIALIZE DEVICE into the factory state."""
    user, so = FACTORY_USER_PIN, bytes.fromhex(so_pin.text)
    pins = bytes([0x81, len(user)]) + user + bytes([0x82, len(so)]) + so
    return Command(INITIALIZE_DEVICE, cla=PROPRIETARY, data=OPTIONS + pins + USER_PIN_TRIES)


def _demand(response: Response, refusal: str) -> bytes:
    if response.status != OK:
        raise DeviceRefused(refusal, response.status)
    return response.data


def _is(attachment: Attachment, known: UsbId) -> bool:
    return (attachment.vendor_id, attachment.product_id) == (known.vendor, known.product)
