# SPDX-License-Identifier: Apache-2.0
"""The configuration is a TOML file read into frozen values; whatever is not understood is an error with its place.

Every key has a default but those that say otherwise, so that a file holds only what differs. The keys are documented
in ``systemd/console.toml``.
"""

import re
import socket
import tomllib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from appliance import __version__
from appliance.config_values import decimal, serials, usb_ids
from appliance.errors import ConfigError

SPEEDS = (1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600)
FLOWS = ("none", "xonxoff", "rtscts")
CARRIERS = ("auto", "ignore", "require")
LEVELS = ("debug", "info", "warning", "error")
BUILTIN_KINDS = ("none", "softhsm", "luna")
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
LONGEST_TIME = 86400.0  # seconds: a day is as good as for ever, and no clock arithmetic overflows
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,31}")  # of a user, a group or an account
LARGEST_FILE = 1 << 20  # bytes: more is not a configuration

Settings = TypeVar("Settings")
Reader = Callable[[Any], object]  # a value of the file -> ours; raises TypeError or ValueError with the reason


def hostname_of_machine() -> str:
    """The kernel's name for this machine, without what a terminal or a client could stumble over."""
    return re.sub(r"[^A-Za-z0-9._-]", "", socket.gethostname())[:64] or "localhost"


@dataclass(frozen=True, slots=True)
class LineSettings:
    """The serial line of the local console; times in seconds."""

    port: str = "/dev/ttyS0"
    speed: int = 115200
    flow: str = "xonxoff"
    carrier: str = "ignore"
    login_timeout: float = 120.0
    idle_timeout: float = 600.0


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """The network door: where it listens, and which account each Unix user is."""

    enabled: bool = True
    socket: Path = Path("/run/appliance/lunash.sock")
    group: str = "lunash"
    idle_timeout: float = 1800.0
    users: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class LibrarySettings:
    """A PKCS#11 library, and the USB ids of the devices whose tokens it shows: vendor and product."""

    library: Path | None = None  # None: where the vendor's own configuration says
    usb_ids: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.library and not self.usb_ids:
            raise ValueError("usb_ids is missing: without it no device would belong to the library")


@dataclass(frozen=True, slots=True)
class YubiHsmSettings:
    """What a YubiHSM 2 is reset with."""

    authentication_key: int = 1  # the object id of one that may reset; its password is asked for on the console


@dataclass(frozen=True, slots=True)
class BuiltinSettings:
    """The HSM that is built in, and the PKCS#11 library that reaches it."""

    kind: str = "none"
    library: Path | None = None  # None: SoftHSM's usual one, or where the vendor's own configuration says
    serial: str = ""

    def __post_init__(self) -> None:
        if (self.kind == "luna") is not bool(self.serial):
            raise ValueError('a serial number belongs to the kind "luna", and to no other')


@dataclass(frozen=True, slots=True)
class HsmSettings:
    """Which devices are PKI tokens, how long one may take, and what needs a library; times in seconds."""

    pki_serials: tuple[str, ...] = ()
    operation_timeout: float = 120.0
    probe_timeout: float = 30.0
    luna: LibrarySettings = LibrarySettings()
    yubihsm: YubiHsmSettings = YubiHsmSettings()
    pkcs11: tuple[LibrarySettings, ...] = ()
    builtin: BuiltinSettings = BuiltinSettings()


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the operational log holds; the audit trail is always complete."""

    level: str = "info"


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that an operator can decide."""

    state: Path = Path("/var/lib/appliance")
    hostname: str = field(default_factory=hostname_of_machine)
    banner: str = f"Network HSM appliance console {__version__}"
    line: LineSettings = LineSettings()
    network: NetworkSettings = NetworkSettings()
    hsm: HsmSettings = HsmSettings()
    log: LogSettings = LogSettings()


def load(path: Path) -> Config:
    """The configuration in the file `path`. Raises `ConfigError` with the key and the reason."""
    document = _parse(path, _read(path))
    for section, (kind, readers) in SECTIONS.items():
        outer, _, name = section.rpartition(".")
        table = document.setdefault(outer, {}) if outer else document
        if isinstance(table, dict):  # else that is what is wrong, and comes to light with the outer section
            table[name] = _build(path, section, kind, readers, table.get(name, {}))
    return _build(path, "", Config, TOP_LEVEL, document)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(path, "", error.strerror or str(error)) from error
    if len(data) > LARGEST_FILE:
        raise ConfigError(path, "", f"the file is larger than {LARGEST_FILE} bytes")
    return data


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, "", f"not UTF-8 (at line {line})") from error
    except ValueError as error:  # mostly TOMLDecodeError, whose text names line and column
        raise ConfigError(path, "", str(error)) from error
    except RecursionError as error:
        raise ConfigError(path, "", "nested too deeply") from error


