# SPDX-License-Identifier: Apache-2.0
"""The built-in HSM is a token that the configuration names: one of SoftHSM's, or a Luna HSM's own slot.

It is reset like a backup HSM, and besides the security officer logs in to it and initialises it here.
"""

import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from appliance.config import SOFTHSM, BuiltinSettings
from appliance.errors import DeviceError, StateError
from appliance.files import write_atomically
from appliance.hsm.drivers import Connection, Driver, Progress
from appliance.hsm.drivers.luna import LunaConnection, LunaDriver, library_of_client
from appliance.hsm.drivers.pkcs11_slot import TOKEN_INITIALIZED, USER_PIN_INITIALIZED, details
from appliance.hsm.model import BUILTIN, Attachment, HsmState, Probe, Secret
from appliance.hsm.pkcs11.client import Library, Token, loaded
from appliance.hsm.usb import UsbBus
from appliance.programs import NotDone, run

FAMILY = "builtin"
INITIALIZED = "it is initialized"
SOFTHSM_UTIL = Path("/usr/bin/softhsm2-util")


class BuiltinConnection(Connection):
    """The built-in HSM, opened for one operation."""

    @abstractmethod
    def log_in(self, secret: Secret, before: Callable[[], None]) -> None:
        """Have the HSM say whether the security officer's password is right; `before` is called right before that.

        Raises `SecretRefused` when it is wrong, another `DeviceError` otherwise.
        """

    @abstractmethod
    def initialize(self, label: str, secret: Secret, before: Callable[[], None]) -> None:
        """Give it a label, and the password where it has none, and destroy what is in it; `before` as above.

        Raises what `log_in` raises. Returning is not success: `probe` again.
        """

    @abstractmethod
    def remains(self) -> tuple[str, ...]:
        """What speaks against its having just been initialised: its label proves nothing, it may be the old one."""


class SoftHsmDriver(Driver):
    """A token of SoftHSM's in a folder of its own. Whatever is in there is this HSM, so that nothing is ever chosen.

    A SoftHSM token has a new serial number after each reset; the HSM is known by the name of its family instead.
    """

    family = FAMILY
    title = "SoftHSM"
    usb_ids = ()

    def __init__(self, bus: UsbBus, path: Path, folder: Path) -> None:
        super().__init__(bus)
        self.path = path
        self.tokens = folder / "tokens"
        self.variables = {"SOFTHSM2_CONF": str(folder / "softhsm2.conf")}

    def prepare(self) -> None:
        """Make the folder and the configuration for SoftHSM. Raises `StateError`."""
        try:
            self.tokens.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(self.tokens, f"cannot be made: {error.strerror or error}") from error
        text = f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        write_atomically(Path(self.variables["SOFTHSM2_CONF"]), text.encode(), 0o600)

    def nominated(self, attachment: Attachment) -> bool:
        """The built-in HSM, and nothing that is plugged in."""
        return attachment == BUILTIN

    def normalise(self, serial: str) -> str:
        """As it is."""
        return serial

    def serial_from_usb(self, attachment: Attachment) -> str:
        """The name that stands for a serial number."""
        return FAMILY

    def open(self, attachment: Attachment) -> AbstractContextManager[Connection]:
        """Nothing is held open: see `SoftHsmConnection`."""
        return SoftHsmConnection(self)

    def loaded(self) -> AbstractContextManager[Library]:
        """SoftHSM in a process of its own."""
        return loaded(self.path, self.variables)


