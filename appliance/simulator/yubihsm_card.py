# SPDX-License-Identifier: Apache-2.0
"""A YubiHSM 2 with authentication keys and P-256 keys: messages in, answers out, every change saved before the answer.

Commands, errors and layouts are those of the maker's manual, as far as they are here. It counts the entries of its log,
and keeps none.
"""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from appliance.simulator.iso7816 import Refused
from appliance.simulator.memory import Memory
from appliance.simulator.yubihsm_flash import YubiHsmFlash, authentication_name
from appliance.simulator.yubihsm_objects import Failed, Failure, Objects

if TYPE_CHECKING:
    from appliance.simulator.yubihsm_channel import Channel

VERSION = (2, 4, 1)
PART_NUMBER = b"SIMULATED"
ALGORITHMS = bytes([12, 38, 43])  # P-256, authentication keys, ECDSA with SHA-256
MOST_SESSIONS, SESSION_TIME = 16, 30.0  # seconds without a command, after which another session may have its place
LOG_SIZE = 62  # entries
_ANSWER, _ERROR = 0x80, 0x7F
_RESET_DEVICE = 1 << 0x1C  # a capability


class Code(IntEnum):
    """The commands."""

    ECHO = 0x01
    CREATE_SESSION = 0x03
    AUTHENTICATE_SESSION = 0x04
    SESSION_MESSAGE = 0x05
    DEVICE_INFO = 0x06
    RESET_DEVICE = 0x08
    CLOSE_SESSION = 0x40
    PUT_AUTHENTICATION_KEY = 0x44
    GENERATE_ASYMMETRIC_KEY = 0x46
    LIST_OBJECTS = 0x48
    GET_OBJECT_INFO = 0x4E
    GET_PUBLIC_KEY = 0x54
    SIGN_ECDSA = 0x56
    DELETE_OBJECT = 0x58
    CHANGE_AUTHENTICATION_KEY = 0x6C


@dataclass(slots=True)
class Session:
    """One of the sessions."""

    key: int  # the authentication key's id
    channel: "Channel"
    used: float  # when, last


