# SPDX-License-Identifier: Apache-2.0
"""A card of the OpenPGP family is asked what it holds, and reset by TERMINATE DF and ACTIVATE FILE.

Section numbers are those of "Functional Specification of the OpenPGP application on ISO Smart Card Operating Systems",
version 3.4.1. No credential is needed: the PINs are blocked on purpose, but only on a card that says beforehand that it
can be terminated, because any other would be left unusable.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from appliance.errors import DeviceRefused, NotThisFamily, ProtocolError, ResetUnsupported
from appliance.hsm.ccid import INTERFACE_CLASS, Card, Command, Response
from appliance.hsm.drivers import Connection, Driver, Progress, UsbId
from appliance.hsm.drivers.data_objects import find, text
from appliance.hsm.drivers.openpgp_contents import APPLICATION, Contents, Tag, obstacle, pin_tries
from appliance.hsm.model import Attachment, HsmState, Probe, Secret

SELECT = Command(0xA4, p1=0x04, data=APPLICATION)
TERMINATE_DF = Command(0xE6)
ACTIVATE_FILE = Command(0x44)
VERIFY = 0x20
GET_DATA = 0xCA

OK = 0x9000
TERMINATED = 0x6285
NOT_ALLOWED = 0x6985
WRONG_PIN = 0x6982
PIN_BLOCKED = (0x6983, 0x63C0)
NOT_FOUND = (0x6A82, 0x6A88, 0x6B00)
# What cards without the application answer to its SELECT.
NOT_THIS_CARD = (0x6700, 0x6985, 0x6999, 0x6A80, 0x6A81, 0x6A82, 0x6A86, 0x6A87, 0x6D00, 0x6E00)

MOST_TRIES = 15  # 63Cx counts no further; a card that claims more is not believed
SPARE_TRIES = 3  # beyond the counter, for a card that counts otherwise than it says
HASH_SIZES = {0x08: 32, 0x0A: 64}  # bytes; what goes to a card with a key derivation instead of a PIN (4.3.2)
PROBE_TIMEOUT = 10.0  # seconds for one question
RESET_TIMEOUT = 60.0  # seconds for one step of the reset

# Their iSerial is FSIJ-<firmware version>-<the serial number in the AID>.
NITROKEY_START = UsbId(0x20A0, 0x4211, "Nitrokey Start")
GNUK_IDS = (UsbId(0x234B, 0x0000, "Gnuk"), UsbId(0x1209, 0x2440, "Gnuk"), NITROKEY_START)

IDENTITIES = (
    "A Nitrokey Start holds three identities. A reset reaches the one that is selected; the other two keep their keys "
    "until each of them is selected and reset, too."
)


class OpenPgpDriver(Driver):
    """Gnuk and its relatives, and sticks with an OpenPGP card inside."""

    family = "openpgp"
    title = "OpenPGP card"
    usb_ids = (
        *GNUK_IDS,
        UsbId(0x20A0, 0x4108, "Nitrokey Pro"),
        UsbId(0x20A0, 0x4109, "Nitrokey Storage"),
        UsbId(0x20A0, 0x42B2, "Nitrokey 3"),
        UsbId(0x20A0, 0x42D4, "CanoKey"),
    )
    borrows = frozenset({"smartcard-hsm", "yubihsm"})  # boards take any id, and a reader any card

    def normalise(self, serial: str) -> str:
        """Without blanks around it, in upper case; up to eight hex digits without leading zeros.

        The number on the card has eight digits, of which people leave out zeros: 00667788 and 667788 are one.
        """
        text = serial.strip().upper()
        if re.fullmatch("[0-9A-F]{1,8}", text):
            return text.lstrip("0") or "0"
        return text

    def serial_from_usb(self, attachment: Attachment) -> str:
        """The card's own number where iSerial contains it, else iSerial as it is."""
        return self.normalise(_number_in_iserial(attachment) or attachment.usb_serial)

    @contextmanager
    def open(self, attachment: Attachment) -> Iterator[Connection]:
        """Open exactly this attachment and power its card."""
        with self.bus.open(attachment, INTERFACE_CLASS) as pipe:
            card = Card(pipe)
            card.power_on()
            yield OpenPgpConnection(card, self, attachment)


