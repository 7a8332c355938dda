# SPDX-License-Identifier: Apache-2.0
"""A token behind a PKCS#11 library of its maker's: messages in, answers out, every change saved before the answer.

The messages are of our own making: a byte for the command, two for the length of what follows, and then numbers of four
bytes, the lowest first. The library that makes them of PKCS#11 calls is pkcs11_module. A login gives out an access,
which each command that is for somebody who has logged in begins with.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum

from appliance.simulator.iso7816 import Refused
from appliance.simulator.memory import Memory, Pin
from appliance.simulator.pkcs11_flash import LunaFlash, Pkcs11Flash
from appliance.simulator.pkcs11_objects import Failed, Failure, Objects

ANSWER, ERROR = 0x80, 0x7F
ACCESS = 16  # bytes
MOST_ACCESSES = 16  # at a time; of more, the oldest ends
VERSION = (1, 2, 3)  # of the firmware
LABEL = 32  # bytes
SO, USER = 0, 1  # CKU_

# CKF_ of a token
LOGIN_REQUIRED, USER_PIN_INITIALIZED, TOKEN_INITIALIZED = 0x04, 0x08, 0x400
COUNT_LOW, FINAL_TRY, LOCKED = 0x10000, 0x20000, 0x40000  # of the user's PIN; of the SO PIN, four bits further up
_SO_SHIFT = 4


class Code(IntEnum):
    """The commands."""

    TOKEN_INFO = 0x01
    INIT_TOKEN = 0x02
    LOGIN = 0x03
    LOGOUT = 0x04
    INIT_PIN = 0x05
    FIND_OBJECTS = 0x10
    GET_ATTRIBUTE = 0x11
    GENERATE_KEY_PAIR = 0x12
    SIGN = 0x13
    DESTROY_OBJECT = 0x14
    FACTORY_RESET = 0x20


class Pkcs11Card:
    """The device. `save` makes its memory durable, and raises `StateError` when it cannot."""

    restarts = False

    def __init__(self, flash: Pkcs11Flash, save: Callable[[Pkcs11Flash], None]) -> None:
        self.memory = Memory(flash, save)
        self.serial = flash.told_serial  # what it says; a fault can make it lie
        self._accesses: dict[bytes, int] = {}  # who has logged in, and as what
        self._objects = Objects(self.memory)
        self._commands: dict[int, Callable[[bytes], bytes]] = {
            Code.TOKEN_INFO: self._token_info,
            Code.INIT_TOKEN: self._init_token,
            Code.LOGIN: self._login,
            Code.LOGOUT: self._logout,
            Code.INIT_PIN: self._init_pin,
        }
        self._object_commands = {
            Code.FIND_OBJECTS: self._objects.find,
            Code.GET_ATTRIBUTE: self._objects.attribute,
            Code.GENERATE_KEY_PAIR: self._objects.generate,
            Code.SIGN: self._objects.sign,
            Code.DESTROY_OBJECT: self._objects.destroy,
        }

    def power_on(self) -> bytes:
        """It is ready; it says nothing."""
        self.power_off()
        return b""

    def power_off(self) -> None:
        """Forget who has logged in."""
        self._accesses.clear()
        self.serial = self.memory.flash.told_serial

    def name_of(self, message: bytes) -> str:
        """The command's name."""
        return Code(message[0]).name.replace("_", " ") if message and message[0] in set(Code) else ""

    def transmit(self, message: bytes) -> bytes:
        """The answer to one message."""
        try:
            return _answer(message, self._command(message))
        except struct.error:
            return _error(Failure.ARGUMENTS_BAD)
        except Refused:
            return _error(Failure.DEVICE_ERROR)
        except Failed as failed:
            return _error(failed.failure)

    def _command(self, message: bytes) -> bytes:
        code, length = struct.unpack_from("!BH", message)
        data = message[3:]
        if length != len(data):
            raise Failed(Failure.ARGUMENTS_BAD)
        if code in self._object_commands:
            user = self._accesses.get(data[:ACCESS]) == USER
            return self._object_commands[code](data[ACCESS:], user=user)
        if code in self._commands:
            return self._commands[code](data)
        raise Failed(Failure.FUNCTION_NOT_SUPPORTED)

    # The token

    def _token_info(self, _: bytes) -> bytes:
        flash = self.memory.flash
        texts = (flash.label.encode(), flash.MODEL.encode(), self.serial.encode())
        lengths = (flash.PIN_LENGTHS[0], flash.PIN_LENGTHS[-1])
        return struct.pack("<32s16s16sIBBBBB", *texts, self._flags(), *lengths, *VERSION)

    def _flags(self) -> int:
        flash = self.memory.flash
        flags = LOGIN_REQUIRED
        if flash.so_pin.length:
            flags |= TOKEN_INITIALIZED | _counter(flash.so_pin, flash.SO_TRIES) << _SO_SHIFT
        if flash.user_pin.length:
            flags |= USER_PIN_INITIALIZED | _counter(flash.user_pin, flash.USER_TRIES)
        return flags

    def _init_token(self, data: bytes) -> bytes:
        """C_InitToken: everything is destroyed, and the SO PIN stays, or is set where there was none."""
        label, pin = data[:LABEL], data[LABEL:]
        if len(label) != LABEL:
            raise Failed(Failure.ARGUMENTS_BAD)
        if self.memory.flash.so_pin.length:
            self._verify_so(pin)
        self._demand_length(pin)
        text = label.decode("utf-8", "ignore").replace("\0", " ").rstrip()
        self.memory.change(self.memory.flash.initialised(text, pin))
        self._accesses.clear()
        return b""

    # Who has logged in

    def _login(self, data: bytes) -> bytes:
        who, pin = data[:1], data[1:]
        match who:
            case b"\0":
                self._verify_so(pin)
            case b"\1":
                self._verify_user(pin)
            case _:
                raise Failed(Failure.USER_TYPE_INVALID)
        access = os.urandom(ACCESS)
        if len(self._accesses) >= MOST_ACCESSES:
            del self._accesses[next(iter(self._accesses))]
        self._accesses[access] = who[0]
        return access

    def _logout(self, data: bytes) -> bytes:
        if self._accesses.pop(data, None) is None:
            raise Failed(Failure.USER_NOT_LOGGED_IN)
        return b""

    def _init_pin(self, data: bytes) -> bytes:
        """C_InitPIN, which is the security officer's."""
        access, pin = data[:ACCESS], data[ACCESS:]
        if self._accesses.get(access) != SO:
            raise Failed(Failure.USER_NOT_LOGGED_IN)
        self._demand_length(pin)
        self.memory.change(self.memory.flash.with_user_pin(pin))
        return b""

    def _demand_length(self, pin: bytes) -> None:
        if len(pin) not in self.memory.flash.PIN_LENGTHS:
            raise Failed(Failure.PIN_LEN_RANGE)

    def _verify_so(self, pin: bytes) -> None:
        flash = self.memory.flash
        if not flash.so_pin.length:
            raise Failed(Failure.USER_TYPE_INVALID)
        tried = self._tried(flash.so_pin, pin, flash.SO_TRIES)
        if tried.tries == 0:
            self._so_locked(tried)
        self._keep(replace(flash, so_pin=tried))
        if tried.tries < flash.SO_TRIES:
            raise Failed(Failure.PIN_INCORRECT)

    def _verify_user(self, pin: bytes) -> None:
        flash = self.memory.flash
        if not flash.user_pin.length:
            raise Failed(Failure.USER_PIN_NOT_INITIALIZED)
        tried = self._tried(flash.user_pin, pin, flash.USER_TRIES)
        self._keep(replace(flash, user_pin=tried))
        if tried.tries < flash.USER_TRIES:
            raise Failed(Failure.PIN_INCORRECT if tried.tries else Failure.PIN_LOCKED)

    def _so_locked(self, tried: Pin) -> None:
        """What comes of the last wrong SO PIN: no other is taken any more. Raises `Failed`."""
        self._keep(replace(self.memory.flash, so_pin=tried))
        raise Failed(Failure.PIN_LOCKED)

    def _tried(self, known: Pin, pin: bytes, most: int) -> Pin:
        """The PIN with the tries that it has left after this one: all if it was right, none if it was locked."""
        if not known.tries:
            return known
        return replace(known, tries=most if known.matches(pin) else known.tries - 1)

    def _keep(self, flash: Pkcs11Flash) -> None:
        if flash != self.memory.flash:
            self.memory.change(flash)


