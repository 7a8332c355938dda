# SPDX-License-Identifier: Apache-2.0
"""An OpenPGP card, version 3.4, with EC keys on NIST P-256: APDUs in, APDUs out, every change saved before the answer.

Sections in parentheses are those of the "OpenPGP Smart Card Application" specification, version 3.4.1.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

from appliance.errors import StateError
from appliance.simulator import openpgp_data as data
from appliance.simulator.flash import TRIES, Flash, Key, Password, Pin, Slot
from appliance.simulator.iso7816 import (
    BLOCKED,
    CONDITIONS,
    FILE_NOT_FOUND,
    LONGEST,
    MEMORY_FAILURE,
    NO_SUCH_DATA,
    NO_SUCH_INS,
    SECURITY_STATUS,
    TERMINATED,
    TRIES_LEFT,
    WRONG_DATA,
    WRONG_LENGTH,
    WRONG_P1P2,
    Command,
    CommandLayer,
    Refused,
    headers,
    objects,
    tlv,
)

# T=1 only, information fields of up to 254 bytes (ISO/IEC 7816-3, 8.2).
_ATR = bytes.fromhex("3B 8A 81 31 FE 45") + data.HISTORICAL

_SIGN, _DECIPHER = 0x9E9A, 0x8086  # the parameters of PERFORM SECURITY OPERATION
_CRT = {0xB6: Slot.SIGNATURE, 0xB8: Slot.DECRYPTION, 0xA4: Slot.AUTHENTICATION}
_PASSWORDS = {0x81: Password.USER, 0x82: Password.USER, 0x83: Password.ADMIN}  # by P2 of VERIFY
_SAVED = Callable[[Flash], None]


class OpenPgpCard:
    """The card. `save` makes the memory durable, and raises `StateError` when it cannot."""

    def __init__(self, flash: Flash, save: _SAVED) -> None:
        self.flash = flash
        self.serial = flash.serial  # what the card says; a fault can make it lie
        self._save = save
        self._layer = CommandLayer(self._execute)
        self._selected = False
        self._verified: set[int] = set()  # 81, 82, 83

    def power_on(self) -> bytes:
        """Give the card power, or reset it; its answer to reset. What a termination left over is erased now."""
        self.power_off()
        if self.flash.remains:
            self.change(replace(self.flash, remains=()))
        check = 0
        for byte in _ATR[1:]:
            check ^= byte
        return _ATR + bytes([check])

    def power_off(self) -> None:
        """Take the power away, and every authorisation with it."""
        self._layer.reset()
        self._selected = False
        self._verified.clear()
        self.serial = self.flash.serial

    def transmit(self, apdu: bytes) -> bytes:
        """The response APDU."""
        return self._layer.transmit(apdu)

    def _execute(self, command: Command) -> bytes:
        if command.ins == 0xA4:
            return self._select(command)
        if not self._selected:
            raise Refused(CONDITIONS)
        if self.flash.terminated and command.ins != 0x44:
            raise Refused(TERMINATED)
        match command.ins:
            case 0x20:
                return self._verify(command)
            case 0x24:
                return self._change_reference_data(command)
            case 0x2A if command.p1p2 == _SIGN:
                return self._compute_signature(command)
            case 0x2A if command.p1p2 == _DECIPHER:
                return self._decipher(command)
            case 0x2C:
                return self._reset_retry_counter(command)
            case 0x44:
                return self._activate(command)
            case 0x47:
                return self._key_pair(command)
            case 0x84:
                return self._challenge(command)
            case 0x88:
                return self._internal_authenticate(command)
            case 0xCA:
                return self._get_data(command)
            case 0xDA:
                return self._put_data(command)
            case 0xDB:
                return self._import_key(command)
            case 0xE6:
                return self._terminate(command)
            case 0x2A:
                raise Refused(WRONG_P1P2)
            case _:
                raise Refused(NO_SUCH_INS)

    # Selection and life cycle

    def _select(self, command: Command) -> bytes:
        """SELECT (7.2.1): by AID, whole or from its beginning; authorisations end."""
        name = command.data
        if command.p1 != 4 or command.p2 not in (0, 0x0C) or len(name) < len(data.RID):
            raise Refused(FILE_NOT_FOUND)
        if not data.aid(self.serial).startswith(name):
            raise Refused(FILE_NOT_FOUND)
        self._selected = True
        self._verified.clear()
        if self.flash.terminated:
            raise Refused(TERMINATED)
        return b""

    def _terminate(self, command: Command) -> bytes:
        """TERMINATE DF (7.2.16): the KEK is gone, durably, before anything else is touched."""
        _no_parameters(command)
        if 0x83 not in self._verified and self.flash.pins[Password.ADMIN].tries:
            raise Refused(SECURITY_STATUS)
        self.change(self.flash.wiped())
        self._verified.clear()
        return b""

    def _activate(self, command: Command) -> bytes:
        """ACTIVATE FILE (7.2.17): the factory state after a termination, else nothing."""
        _no_parameters(command)
        if self.flash.terminated:
            self.change(self.flash.activated())
        return b""

    # Passwords

    def _verify(self, command: Command) -> bytes:
        """VERIFY (7.2.2)."""
        if command.p2 not in _PASSWORDS or command.p1 not in (0, 0xFF):
            raise Refused(WRONG_P1P2)
        if command.p1 == 0xFF:
            self._verified.discard(command.p2)
        elif command.data:
            self._check(_PASSWORDS[command.p2], command.data)
            self._verified.add(command.p2)
        elif command.p2 not in self._verified:
            raise Refused(TRIES_LEFT | self.flash.pins[_PASSWORDS[command.p2]].tries)
        return b""

    def _change_reference_data(self, command: Command) -> bytes:
        """CHANGE REFERENCE DATA (7.2.3): the old password and the new one, side by side."""
        if command.p1 or command.p2 not in (0x81, 0x83):
            raise Refused(WRONG_P1P2)
        name = _PASSWORDS[command.p2]
        length = self.flash.pins[name].length
        self._check(name, command.data[:length])
        self._set_pin(name, command.data[length:])
        self._verified -= {p2 for p2, owner in _PASSWORDS.items() if owner == name}
        return b""

    def _reset_retry_counter(self, command: Command) -> bytes:
        """RESET RETRY COUNTER (7.2.4): by the resetting code, or by PW3."""
        match command.p1, command.p2:
            case 0, 0x81:
                length = self.flash.pins[Password.RESETTING].length
                self._check(Password.RESETTING, command.data[:length])
                self._set_pin(Password.USER, command.data[length:])
            case 2, 0x81:
                self._demand(0x83)
                self._set_pin(Password.USER, command.data)
            case _:
                raise Refused(WRONG_P1P2)
        return b""

    def _check(self, name: Password, pin: bytes) -> None:
        """The right PIN restores all tries, a wrong one costs one, before anything is answered."""
        known = self.flash.pins[name]
        if not known.tries:
            raise Refused(BLOCKED)
        if not known.matches(pin):
            self._write_pin(name, replace(known, tries=known.tries - 1))
            self._verified -= {p2 for p2, owner in _PASSWORDS.items() if owner == name}
            raise Refused(SECURITY_STATUS)
        self._write_pin(name, replace(known, tries=TRIES))

    def _set_pin(self, name: Password, pin: bytes) -> None:
        if not data.SHORTEST_PIN[name] <= len(pin) <= data.LONGEST_PIN:
            raise Refused(WRONG_DATA)
        self._write_pin(name, Pin.of(pin))

    def _write_pin(self, name: Password, pin: Pin) -> None:
        if pin != self.flash.pins[name]:
            self.change(data.with_pin(self.flash, name, pin))

    def _demand(self, password: int) -> None:
        if password not in self._verified:
            raise Refused(SECURITY_STATUS)

    # Data objects

    def _get_data(self, command: Command) -> bytes:
        """GET DATA (7.2.6)."""
        rule = data.RULES.get(command.p1p2)
        if rule:
            self._demand_access(rule.get)
        return data.get(self.flash, self.serial, command.p1p2)

    def _put_data(self, command: Command) -> bytes:
        """PUT DATA (7.2.8)."""
        rule = data.RULES.get(command.p1p2)
        self._demand_access(rule.put if rule else data.Access.ADMIN)
        self.change(data.put(self.flash, command.p1p2, command.data))
        return b""

    def _demand_access(self, access: data.Access) -> None:
        match access:
            case data.Access.USER:
                self._demand(0x82)
            case data.Access.ADMIN:
                self._demand(0x83)
            case data.Access.ALWAYS:
                pass

    # Keys

    def _key_pair(self, command: Command) -> bytes:
        """GENERATE ASYMMETRIC KEY PAIR (7.2.14): make a key pair (80), or read the public half of one (81)."""
        if command.p1p2 not in (0x8000, 0x8100) or command.data[:1] not in {bytes([tag]) for tag in _CRT}:
            raise Refused(WRONG_DATA)
        slot = _CRT[command.data[0]]
        if command.p1 == 0x80:
            self._demand(0x83)
            self._write_key(slot, _crypto().generate(self.flash.kek, slot))
        return tlv(0x7F49, tlv(0x86, self._key(slot).public))

    def _import_key(self, command: Command) -> bytes:
        """PUT DATA with an extended header list (7.2.8, 4.4.3.12): the private key follows as one string of bytes."""
        if command.p1p2 != 0x3FFF:
            raise Refused(WRONG_P1P2)
        self._demand(0x83)
        [(tag, content)] = objects(command.data)
        parts = dict(objects(content)) if tag == 0x4D else {}
        slots = [slot for crt, slot in _CRT.items() if crt in parts]
        if len(slots) != 1 or not {0x7F48, 0x5F48} <= parts.keys():
            raise Refused(WRONG_DATA)
        private = _first_component(parts[0x7F48], parts[0x5F48])
        try:
            self._write_key(slots[0], _crypto().imported(self.flash.kek, slots[0], private))
        except ValueError as error:
            raise Refused(WRONG_DATA) from error
        return b""

    def _compute_signature(self, command: Command) -> bytes:
        """PSO: COMPUTE DIGITAL SIGNATURE (7.2.10)."""
        self._demand(0x81)
        signature = self._sign(Slot.SIGNATURE, command.data)
        if not self.flash.many_signatures:
            self._verified.discard(0x81)
        self.change(replace(self.flash, signatures=min(self.flash.signatures + 1, 0xFFFFFF)))
        return signature

    def _internal_authenticate(self, command: Command) -> bytes:
        """INTERNAL AUTHENTICATE (7.2.13)."""
        _no_parameters(command)
        self._demand(0x82)
        return self._sign(Slot.AUTHENTICATION, command.data)

    def _decipher(self, command: Command) -> bytes:
        """PSO: DECIPHER (7.2.11): ECDH with the point in the cipher data object."""
        self._demand(0x82)
        cipher = dict(objects(command.data)).get(0xA6, b"")
        point = dict(objects(dict(objects(cipher)).get(0x7F49, b""))).get(0x86, b"")
        key = self._key(Slot.DECRYPTION)
        try:
            return bytes(_crypto().agree(self.flash.kek, Slot.DECRYPTION, key, point))
        except ValueError as error:
            raise Refused(WRONG_DATA) from error

    def _sign(self, slot: Slot, digest: bytes) -> bytes:
        key = self._key(slot)
        try:
            return bytes(_crypto().sign(self.flash.kek, slot, key, digest))
        except ValueError as error:
            raise Refused(WRONG_DATA) from error

    def _key(self, slot: Slot) -> Key:
        key = self.flash.keys.get(slot)
        if key is None:
            raise Refused(NO_SUCH_DATA)
        return key

    def _write_key(self, slot: Slot, key: Key) -> None:
        signatures = 0 if slot is Slot.SIGNATURE else self.flash.signatures
        self.change(replace(self.flash, keys={**self.flash.keys, slot: key}, signatures=signatures))

    def _challenge(self, command: Command) -> bytes:
        """GET CHALLENGE (7.2.15)."""
        _no_parameters(command)
        if command.le is None or command.le >= LONGEST:
            raise Refused(WRONG_LENGTH)
        return os.urandom(command.le)

    def change(self, flash: Flash) -> None:
        """Remember something else, durably. Raises `Refused` when it cannot be kept."""
        try:
            self._save(flash)
        except StateError as error:
            raise Refused(MEMORY_FAILURE) from error
        self.flash = flash


def _no_parameters(command: Command) -> None:
    if command.p1p2:
        raise Refused(WRONG_P1P2)


def _first_component(lengths: bytes, key: bytes) -> bytes:
    """The private scalar (92); the public point (99) may follow it."""
    tag, length = next(headers(lengths), (0, 0))
    if tag != 0x92 or not 0 < length <= len(key):
        raise Refused(WRONG_DATA)
    return key[:length]


def _crypto() -> ModuleType:
    """The keys' module, when it is first needed: it is slow to import."""
    from appliance.simulator import openpgp_keys

    return openpgp_keys