class OpenPgpConnection(Connection):
    """One powered card."""

    def __init__(self, card: Card, driver: OpenPgpDriver, attachment: Attachment) -> None:
        self._card = card
        self._driver = driver
        self._attachment = attachment

    def probe(self) -> Probe:
        """What the card says of itself. Spends no try.

        Raises `NotThisFamily`, another `DeviceError`.
        """
        model, leaves = _model(self._attachment), IDENTITIES if _is(self._attachment, NITROKEY_START) else ""
        application = self._application()
        if application is None:
            return Probe(
                serial=None,  # a terminated card tells nothing
                state=HsmState.TERMINATED,
                model=model,
                firmware=_firmware_in_iserial(self._attachment),
                leaves=leaves,
                shortcomings=("a factory reset was begun and is not finished",),
            )
        contents = self._contents(application)
        serial = self._driver.normalise(contents.serial)
        told = self._driver.normalise(_number_in_iserial(self._attachment))
        shortcomings = contents.shortcomings()
        return Probe(
            serial=serial,
            state=HsmState.INITIALIZED if shortcomings else HsmState.ZEROIZED,
            model=model,
            firmware=", ".join(filter(None, [_firmware_in_iserial(self._attachment), f"OpenPGP {contents.version}"])),
            label=text(contents.name).replace("<<", " ").replace("<", " ") or text(contents.login),
            obstacle=obstacle(contents.historical),
            # Its owner may give a card another number, and what has Gnuk's USB id may be something else.
            conflict=f"USB says {told}, the card says {serial}" if told and told != serial else "",
            leaves=leaves,
            details=contents.details(),
            shortcomings=shortcomings,
            alias="" if shortcomings or told == serial else self._driver.serial_from_usb(self._attachment),
        )

    def factory_reset(self, progress: Progress, secret: Secret | None = None) -> None:
        """Block both PINs, terminate, activate; or activate only, on a card that is terminated already.

        Raises `ResetUnsupported` before any try is spent when the card has no life-cycle management.
        """
        progress("selecting the card")
        application = self._application()
        if application is not None:
            reason = obstacle(self._data(Tag.HISTORICAL_BYTES, among=application))
            if reason:
                raise ResetUnsupported(reason)
            wrong_pins = self._wrong_pins()
            progress("blocking the user PIN")
            self._block(0x81, wrong_pins, "user PIN")
            progress("blocking the admin PIN")
            self._block(0x83, wrong_pins, "admin PIN")
            progress("terminating")
            self._demand(TERMINATE_DF, "the card refuses to be terminated")
        progress("activating")
        self._activate()
        progress("restarting the card")
        self._restart()  # erases what is left in memory, and drops what was authorised

    def _is_terminated(self) -> bool:
        """SELECT (7.2.1): False for a card in use, True for one that waits for ACTIVATE FILE."""
        status = self._send(SELECT, PROBE_TIMEOUT).status
        if status in NOT_THIS_CARD:
            raise NotThisFamily("the device has no OpenPGP application")
        if status not in (OK, TERMINATED):
            raise DeviceRefused("the card refuses to be selected", status)
        return status == TERMINATED

    def _application(self) -> bytes | None:
        """Data object 6E of a card in use, empty where it has none; None of one that is terminated.

        Some say so only by what they allow then.
        """
        if self._is_terminated():
            return None
        try:
            return self._data(Tag.APPLICATION_DATA)
        except DeviceRefused as refused:
            if refused.status == NOT_ALLOWED:
                return None
            raise

    def _activate(self) -> None:
        """ACTIVATE FILE (7.2.18)."""
        if self._send(ACTIVATE_FILE, RESET_TIMEOUT).status == OK:
            return
        self._restart()  # some cards want to be powered anew between the two halves
        if self._application() is None:
            self._demand(ACTIVATE_FILE, "the card refuses to be activated")

    def _block(self, reference: int, wrong_pins: tuple[bytes, ...], name: str) -> None:
        """VERIFY (7.2.2) with a wrong PIN until the PIN is blocked, or the admin PIN verified, which serves as well."""
        for pin in wrong_pins:
            status = OK
            for _ in range(self._tries(reference) + SPARE_TRIES):
                status = self._send(Command(VERIFY, p2=reference, data=pin), RESET_TIMEOUT).status
                if status in PIN_BLOCKED or (status == OK and reference == 0x83):
                    return
                if status == OK:
                    break  # the wrong PIN is the right one, by accident: the next cannot be
                if status != WRONG_PIN and status & 0xFFF0 != 0x63C0:
                    raise DeviceRefused(f"the {name} cannot be blocked", status)
            if status == OK:
                continue
            if self._tries(reference):
                raise DeviceRefused(f"the {name} does not become blocked", status)
            return  # some say each time that it was wrong, and no more
        raise ProtocolError(f"the card accepts two values as {name}")

    def _tries(self, reference: int) -> int:
        """What is left of the tries of PW1 (81) or PW3 (83)."""
        tries = pin_tries(self._data(Tag.PIN_STATUS, among=self._data(Tag.APPLICATION_DATA)))
        return min(tries[0] if reference == 0x81 else tries[2], MOST_TRIES)

    def _wrong_pins(self) -> tuple[bytes, ...]:
        """Two values of the length that the card wants, of which at most one can be the PIN."""
        derivation = self._data(Tag.KEY_DERIVATION)
        length = 8
        if find(derivation, 0x81) == b"\x03":
            algorithm = find(derivation, 0x82) or b"\x08"
            length = HASH_SIZES.get(algorithm[0], 32)
        return b"@" * length, b"!" * length

    def _contents(self, application: bytes) -> Contents:
        return Contents.parse(
            aid=self._data(Tag.AID, among=application),
            historical=self._data(Tag.HISTORICAL_BYTES, among=application),
            pin_status=self._data(Tag.PIN_STATUS, among=application),
            fingerprints=self._data(Tag.FINGERPRINTS, among=application),
            key_times=self._data(Tag.KEY_TIMES, among=application),
            key_information=self._key_information(application),
            name=find(self._data(Tag.CARDHOLDER_DATA), Tag.NAME) or b"",
            login=self._data(Tag.LOGIN_DATA),
            url=self._data(Tag.URL),
        )

    def _key_information(self, application: bytes) -> bytes:
        """Which keys there are (4.4.3.8); empty where the card does not know it, as those before version 3.4."""
        with suppress(DeviceRefused):
            return self._data(Tag.KEY_INFORMATION, among=application)
        return b""

    def _data(self, tag: int, among: bytes = b"") -> bytes:
        """A data object: out of `among` if it is there, else by GET DATA (7.2.6); empty when the card has none."""
        value = find(among, tag)
        if value is not None:
            return value
        response = self._send(Command(GET_DATA, p1=tag >> 8, p2=tag & 0xFF, le=256), PROBE_TIMEOUT)
        if response.status in NOT_FOUND:
            return b""
        if response.status != OK:
            raise DeviceRefused(f"the card does not give data object {tag:X}", response.status)
        return response.data

    def _demand(self, command: Command, refusal: str) -> None:
        status = self._send(command, RESET_TIMEOUT).status
        if status != OK:
            raise DeviceRefused(refusal, status)

    def _send(self, command: Command, timeout: float) -> Response:
        return self._card.transmit(command, timeout)

    def _restart(self) -> None:
        self._card.power_off()
        self._card.power_on()


def _is(attachment: Attachment, known: UsbId) -> bool:
    return (known.vendor, known.product) == (attachment.vendor_id, attachment.product_id)


def _number_in_iserial(attachment: Attachment) -> str:
    """The card's, if it is there: boards that borrow Gnuk's USB id have a number of their own, written otherwise."""
    found = re.fullmatch(r"[A-Z]+-[0-9.]+-([0-9A-Fa-f]{8})", attachment.usb_serial.strip())
    return found[1] if found and _is_gnuk(attachment) else ""


def _firmware_in_iserial(attachment: Attachment) -> str:
    found = re.match(r"FSIJ-(\d{1,3}(?:\.\d{1,3}){1,3})-", attachment.usb_serial, re.ASCII)
    return found[1] if found and _is_gnuk(attachment) else ""


def _is_gnuk(attachment: Attachment) -> bool:
    return any(_is(attachment, known) for known in GNUK_IDS)


def _model(attachment: Attachment) -> str:
    names = {(known.vendor, known.product): known.name for known in OpenPgpDriver.usb_ids}
    return names.get((attachment.vendor_id, attachment.product_id), OpenPgpDriver.title)
