# SPDX-License-Identifier: Apache-2.0
"""An OpenPGP card, version 3.4, with EC keys on NIST P-256: APDUs in, APDUs out, every change saved before the answer.

Sections in parentheses are those of the "OpenPGP Smart Card Application" specification, version 3.4.1.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

from appliance.simulator import openpgp_data as data
from appliance.simulator.iso7816 import (
    CONDITIONS,
    FILE_NOT_FOUND,
    LONGEST,
    NO_SUCH_DATA,
    NO_SUCH_INS,
    TERMINATED,
    WRONG_DATA,
    WRONG_LENGTH,
    WRONG_P1P2,
    Command,
    CommandLayer,
    Refused,
    SmartCard,
    headers,
    objects,
    tlv,
)
from appliance.simulator.memory import Key, Memory
from appliance.simulator.openpgp_flash import OpenPgpFlash, Password, Slot
from appliance.simulator.openpgp_passwords import Passwords

# T=1 only, information fields of up to 254 bytes (ISO/IEC 7816-3, 8.2).
_ATR = bytes.fromhex("3B 8A 81 31 FE 45") + data.HISTORICAL

_SELECT, _ACTIVATE = 0xA4, 0x44  # what a terminated card still answers
_TAG_OF_CERTIFICATES = bytes.fromhex("60 04 5C 02 7F21")
_CRT = {0xB6: Slot.SIGNATURE, 0xB8: Slot.DECRYPTION, 0xA4: Slot.AUTHENTICATION}


class OpenPgpCard(SmartCard):
    """The card. `save` makes its memory durable, and raises `StateError` when it cannot."""

    def __init__(self, flash: OpenPgpFlash, save: Callable[[OpenPgpFlash], None]) -> None:
        self.memory = Memory(flash, save)
        self.serial = flash.serial  # what the card says; a fault can make it lie
        self._passwords = Passwords(self.memory)
        self._layer = CommandLayer(self._execute)
        self._selected = False
        self._certificate = data.CERTIFICATES[0]
        self._commands = {
            0x20: self._passwords.verify,
            0x24: self._passwords.change_reference_data,
            0x2A: self._perform_security_operation,
            0x2C: self._passwords.reset_retry_counter,
            0x44: self._activate,
            0x47: self._key_pair,
            0x84: self._challenge,
            0x88: self._internal_authenticate,
            0xA4: self._select,
            0xA5: self._select_data,
            0xCA: self._get_data,
            0xDA: self._put_data,
            0xDB: self._import_key,
            0xE6: self._terminate,
        }

    def power_on(self) -> bytes:
        """Give the card power, or reset it; its answer to reset. What a termination left over is erased now."""
        self.power_off()
        if self.memory.flash.remains:
            self.memory.change(replace(self.memory.flash, remains=()))
        check = 0
        for byte in _ATR[1:]:
            check ^= byte
        return _ATR + bytes([check])

    def power_off(self) -> None:
        """Take the power away, and every authorisation with it."""
        self._layer.reset()
        self._selected = False
        self._passwords.forget()
        self.serial = self.memory.flash.serial

    def transmit(self, apdu: bytes) -> bytes:
        """The response APDU."""
        return self._layer.transmit(apdu)

    def _execute(self, command: Command) -> bytes:
        if command.ins not in self._commands:
            raise Refused(NO_SUCH_INS)
        if command.ins != _SELECT and not self._selected:
            raise Refused(CONDITIONS)
        if command.ins not in (_SELECT, _ACTIVATE) and self.memory.flash.terminated:
            raise Refused(TERMINATED)
        return self._commands[command.ins](command)

    # Selection and life cycle

    def _select(self, command: Command) -> bytes:
        """SELECT (7.2.1): by AID, whole or from its beginning; authorisations end."""
        name = command.data
        if command.p1 != 4 or command.p2 not in (0, 0x0C) or len(name) < len(data.RID):
            raise Refused(FILE_NOT_FOUND)
        if not data.aid(self.serial).startswith(name):
            raise Refused(FILE_NOT_FOUND)
        self._selected = True
        self._certificate = data.CERTIFICATES[0]
        self._passwords.forget()
        if self.memory.flash.terminated:
            raise Refused(TERMINATED)
        return b""

    def _terminate(self, command: Command) -> bytes:
        """TERMINATE DF (7.2.16): the KEK is gone, durably; the ciphertext stays until the next power-up."""
        command.demand_no_parameters()
        if self.memory.flash.pins[Password.ADMIN].tries:
            self._passwords.demand(0x83)
        self.memory.change(self.memory.flash.wiped())
        self._passwords.forget()
        return b""

    def _activate(self, command: Command) -> bytes:
        """ACTIVATE FILE (7.2.17): the factory state after a termination, else nothing."""
        command.demand_no_parameters()
        if self.memory.flash.terminated:
            self.memory.change(self.memory.flash.activated())
        return b""

    # Data objects

    def _select_data(self, command: Command) -> bytes:
        """SELECT DATA (7.2.5): which of the certificates the next commands mean."""
        if command.data != _TAG_OF_CERTIFICATES or command.p2 != 4:
            raise Refused(WRONG_DATA)
        if command.p1 >= len(data.CERTIFICATES):
            raise Refused(NO_SUCH_DATA)
        self._certificate = data.CERTIFICATES[command.p1]
        return b""

    def _get_data(self, command: Command) -> bytes:
        """GET DATA (7.2.6)."""
        tag = self._tag(command)
        rule = data.RULES.get(tag)
        if rule:
            self._demand_access(rule.get)
        return data.get(self.memory.flash, self.serial, tag)

    def _put_data(self, command: Command) -> bytes:
        """PUT DATA (7.2.8)."""
        tag = self._tag(command)
        rule = data.RULES.get(tag)
        self._demand_access(rule.put if rule else data.Access.ADMIN)
        self.memory.change(data.put(self.memory.flash, tag, command.data))
        return b""

    def _tag(self, command: Command) -> int:
        return self._certificate if command.p1p2 == data.CERTIFICATES[0] else command.p1p2

    def _demand_access(self, access: data.Access) -> None:
        match access:
            case data.Access.USER:
                self._passwords.demand(0x82)
            case data.Access.ADMIN:
                self._passwords.demand(0x83)
            case data.Access.ALWAYS:
                pass

    # Keys

    def _key_pair(self, command: Command) -> bytes:
        """GENERATE ASYMMETRIC KEY PAIR (7.2.14): make a key pair (80), or read the public half of one (81)."""
        if command.p1p2 not in (0x8000, 0x8100) or command.data[:1] not in {bytes([tag]) for tag in _CRT}:
            raise Refused(WRONG_DATA)
        slot = _CRT[command.data[0]]
        if command.p1 == 0x80:
            self._passwords.demand(0x83)
            self._write_key(slot, _crypto().generate(self.memory.flash.kek, slot))
        return tlv(0x7F49, tlv(0x86, self._key(slot).public))

    def _import_key(self, command: Command) -> bytes:
        """PUT DATA with an extended header list (7.2.8, 4.4.3.12): the private key follows as one string of bytes."""
        if command.p1p2 != 0x3FFF:
            raise Refused(WRONG_P1P2)
        self._passwords.demand(0x83)
        parts = dict(objects(dict(objects(command.data)).get(0x4D, b"")))
        slots = [slot for crt, slot in _CRT.items() if crt in parts]
        if len(slots) != 1 or not {0x7F48, 0x5F48} <= parts.keys():
            raise Refused(WRONG_DATA)
        private = _first_component(parts[0x7F48], parts[0x5F48])
        try:
            self._write_key(slots[0], _crypto().imported(self.memory.flash.kek, slots[0], private))
        except ValueError as error:
            raise Refused(WRONG_DATA) from error
        return b""

    def _perform_security_operation(self, command: Command) -> bytes:
        match command.p1p2:
            case 0x9E9A:
                return self._compute_signature(command)
            case 0x8086:
                return self._decipher(command)
            case _:
                raise Refused(WRONG_P1P2)

    def _compute_signature(self, command: Command) -> bytes:
        """PSO: COMPUTE DIGITAL SIGNATURE (7.2.10)."""
        self._passwords.demand(0x81)
        signature = self._sign(Slot.SIGNATURE, command.data)
        if not self.memory.flash.many_signatures:
            self._passwords.forget(0x81)
        self.memory.change(replace(self.memory.flash, signatures=min(self.memory.flash.signatures + 1, 0xFFFFFF)))
        return signature

    def _internal_authenticate(self, command: Command) -> bytes:
        """INTERNAL AUTHENTICATE (7.2.13)."""
        command.demand_no_parameters()
        self._passwords.demand(0x82)
        return self._sign(Slot.AUTHENTICATION, command.data)

    def _decipher(self, command: Command) -> bytes:
        """PSO: DECIPHER (7.2.11): ECDH with the point in the cipher data object."""
        self._passwords.demand(0x82)
        cipher = dict(objects(command.data)).get(0xA6, b"")
        point = dict(objects(dict(objects(cipher)).get(0x7F49, b""))).get(0x86, b"")
        key = self._key(Slot.DECRYPTION)
        try:
            return bytes(_crypto().agree(self.memory.flash.kek, Slot.DECRYPTION, key, point))
        except ValueError as error:
            raise Refused(WRONG_DATA) from error

    def _sign(self, slot: Slot, digest: bytes) -> bytes:
        key = self._key(slot)
        try:
            return bytes(_crypto().sign(self.memory.flash.kek, slot, key, digest))
        except ValueError as error:
            raise Refused(WRONG_DATA) from error

    def _key(self, slot: Slot) -> Key:
        key = self.memory.flash.keys.get(slot)
        if key is None:
            raise Refused(NO_SUCH_DATA)
        return key

    def _write_key(self, slot: Slot, key: Key) -> None:
        signatures = 0 if slot is Slot.SIGNATURE else self.memory.flash.signatures
        self.memory.change(
            replace(self.memory.flash, keys={**self.memory.flash.keys, slot: key}, signatures=signatures)
        )

    def _challenge(self, command: Command) -> bytes:
        """GET CHALLENGE (7.2.15)."""
        command.demand_no_parameters()
        if command.le is None or command.le >= LONGEST:
            raise Refused(WRONG_LENGTH)
        return os.urandom(command.le)


def _first_component(lengths: bytes, key: bytes) -> bytes:
    """The private scalar (92); the public point (99) may follow it."""
    tag, length = next(headers(lengths), (0, 0))
    if tag != 0x92 or not 0 < length <= len(key):
        raise Refused(WRONG_DATA)
    return key[:length]


def _crypto() -> ModuleType:
    """The keys' module, when it is first needed: it is slow to import."""
    from appliance.simulator import ec_keys

    return ec_keys
