# SPDX-License-Identifier: Apache-2.0
"""A YubiHSM 2 is asked who it is and whether the factory's key opens it, and reset inside an authenticated session.

It counts no wrong passwords. What a question costs: one entry in the log of a device in use, five in that of a blank
one, where sixty-two have room and the newest push out the oldest; a device that is forced to keep them all begins
sessions nevertheless, and counts them. A session that was opened is closed again. One with a wrong password cannot be:
it keeps one of sixteen places for thirty seconds.

Yubico's package ``yubihsm`` speaks the protocol, over our own USB transport. It is imported at the first use, because
it is an optional extra and takes its time.
"""

import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from appliance.config import HsmSettings
from appliance.errors import (
    DeviceBusy,
    DeviceError,
    DeviceGone,
    DeviceRefused,
    DeviceStall,
    DeviceTimeout,
    NotThisFamily,
    ProtocolError,
    SecretRefused,
    SerialMismatch,
)
from appliance.hsm.drivers import Connection, Driver, Progress, UsbId
from appliance.hsm.model import Attachment, Credential, HsmState, Probe, Secret
from appliance.hsm.usb import UsbBus, UsbPipe
from appliance.log import get_logger

if TYPE_CHECKING:
    from yubihsm.core import AuthSession, DeviceInfo, YubiHsm

INTERFACE_CLASS = 0xFF  # the maker's own
LONGEST_ANSWER = 4096  # bytes; the device's buffer has 3136
DEFAULT_KEY, DEFAULT_PASSWORD = 1, "password"  # of a device in factory state
UTF8_PATTERN = r"[^\x00-\x1f\x7f\ud800-\udfff]{1,64}"  # half a surrogate pair stands for a byte that is no UTF-8
ALL_DOMAINS = 0xFFFF
AUTHENTICATION_FAILED, SESSIONS_FULL, OBJECT_NOT_FOUND = 0x04, 0x05, 0x0B
INSUFFICIENT_PERMISSIONS, LOG_FULL = 0x09, 0x0A
# What a session with the factory's key is refused for when that key is another one, of another kind, or gone.
NOT_THAT_KEY = (0x02, AUTHENTICATION_FAILED, 0x08, OBJECT_NOT_FOUND)

PROBE_TIMEOUT = 10.0  # seconds for one command
RESET_TIMEOUT = 30.0
LEAVE_TIMEOUT = 10.0  # seconds after which a device that is still on the bus will not restart any more
RETURN_TIMEOUT = 30.0  # seconds within which one that restarts is back
STALE_TIMEOUT = 0.01  # seconds for what an earlier user has not fetched

_log = get_logger(__name__)


class YubiHsmDriver(Driver):
    """YubiHSM 2."""

    family = "yubihsm"
    title = "YubiHSM 2"
    restarts = True
    usb_ids = (UsbId(0x1050, 0x0030, "YubiHSM 2"),)

    def __init__(self, bus: UsbBus, authentication_key: int = DEFAULT_KEY) -> None:
        super().__init__(bus)
        self.authentication_key = authentication_key

    @classmethod
    def configured(cls, bus: UsbBus, settings: HsmSettings) -> Self | None:
        """With the configured authentication key; None without Yubico's package."""
        return cls(bus, settings.yubihsm.authentication_key) if _installed() else None

    def normalise(self, serial: str) -> str:
        """Without blanks around it; a number without leading zeros, for 0007550054 and 7550054 are one."""
        text = serial.strip()
        return text.lstrip("0") or "0" if _is_number(text) else text

    def serial_from_usb(self, attachment: Attachment) -> str:
        """What USB says, which the device must confirm."""
        return self.normalise(attachment.usb_serial)

    @contextmanager
    def open(self, attachment: Attachment) -> Iterator[Connection]:
        """Open exactly this attachment."""
        with self.bus.open(attachment, INTERFACE_CLASS) as pipe:
            yield YubiHsmConnection(_Backend(pipe), self, attachment)

    def reopen(self, attachment: Attachment) -> AbstractContextManager[Connection]:
        """Open the same device where it is after its restart."""
        return self.open(self.bus.returned(attachment, LEAVE_TIMEOUT, RETURN_TIMEOUT))