class YubiHsmCard:
    """The device. `save` makes its memory durable, and raises `StateError` when it cannot."""

    def __init__(
        self,
        flash: YubiHsmFlash,
        save: Callable[[YubiHsmFlash], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory = Memory(flash, save)
        self.serial = flash.serial  # what it says; a fault can make it lie
        self.restarts = False
        self._clock = clock
        self._sessions: dict[int, Session] = {}
        self._logged = 1  # entries; that of being switched on
        self._objects = Objects(self.memory)
        self._open: dict[int, Callable[[bytes], bytes]] = {  # to anybody
            Code.ECHO: lambda data: data,
            Code.DEVICE_INFO: self._device_info,
            Code.CREATE_SESSION: self._create_session,
        }

    def power_on(self) -> bytes:
        """It is ready; it says nothing."""
        self.power_off()
        return b""

    def power_off(self) -> None:
        """Forget the sessions."""
        self._sessions.clear()
        self._logged = 1
        self.serial = self.memory.flash.serial
        self.restarts = False

    def name_of(self, message: bytes) -> str:
        """The command's name, or that of the command that is inside a session's message."""
        code = message[0]
        session = self._sessions.get(message[3]) if code == Code.SESSION_MESSAGE and len(message) > 3 else None
        if session is not None:
            code = (session.channel.opened(message, 4) or message)[0]
        return Code(code).name.replace("_", " ") if code in set(Code) else ""

    def transmit(self, message: bytes) -> bytes:
        """The answer to one message."""
        code, data = message[0], message[3:]
        if len(message) < 3 or int.from_bytes(message[1:3], "big") != len(data):
            return _error(Failure.WRONG_LENGTH)
        try:
            self._log(code)
            match code:
                case Code.AUTHENTICATE_SESSION:
                    return _answer(code, self._authenticate(message))
                case Code.SESSION_MESSAGE:
                    return self._in_session(message)
                case code if code in self._open:
                    return _answer(code, self._open[code](data))
                case _:
                    return _error(Failure.INVALID_COMMAND)
        except Failed as failed:
            return _error(failed.failure)

    def _log(self, code: int) -> None:
        """A command leaves an entry; in a full log it takes the place of the oldest."""
        if code not in (Code.ECHO, Code.DEVICE_INFO, Code.SESSION_MESSAGE):
            self._logged = min(self._logged + 1, LOG_SIZE)

    # To anybody

    def _device_info(self, data: bytes) -> bytes:
        if data == b"\1":
            return PART_NUMBER
        if data not in (b"", b"\0"):
            raise Failed(Failure.INVALID_DATA)
        return struct.pack("!BBBIBB", *VERSION, int(self.serial, 10), LOG_SIZE, self._logged) + ALGORITHMS

    def _create_session(self, data: bytes) -> bytes:
        from appliance.simulator.yubihsm_channel import MAC, Channel, unseal

        if len(data) != 2 + MAC:
            raise Failed(Failure.WRONG_LENGTH)
        number, flash = int.from_bytes(data[:2], "big"), self.memory.flash
        key = flash.authentication.get(number)
        if key is None:
            raise Failed(Failure.OBJECT_NOT_FOUND)
        try:
            keys = unseal(flash.kek, authentication_name(number), key.sealed)
        except ValueError as error:
            raise Failed(Failure.STORAGE_FAILED) from error
        now = self._clock()
        places = (place for place in range(MOST_SESSIONS) if self._is_free(place, now))
        place = next(places, None)
        if place is None:
            raise Failed(Failure.SESSIONS_FULL)
        challenge, channel = Channel.proposed(keys, data[2:])
        self._sessions[place] = Session(number, channel, now)
        return bytes([place]) + challenge + channel.card_cryptogram

    def _is_free(self, place: int, now: float) -> bool:
        session = self._sessions.get(place)
        return session is None or now - session.used > SESSION_TIME

    def _authenticate(self, message: bytes) -> bytes:
        from appliance.simulator.yubihsm_channel import BadMac

        session = self._session(message)
        if len(message) != 4 + 16:
            raise Failed(Failure.WRONG_LENGTH)
        try:
            session.channel.authenticate(message)
        except BadMac as error:
            del self._sessions[message[3]]
            raise Failed(Failure.AUTHENTICATION_FAILED) from error
        return b""

    # In a session

    def _session(self, message: bytes) -> Session:
        session = self._sessions.get(message[3]) if len(message) > 3 else None
        if session is None:
            raise Failed(Failure.INVALID_SESSION)
        session.used = self._clock()
        return session

    def _in_session(self, message: bytes) -> bytes:
        from appliance.simulator.yubihsm_channel import BadMac

        session, place = self._session(message), message[3]
        head = bytes([Code.SESSION_MESSAGE | _ANSWER, place])
        try:
            return session.channel.exchange(message, 4, lambda inner: self._inner(session, place, inner), head)
        except BadMac as error:
            self._sessions.pop(place, None)
            raise Failed(Failure.SESSION_FAILED) from error

    def _inner(self, session: Session, place: int, message: bytes) -> bytes:
        """The answer to what is inside, which has padding behind it."""
        code, end = message[0], 3 + int.from_bytes(message[1:3], "big")
        if end >= len(message):
            return _error(Failure.WRONG_LENGTH)
        self._log(code)
        try:
            return _answer(code, self._command(code, message[3:end], session, place))
        except Failed as failed:
            return _error(failed.failure)

    def _command(self, code: int, data: bytes, session: Session, place: int) -> bytes:
        key = self.memory.flash.authentication.get(session.key)
        if key is None:  # deleted meanwhile
            raise Failed(Failure.INVALID_SESSION)
        match code:
            case Code.CLOSE_SESSION:
                del self._sessions[place]
                return b""
            case Code.RESET_DEVICE:
                if not key.attributes.capabilities & _RESET_DEVICE:
                    raise Failed(Failure.INSUFFICIENT_PERMISSIONS)
                self._reset()
                return b""
            case code if code in self._open and code != Code.CREATE_SESSION:
                return self._open[code](data)
            case _:
                return self._objects.command(code, data, key.attributes)

    def _reset(self) -> None:
        """RESET DEVICE: the KEK is another one, and the device leaves the bus when it has said so."""
        try:
            self.memory.change(self.memory.flash.reset())
        except Refused as refused:
            raise Failed(Failure.STORAGE_FAILED) from refused
        self.restarts = True


def _answer(code: int, data: bytes) -> bytes:
    return bytes([code | _ANSWER]) + len(data).to_bytes(2, "big") + data


def _error(failure: Failure) -> bytes:
    return bytes([_ERROR, 0, 1, failure])