def _build(path: Path, section: str, kind: type[Settings], readers: Mapping[str, Reader], values: Any) -> Settings:
    """`kind` from one table of the file; what the table does not have keeps its default."""
    if not isinstance(values, dict):
        raise ConfigError(path, section, "must be a table")
    taken = {}
    for key, value in values.items():
        place = f"{section}.{_shown(key)}" if section else _shown(key)
        if key not in readers:
            raise ConfigError(path, place, "unknown key")
        try:
            taken[key] = readers[key](value)
        except (TypeError, ValueError) as error:
            raise ConfigError(path, place, str(error)) from error
    try:
        return kind(**taken)
    except ValueError as error:
        raise ConfigError(path, section, str(error)) from error


def _shown(key: str) -> str:
    """A key as the file has it; quoted, escaped and bounded unless it is a bare key."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key) else ascii(key[:64])


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("must be true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("must be a string")
    return value


def _line_of_text(value: Any) -> str:
    """Text for one line of a terminal: no control character, at most 200 characters."""
    text = _text(value)
    if len(text) > 200 or not text.isprintable():
        raise ValueError("must be one line of at most 200 printable characters")
    return text


def _name(value: Any) -> str:
    text = _text(value)
    if not NAME.fullmatch(text):
        raise ValueError("must be a name of at most 32 letters, digits, '.', '_' and '-'")
    return text


def _hostname(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,64}", text):
        raise ValueError("must be at most 64 letters, digits, '.', '_' and '-'")
    return text or hostname_of_machine()


def _absolute_path(value: Any) -> Path:
    text = _text(value)
    if not text.startswith("/") or not text.isprintable():
        raise ValueError("must be an absolute path")
    return Path(text)


def _device_path(value: Any) -> str:
    return str(_absolute_path(value))


def _socket_path(value: Any) -> Path:
    path = _absolute_path(value)
    if len(bytes(path)) > 107:  # unix(7): sun_path has 108 bytes with its terminating zero
        raise ValueError("must be at most 107 bytes long")
    return path


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("must be a number of seconds")
    if not 0 < value <= LONGEST_TIME:  # false for nan, too
        raise ValueError(f"must be more than 0 and at most {LONGEST_TIME:.0f} seconds")
    return float(value)


def _number_of(allowed: Container[int], which: str) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or value not in allowed:
            raise ValueError(f"must be {which}")
        return value

    return read


def _one_of(words: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        text = _text(value)
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return read


def _libraries(value: Any) -> tuple[LibrarySettings, ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise TypeError("must be an array of tables")
    for item in value:
        if item.keys() != LIBRARY.keys():
            raise ValueError(f"each must have the keys {' and '.join(LIBRARY)}, and no other")
    built = tuple(LibrarySettings(_library(item["library"]), usb_ids(item["usb_ids"])) for item in value)
    ids = [usb_id for module in built for usb_id in module.usb_ids]
    if not all(module.library and module.usb_ids for module in built):
        raise ValueError("each must have a library and a USB id")
    if len(set(ids)) < len(ids):
        raise ValueError("a USB id is listed twice")
    return built


def _library(value: Any) -> Path | None:
    return None if value == "" else _absolute_path(value)


def _users(value: Any) -> Mapping[str, str]:
    """Unix user -> account."""
    if not isinstance(value, dict):
        raise TypeError("must be a table")
    for user, account in value.items():
        if not (NAME.fullmatch(user) and isinstance(account, str) and NAME.fullmatch(account)):
            raise ValueError(f"{_shown(user)}: a user and its account must both be names")
    return MappingProxyType(value)


def _built(value: Any) -> Any:
    """What was a section of the file."""
    return value


LIBRARY: Mapping[str, Reader] = {"library": _library, "usb_ids": usb_ids}

# An inner section stands before the one that it is in.
SECTIONS: Mapping[str, tuple[type, Mapping[str, Reader]]] = {
    "line": (
        LineSettings,
        {
            "port": _device_path,
            "speed": _number_of(SPEEDS, f"one of {', '.join(map(str, SPEEDS))}"),
            "flow": _one_of(FLOWS),
            "carrier": _one_of(CARRIERS),
            "login_timeout": _seconds,
            "idle_timeout": _seconds,
        },
    ),
    "network": (
        NetworkSettings,
        {
            "enabled": _boolean,
            "socket": _socket_path,
            "group": _name,
            "idle_timeout": _seconds,
            "users": _users,
        },
    ),
    "hsm.luna": (LibrarySettings, LIBRARY),
    "hsm.yubihsm": (YubiHsmSettings, {"authentication_key": _number_of(range(1, 65536), "from 1 to 65535")}),
    "hsm.builtin": (
        BuiltinSettings,
        {"kind": _one_of(BUILTIN_KINDS), "library": _library, "serial": decimal},
    ),
    "hsm": (
        HsmSettings,
        {
            "pki_serials": serials,
            "operation_timeout": _seconds,
            "probe_timeout": _seconds,
            "luna": _built,
            "yubihsm": _built,
            "pkcs11": _libraries,
            "builtin": _built,
        },
    ),
    "log": (LogSettings, {"level": _one_of(LEVELS)}),
}
TOP_LEVEL: Mapping[str, Reader] = {
    "state": _absolute_path,
    "hostname": _hostname,
    "banner": _line_of_text,
    **{section: _built for section in SECTIONS if "." not in section},
}
