# SPDX-License-Identifier: Apache-2.0
"""A SmartCard-HSM with keys on NIST P-256 and RSA: APDUs in, APDUs out, every change saved before the answer.

The maker's manual is not public: commands and status words are those with which OpenSC (card-sc-hsm.c, sc-hsm-tool.c)
uses such a card.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace

from appliance.simulator import cvc
from appliance.simulator.iso7816 import (
    BLOCKED,
    CONDITIONS,
    END_OF_FILE,
    FILE_NOT_FOUND,
    LONGEST,
    NO_SUCH_DATA,
    NO_SUCH_INS,
    SECURITY_STATUS,
    TRIES_LEFT,
    WRONG_DATA,
    WRONG_LENGTH,
    WRONG_P1P2,
    Command,
    CommandLayer,
    Refused,
    SmartCard,
    objects,
    parse_extended,
    tlv,
)
from appliance.simulator.memory import Memory, Pin
from appliance.simulator.smartcard_hsm_backup import KeyBackup
from appliance.simulator.smartcard_hsm_flash import (
    DEVICE_CERTIFICATE,
    DEVICE_KEY,
    KEY,
    MOST_TRIES,
    REQUEST,
    SO_TRIES,
    SmartcardHsmFlash,
    sealed_as,
)

APPLICATION = bytes.fromhex("E82B0601040181C31F0201")
VERSION = (3, 5)
_ATR = bytes.fromhex("3B FE 18 00 00 81 31 FE 45 80 31 81 54 48 53 4D 31 73 80 21 40 81 07 FA")
_SO, _USER = 0x88, 0x81  # references of the PINs
_PROPRIETARY = 0x80  # class byte
_RESET_BY_SO = 0x01  # option: RESET RETRY COUNTER is allowed with the SO PIN
_SIGNED_AS_IT_IS, _HASHED_WITH_SHA256, _RSA_AS_IT_IS = 0x70, 0x73, 0x20  # algorithms of SIGN
_RSA_SIZE = b"\x08\x00"  # bits, as GENERATE ASYMMETRIC KEY PAIR is told
_LONGEST_FILE = 2048  # bytes


class SmartcardHsmCard(SmartCard):
    """The card. `save` makes its memory durable, and raises `StateError` when it cannot."""

    def __init__(self, flash: SmartcardHsmFlash, save: Callable[[SmartcardHsmFlash], None]) -> None:
        self.memory = Memory(flash, save)
        self.serial = flash.serial  # what the card says; a fault can make it lie
        self._layer = CommandLayer(self._execute, parse_extended, (0, _PROPRIETARY))
        self._selected = False
        self._file: int | None = None  # the selected one
        self._authorised = False  # by the user PIN
        backup = KeyBackup(self.memory, self._demand_user)
        self._commands = {
            (0, 0x20): self._verify,
            (0, 0x24): self._change_reference_data,
            (0, 0x2C): self._reset_retry_counter,
            (0, 0x46): self._generate,
            (0, 0x84): self._challenge,
            (0, 0xA4): self._select,
            (0, 0xB1): self._read_binary,
            (0, 0xD7): self._update_binary,
            (0, 0xE4): self._delete_file,
            (_PROPRIETARY, 0x50): self._initialize,
            (_PROPRIETARY, 0x52): backup.manage,
            (_PROPRIETARY, 0x58): self._enumerate,
            (_PROPRIETARY, 0x68): self._sign,
            (_PROPRIETARY, 0x72): backup.wrap,
            (_PROPRIETARY, 0x74): backup.unwrap,
        }

    def power_on(self) -> bytes:
        """Give the card power, or reset it; its answer to reset."""
        self.power_off()
        return _ATR

    def power_off(self) -> None:
        """Take the power away, and every authorisation with it."""
        self._layer.reset()
        self._selected = self._authorised = False
        self._file = None
        self.serial = self.memory.flash.serial

    def transmit(self, apdu: bytes) -> bytes:
        """The response APDU."""
        return self._layer.transmit(apdu)

    def _execute(self, command: Command) -> bytes:
        execute = self._commands.get((command.cla, command.ins))
        if execute is None:
            raise Refused(NO_SUCH_INS)
        if command.ins != 0xA4 and not self._selected:
            raise Refused(CONDITIONS)
        return execute(command)

    # Initialisation and PINs

    def _initialize(self, command: Command) -> bytes:
        """INITIALIZE DEVICE: the first one sets the SO PIN, every other one verifies it, and then nothing is left."""
        command.demand_no_parameters()
        wishes = dict(objects(command.data))
        code, user = wishes.get(0x82, b""), wishes.get(0x81, b"")
        options, tries = wishes.get(0x80, b"\0\1"), wishes.get(0x91, b"\3")
        shares = wishes.get(0x92)  # of the DKEK
        if len(code) != 8 or not 6 <= len(user) <= 16 or len(options) != 2 or len(tries) != 1:
            raise Refused(WRONG_DATA)
        if shares is not None and len(shares) != 1:
            raise Refused(WRONG_DATA)
        if not 1 <= tries[0] <= MOST_TRIES:
            raise Refused(WRONG_DATA)
        if self.memory.flash.so is not None:
            self._check_so(code, CONDITIONS)
        so, pin = Pin.of(code, SO_TRIES), Pin.of(user, tries[0])
        self.memory.change(self.memory.flash.initialised(so, pin, options, None if shares is None else shares[0]))
        self._authorised, self._file = False, None
        return b""

    def _verify(self, command: Command) -> bytes:
        """VERIFY: without data the counter is asked for, which costs nothing."""
        pins = {_USER: self.memory.flash.user, _SO: self.memory.flash.so}
        if command.p1 or command.p2 not in pins:
            raise Refused(WRONG_P1P2)
        pin = pins[command.p2]
        if pin is None:
            raise Refused(NO_SUCH_DATA)
        if command.data and command.p2 == _USER:
            self._authorised = False
            self._check_user(command.data)
            self._authorised = True
        elif command.data:
            self._check_so(command.data)
        elif not (command.p2 == _USER and self._authorised):
            raise Refused(TRIES_LEFT | pin.tries if pin.tries else BLOCKED)
        return b""

    def _change_reference_data(self, command: Command) -> bytes:
        """CHANGE REFERENCE DATA: the old PIN and the new one, side by side; the card knows the length of the first."""
        flash = self.memory.flash
        pins = {_USER: flash.user, _SO: flash.so}
        pin = pins.get(command.p2)
        if command.p1 or pin is None:
            raise Refused(WRONG_P1P2)
        old, new = command.data[: pin.length], command.data[pin.length :]
        if command.p2 == _SO:
            self._check_so(old)
            if len(new) != 8:
                raise Refused(WRONG_DATA)
            self.memory.change(replace(self.memory.flash, so=Pin.of(new, SO_TRIES)))
        else:
            self._check_user(old)
            self._set_user(new)
        return b""

    def _reset_retry_counter(self, command: Command) -> bytes:
        """RESET RETRY COUNTER: the SO PIN, and a new user PIN (P1 of 0) or none (P1 of 1)."""
        if command.p1 > 1 or command.p2 != _USER:
            raise Refused(WRONG_P1P2)
        if not self.memory.flash.options[1] & _RESET_BY_SO:
            raise Refused(SECURITY_STATUS)
        self._check_so(command.data[:8])
        user = self.memory.flash.user
        if command.p1 == 0:
            self._set_user(command.data[8:])
        elif user is not None:
            self.memory.change(replace(self.memory.flash, user=replace(user, tries=self.memory.flash.user_tries)))
        return b""

    def _check_so(self, code: bytes, refusal: int | None = None) -> None:
        """The right SO PIN restores its tries, a wrong one costs one; either is durable before it is answered."""
        pin = self.memory.flash.so
        if pin is None:
            raise Refused(NO_SUCH_DATA)
        checked = _checked(pin, code, SO_TRIES)
        self.memory.change(replace(self.memory.flash, so=checked))
        if checked.tries < SO_TRIES:
            raise Refused(refusal or TRIES_LEFT | checked.tries)

    def _check_user(self, code: bytes) -> None:
        pin, full = self.memory.flash.user, self.memory.flash.user_tries
        if pin is None:
            raise Refused(NO_SUCH_DATA)
        checked = _checked(pin, code, full)
        self.memory.change(replace(self.memory.flash, user=checked))
        if checked.tries < full:
            raise Refused(TRIES_LEFT | checked.tries)

    def _set_user(self, code: bytes) -> None:
        if not 6 <= len(code) <= 16:
            raise Refused(WRONG_DATA)
        self.memory.change(replace(self.memory.flash, user=Pin.of(code, self.memory.flash.user_tries)))

    def _demand_user(self) -> None:
        if not self._authorised:
            raise Refused(SECURITY_STATUS)

    # Files

    def _select(self, command: Command) -> bytes:
        """SELECT: the application by its AID, or a file by its id; the file control parameters."""
        if command.p1 == 4:
            if command.data != APPLICATION:
                raise Refused(FILE_NOT_FOUND)
            self._selected, self._authorised, self._file = True, False, None
            properties = self.memory.flash.options + bytes([0, *VERSION])  # 0: a Java card
            return tlv(0x6F, tlv(0x84, APPLICATION) + tlv(0x85, properties))
        if command.p1 or len(command.data) != 2 or not self._selected:
            raise Refused(WRONG_P1P2)
        number = int.from_bytes(command.data, "big")
        size = len(self._contents(number))
        self._file = number
        return tlv(0x6F, tlv(0x80, size.to_bytes(2, "big")) + tlv(0x82, b"\1") + tlv(0x83, command.data))

    def _enumerate(self, command: Command) -> bytes:
        """ENUMERATE OBJECTS: the file ids of keys and files."""
        command.demand_no_parameters()
        return b"".join(number.to_bytes(2, "big") for number in (DEVICE_KEY, *self._numbers()))

    def _numbers(self) -> list[int]:
        """The file ids of all that can be deleted."""
        flash = self.memory.flash
        return [*(KEY << 8 | number for number in flash.keys), *flash.files]

    def _read_binary(self, command: Command) -> bytes:
        """READ BINARY with an offset data object."""
        contents = self._contents(self._meant(command))
        start = int.from_bytes(dict(objects(command.data)).get(0x54, b""), "big")
        length = command.le or LONGEST
        if start > len(contents):
            raise Refused(WRONG_P1P2)
        part = contents[start : start + length]
        if len(part) < length:
            raise Refused(END_OF_FILE, part)
        return part

    def _update_binary(self, command: Command) -> bytes:
        """UPDATE BINARY with an offset and a data object; a file that is not there is made."""
        self._demand_user()
        number, parts = self._meant(command), dict(objects(command.data))
        if number in (DEVICE_CERTIFICATE, DEVICE_KEY) or number >> 8 == KEY:
            raise Refused(SECURITY_STATUS)
        start, new = int.from_bytes(parts.get(0x54, b""), "big"), parts.get(0x53, b"")
        old = self.memory.flash.files.get(number, b"")
        if start > len(old) or start + len(new) > _LONGEST_FILE:
            raise Refused(WRONG_DATA)
        self.memory.change(self.memory.flash.with_file(number, old[:start] + new + old[start + len(new) :]))
        self._file = number
        return b""

    def _delete_file(self, command: Command) -> bytes:
        """DELETE FILE: a file, or a key."""
        self._demand_user()
        number = int.from_bytes(command.data, "big")
        if number not in self.memory.flash.files and (
            number & 0xFF not in self.memory.flash.keys or number >> 8 != KEY
        ):
            raise Refused(FILE_NOT_FOUND)
        self.memory.change(self.memory.flash.without(number))
        return b""

    def _meant(self, command: Command) -> int:
        """The file of the parameters, or the selected one."""
        number = command.p1p2 or self._file
        if number is None:
            raise Refused(CONDITIONS)
        return number

    def _contents(self, number: int) -> bytes:
        if number == DEVICE_CERTIFICATE:
            return self.memory.flash.certificate(self.serial)
        if number not in (DEVICE_KEY, *self._numbers()):
            raise Refused(FILE_NOT_FOUND)
        return self.memory.flash.files.get(number, b"")  # what is in a key is nobody's business

    # Keys

    def _generate(self, command: Command) -> bytes:
        """GENERATE ASYMMETRIC KEY PAIR: the key of the number in P1; the answer is the request for its certificate."""
        self._demand_user()
        wishes = dict(objects(command.data))
        key = wishes.get(cvc.PUBLIC_KEY, b"")
        rsa, parameters = key.startswith(cvc.RSA_WITH_SHA256), dict(objects(key))
        holder = wishes.get(cvc.HOLDER, b"").decode("ascii", "replace")
        known = parameters.get(0x02) == _RSA_SIZE if rsa else parameters.get(0x81) == cvc.PRIME
        if not command.p1 or command.p2 or not known:
            raise Refused(WRONG_DATA)
        flash = self.memory.flash.with_new_key(command.p1, holder, rsa=rsa)
        self.memory.change(flash)
        return flash.files[REQUEST << 8 | command.p1]

    def _sign(self, command: Command) -> bytes:
        """SIGN with the key of the number in P1: a hash, data to be hashed with SHA-256, or a block padded for RSA."""
        self._demand_user()
        key = self.memory.flash.keys.get(command.p1)
        if key is None:
            raise Refused(FILE_NOT_FOUND)
        if command.p2 not in ((_RSA_AS_IT_IS,) if key.is_rsa else (_SIGNED_AS_IT_IS, _HASHED_WITH_SHA256)):
            raise Refused(WRONG_P1P2)
        from appliance.simulator import ec_keys, rsa_keys

        kek, name = self.memory.flash.kek, sealed_as(command.p1)
        digest = command.data if command.p2 == _SIGNED_AS_IT_IS else hashlib.sha256(command.data).digest()
        try:
            if key.is_rsa:
                return rsa_keys.power(kek, name, key, command.data)
            return bytes(ec_keys.sign_der(kek, name, key, digest))
        except ValueError as error:
            raise Refused(WRONG_DATA) from error

    def _challenge(self, command: Command) -> bytes:
        """GET CHALLENGE."""
        command.demand_no_parameters()
        if command.le is None or command.le > LONGEST:
            raise Refused(WRONG_LENGTH)
        return os.urandom(command.le)


def _checked(pin: Pin, code: bytes, full: int) -> Pin:
    """The PIN after an attempt. Raises `Refused` when it is blocked."""
    if not pin.tries:
        raise Refused(BLOCKED)
    return replace(pin, tries=full if pin.matches(code) else pin.tries - 1)