class _Backend:
    """How Yubico's package reaches the device. After a failure nobody knows whose answer the next one would be."""

    def __init__(self, pipe: UsbPipe) -> None:
        self._pipe = pipe
        self._failure = ""
        self.timeout = PROBE_TIMEOUT
        with suppress(DeviceTimeout):  # there is nothing more
            self._discard()

    def transceive(self, msg: bytes) -> bytes:
        """The answer to one message."""
        if self._failure:
            raise DeviceError(self._failure)
        try:
            self._pipe.write(msg, self.timeout)
            return self._pipe.read(LONGEST_ANSWER, self.timeout)
        except DeviceError as problem:
            self._failure = problem.reason
            raise

    def close(self) -> None:
        """Whoever opened the device closes it."""

    def _discard(self) -> None:
        """Read what was meant for somebody else. Raises `DeviceTimeout` when there is no more of it."""
        try:
            self._pipe.read(LONGEST_ANSWER, STALE_TIMEOUT)
        except DeviceStall:
            self._pipe.clear_halt()


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a session with the factory's key sees."""

    objects: int | None = None  # None where it tells nothing before its log is read
    replaced: bool = False  # the key itself has the factory's password, and is another
    may_reset: bool = True  # as far as is known


class YubiHsmConnection(Connection):
    """One device, until it restarts."""

    def __init__(self, backend: _Backend, driver: YubiHsmDriver, attachment: Attachment) -> None:
        self._backend = backend
        self._driver = driver
        self._attachment = attachment
        self._restarts = False
        self._opened: YubiHsm | None = None

    def probe(self) -> Probe:
        """What the device says of itself. Raises `NotThisFamily`, `SerialMismatch`, another `DeviceError`."""
        if self._restarts:
            raise DeviceGone("the device restarts")
        info = self._info()
        serial = str(info.serial)
        told = self._driver.serial_from_usb(self._attachment)
        if told and told != serial:
            raise SerialMismatch(told, serial)
        contents = self._contents()
        shortcomings = _shortcomings(contents)
        return Probe(
            serial=serial,
            state=HsmState.INITIALIZED if shortcomings else HsmState.ZEROIZED,
            model=self._driver.title,
            firmware=".".join(map(str, info.version)),
            details=(("Objects", _objects(contents)),),
            remarks=(("Log entries", f"{info.log_used} of {info.log_size}"),),
            shortcomings=shortcomings,
            credential=None if contents and contents.may_reset else self._credential(),
        )

    def factory_reset(self, progress: Progress, secret: Secret | None = None) -> None:
        """One RESET DEVICE, with the factory's key if that may, else with the configured one and its password.

        Raises `SecretRefused` for a wrong password. That no answer comes is no failure: the device restarts, and
        where it can be asked again is for `YubiHsmDriver.reopen` to find out.
        """
        progress("opening a session")
        session = self._session_that_may_reset(secret)
        progress("resetting")
        self._backend.timeout = RESET_TIMEOUT
        self._restarts = True
        try:
            with _our_errors():
                session.reset_device()
        except DeviceGone:
            return
        except DeviceRefused as refused:
            self._restarts = False
            _close(session)
            if refused.status == INSUFFICIENT_PERMISSIONS:
                number = self._driver.authentication_key
                raise DeviceRefused(
                    f"authentication key {number} may not reset it", *_code(refused.status)
                ) from refused
            raise

    def _credential(self) -> Credential:
        name = f"password of authentication key {self._driver.authentication_key}"
        return Credential(name, UTF8_PATTERN, "The password has 1 to 64 characters, and is typed in UTF-8.")

    def _hsm(self) -> "YubiHsm":
        """The device as Yubico's package has it; on its first use it is asked for DEVICE INFO."""
        from yubihsm.core import YubiHsm

        if self._opened is None:
            with _our_errors():
                self._opened = YubiHsm(self._backend)  # type: ignore[arg-type]  # a base class of the optional package's
        return self._opened

    def _info(self) -> "DeviceInfo":
        try:
            hsm = self._hsm()
            with _our_errors():
                return hsm.get_device_info()
        except (DeviceRefused, ProtocolError) as problem:  # an id can be that of something else
            raise NotThisFamily("it does not answer as a YubiHSM 2 does") from problem

    def _contents(self) -> _Contents | None:
        """What the factory's key shows; None when it opens nothing."""
        session = self._factory_session()
        if session is None:
            return None
        contents = _seen(session)
        _close(session)
        return contents

    def _session_that_may_reset(self, secret: Secret | None) -> "AuthSession":
        session = self._factory_session()
        if session is not None:
            if _seen(session).may_reset:
                return session
            _close(session)
        if secret is None:
            raise DeviceError(f"it is reset with the {self._credential().name} only")
        return self._configured_session(secret)

    def _factory_session(self) -> "AuthSession | None":
        try:
            return self._session(DEFAULT_KEY, DEFAULT_PASSWORD)
        except DeviceRefused as refused:
            if refused.status in NOT_THAT_KEY:
                return None
            raise

    def _configured_session(self, secret: Secret) -> "AuthSession":
        number = self._driver.authentication_key
        try:
            return self._session(number, secret.text)
        except DeviceRefused as refused:
            if refused.status == AUTHENTICATION_FAILED:
                raise SecretRefused(f"the {self._credential().name} is wrong", *_code(refused.status)) from refused
            if refused.status == OBJECT_NOT_FOUND:
                sentence = f"it has no authentication key {number}: set hsm.yubihsm.authentication_key"
                raise DeviceRefused(sentence, *_code(refused.status)) from refused
            raise

    def _session(self, number: int, password: str) -> "AuthSession":
        """Raises `DeviceRefused`, also where it is we who see by the device's answer that the password is wrong."""
        from yubihsm.exceptions import YubiHsmAuthenticationError

        hsm = self._hsm()
        with _our_errors():
            try:
                return hsm.create_session_derived(number, password)
            except YubiHsmAuthenticationError as error:
                raise DeviceRefused("the password is wrong", *_code(AUTHENTICATION_FAILED)) from error