class LunaCard(Pkcs11Card):
    """The same of a Luna Backup HSM: whoever has it in his hands may reset it, and so does the last wrong SO PIN."""

    def __init__(self, flash: LunaFlash, save: Callable[[Pkcs11Flash], None]) -> None:
        super().__init__(flash, save)
        self._commands[Code.FACTORY_RESET] = self._factory_reset

    def _factory_reset(self, _: bytes) -> bytes:
        """CA_FactoryReset."""
        self.memory.change(self.memory.flash.reset())
        self._accesses.clear()
        return b""

    def _so_locked(self, tried: Pin) -> None:
        self._factory_reset(b"")
        raise Failed(Failure.SO_LOGIN_FAILURE_THRESHOLD)


def _counter(pin: Pin, most: int) -> int:
    """What the flags say of the tries that are left, as of the user's PIN."""
    if pin.tries == 0:
        return LOCKED
    return (COUNT_LOW if pin.tries < most else 0) | (FINAL_TRY if pin.tries == 1 else 0)


def _answer(message: bytes, data: bytes) -> bytes:
    return bytes([message[0] | ANSWER]) + len(data).to_bytes(2, "big") + data


def _error(failure: Failure) -> bytes:
    return bytes([ERROR]) + (4).to_bytes(2, "big") + struct.pack("<I", failure)