class SoftHsmConnection(BuiltinConnection):
    """Each look at the token is in a new process: in one that has seen it, SoftHSM may remember what is gone."""

    def __init__(self, driver: SoftHsmDriver) -> None:
        self._driver = driver

    def __enter__(self) -> "SoftHsmConnection":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def probe(self) -> Probe:
        """What SoftHSM says without a login, and whether there is anything in the folder that it does not know."""
        with self._driver.loaded() as library:
            slots = library.tokens()
            tokens = [token for token in slots if token.flags & TOKEN_INITIALIZED]
            objects = sum(library.objects(token.slot) for token in tokens)
        if not slots:
            raise DeviceError("SoftHSM shows no slot")
        shown = tokens[0] if tokens else slots[0]
        shortcomings = _shortcomings(tokens, objects, self._left())
        state = HsmState.INITIALIZED if tokens else HsmState.TERMINATED if shortcomings else HsmState.ZEROIZED
        return Probe(
            serial=FAMILY,
            state=state,
            model=shown.model or self._driver.title,
            firmware=shown.firmware,
            label=shown.label if tokens else "",
            obstacle="" if SOFTHSM_UTIL.exists() else f"{SOFTHSM_UTIL} is not installed",
            details=(*details(shown, self._driver.path), ("Public Objects", str(objects))),
            shortcomings=shortcomings,
            shortest_password=shown.shortest_pin,
            told=shown.serial if tokens else "none",
        )

    def factory_reset(self, progress: Progress, secret: Secret | None = None) -> None:
        """Delete the token with SoftHSM's own program, then what that has left, or had left when it was killed.

        PKCS#11 has no way to destroy a token without its SO PIN.
        """
        progress("looking for its token")
        with self._driver.loaded() as library:
            serials = [token.serial for token in library.tokens() if token.flags & TOKEN_INITIALIZED]
        for serial in serials:
            progress("deleting its token")
            try:
                run(str(SOFTHSM_UTIL), "--delete-token", "--serial", serial, variables=self._driver.variables)
            except NotDone as problem:
                raise DeviceError(str(problem)) from problem
        progress("clearing its folder")
        try:
            for path in self._left():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        except OSError as error:
            raise DeviceError(f"{error.filename}: {error.strerror}") from error

    def log_in(self, secret: Secret, before: Callable[[], None]) -> None:
        """C_Login in a process of its own."""
        with self._driver.loaded() as library:
            slot = _only([token for token in library.tokens() if token.flags & TOKEN_INITIALIZED]).slot
            session = library.open_session(slot)
            before()
            library.log_in(session, secret)

    def initialize(self, label: str, secret: Secret, before: Callable[[], None]) -> None:
        """C_InitToken of the token, or of the free slot where there is none."""
        with self._driver.loaded() as library:
            slots = library.tokens()
            slot = _only([token for token in slots if token.flags & TOKEN_INITIALIZED] or list(slots)).slot
            before()
            library.init_token(slot, secret, label)

    def remains(self) -> tuple[str, ...]:
        """The user's PIN, objects, files that SoftHSM does not know."""
        return tuple(sentence for sentence in self.probe().shortcomings if sentence != INITIALIZED)

    def _left(self) -> list[Path]:
        """What is in the folder of its tokens. Raises `DeviceError`."""
        try:
            return sorted(self._driver.tokens.iterdir())
        except OSError as error:
            raise DeviceError(f"{error.filename}: {error.strerror}") from error


class BuiltinLunaDriver(LunaDriver):
    """The Luna HSM of the appliance itself, named by its serial number."""

    family = FAMILY
    title = "Luna HSM"

    def __init__(self, bus: UsbBus, path: Path, serial: str) -> None:
        super().__init__(bus, path, ())
        self._serial = self.normalise(serial)

    def nominated(self, attachment: Attachment) -> bool:
        """The built-in HSM, and nothing that is plugged in."""
        return attachment == BUILTIN

    def serial_from_usb(self, attachment: Attachment) -> str:
        """The configured one; an HSM that tells another is none of ours."""
        return self._serial

    @contextmanager
    def open(self, attachment: Attachment) -> Iterator[Connection]:
        """Load the library and find the slot. Raises `DeviceError` when not exactly one has the serial number."""
        with loaded(self.path) as library:
            found = [token for token in library.tokens() if self.normalise(token.serial) == self._serial]
            if not found:
                raise DeviceError(f"the library shows no HSM with the serial number {self._serial}")
            yield BuiltinLunaConnection(library, _only(found), self, attachment)


class BuiltinLunaConnection(LunaConnection, BuiltinConnection):
    """The appliance's own HSM in its slot, from the time it was found there."""

    def log_in(self, secret: Secret, before: Callable[[], None]) -> None:
        """C_Login; the HSM counts wrong ones itself, too."""
        session = self._library.open_session(self._present().slot)
        before()
        self._library.log_in(session, secret)

    def initialize(self, label: str, secret: Secret, before: Callable[[], None]) -> None:
        """C_InitToken."""
        slot = self._present().slot
        before()
        self._library.init_token(slot, secret, label)

    def remains(self) -> tuple[str, ...]:
        """The user's PIN, and objects."""
        token = self._present()
        found = {
            "a user PIN is set": bool(token.flags & USER_PIN_INITIALIZED),
            "there are objects": self._library.objects(token.slot) > 0,
        }
        return tuple(sentence for sentence, holds in found.items() if holds)


def builtin(bus: UsbBus, settings: BuiltinSettings, folder: Path) -> Driver | None:
    """The driver of the built-in HSM, None when none is configured; `folder` is for what SoftHSM keeps.

    Raises `StateError` or `DeviceError`, one sentence for people.
    """
    match settings.kind:
        case "softhsm":
            driver = SoftHsmDriver(bus, settings.library or SOFTHSM, folder)
            driver.prepare()
            return driver
        case "luna":
            path = settings.library or library_of_client()
            if path is None:
                raise DeviceError("there is no library for it: set hsm.builtin.library, or install the vendor's client")
            return BuiltinLunaDriver(bus, path, settings.serial)
    return None


def _only(tokens: list[Token]) -> Token:
    if len(tokens) != 1:
        raise DeviceError(f"the library shows {len(tokens)} tokens that may be it")
    return tokens[0]


def _shortcomings(tokens: list[Token], objects: int, left: list[Path]) -> tuple[str, ...]:
    found = {
        INITIALIZED: bool(tokens),
        "a user PIN is set": any(token.flags & USER_PIN_INITIALIZED for token in tokens),
        "there are objects": objects > 0,
        "files of a token are left": bool(left) and not tokens,
    }
    return tuple(sentence for sentence, holds in found.items() if holds)