def _seen(session: "AuthSession") -> _Contents:
    """Raises `DeviceError`; after a refusal the session is closed, for a device has few of them."""
    from yubihsm.defs import CAPABILITY, OBJECT

    try:
        with _our_errors():
            key = session.get_object(DEFAULT_KEY, OBJECT.AUTHENTICATION_KEY).get_info()
            objects = len(session.list_objects())
    except DeviceRefused as refused:
        if refused.status == LOG_FULL:
            return _Contents()
        _close(session)
        raise
    return _Contents(
        objects=objects,
        replaced=bool(key.sequence) or key.domains != ALL_DOMAINS,
        may_reset=bool(key.capabilities & CAPABILITY.RESET_DEVICE),
    )


def _close(session: "AuthSession") -> None:
    """End a session that is of no more use, if the device still listens."""
    with suppress(DeviceError), _our_errors():
        session.close()


def _objects(contents: _Contents | None) -> str:
    """How many there are, for people."""
    if contents is None:
        return "not told without a password"
    return "not told before its log is read" if contents.objects is None else str(contents.objects)


def _shortcomings(contents: _Contents | None) -> tuple[str, ...]:
    """What speaks against factory state, a sentence each. A key of fewer domains would not see every object."""
    if contents is None:
        return ("the factory's authentication key does not open it",)
    found = ["the factory's authentication key was replaced"] if contents.replaced else []
    if contents.objects is None:
        found += ["its log is full, and it tells nothing before that is read"]
    elif contents.objects != 1:
        found += [f"{contents.objects} objects are present, not one"]
    return tuple(found)


@contextmanager
def _our_errors() -> Iterator[None]:
    """What Yubico's package raises becomes ours. None of it has a secret in its text."""
    from yubihsm.exceptions import YubiHsmDeviceError, YubiHsmError

    try:
        yield
    except YubiHsmDeviceError as error:
        if error.code == SESSIONS_FULL:
            raise DeviceBusy("all its sessions are taken; one that nobody uses is free after 30 seconds") from error
        refusal = (
            "its log is full, and has to be read first" if error.code == LOG_FULL else "the device refuses the command"
        )
        raise DeviceRefused(refusal, *_code(error.code)) from error
    except (YubiHsmError, struct.error, ValueError, IndexError, TypeError) as error:  # by what it cannot take apart
        raise ProtocolError("the device's answer is not one of a YubiHSM 2") from error


def _code(status: int) -> tuple[int, str]:
    """The number of an error, and its name."""
    from yubihsm.defs import ERROR

    return int(status), ERROR(status).name.replace("_", " ")


@cache
def _installed() -> bool:
    """Whether the package is there; says once what to do when it is not."""
    if find_spec("yubihsm") is not None:
        return True
    _log.info("no library for YubiHSM 2", hint="install the extra 'yubihsm' of this program")
    return False


def _is_number(serial: str) -> bool:
    return serial.isascii() and serial.isdecimal()
