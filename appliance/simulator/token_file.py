# SPDX-License-Identifier: Apache-2.0
"""A token file is one device's flash memory: read when it is plugged in, replaced as a whole with every change.

Never is a file made where there was none: a device whose file was moved or removed is unplugged, and says so.
"""

import ctypes
import errno
import os
import threading
from contextlib import suppress
from pathlib import Path

from appliance.errors import StateError
from appliance.files import sync_folder, write_new
from appliance.simulator.memory import Flash, dump

_MODE = 0o600
_LARGEST = 1 << 20  # bytes; a token file has some thousand

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2  # renameat2(2)

_Identity = tuple[int, int, int, int]


class FileGone(StateError):
    """The name leads to another file than it did, or to none: the device is unplugged."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "the file was moved, removed or edited")


class TokenFile:
    """The file of one plugged device."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.replaced = 0  # how often `save` replaced the file; each time the folder's watchers hear of it once
        self._identity: _Identity | None = None
        self._lock = threading.Lock()

    def read(self) -> bytes:
        """The contents; from now on this file is the device. Raises `StateError`."""
        with suppress(OSError):
            _temporary(self.path).unlink(missing_ok=True)  # what a crash left over
        try:
            self._identity = _identity(self.path.lstat())
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                self._identity = _identity(os.fstat(descriptor))
                contents = file.read(_LARGEST + 1)
        except OSError as error:
            raise StateError(self.path, f"cannot be read: {error.strerror or error}") from error
        if len(contents) > _LARGEST:
            raise StateError(self.path, "too large for a token")
        return contents

    def save(self, flash: Flash) -> None:
        """Remember, durable on return. Raises `FileGone`, and `StateError` when it cannot be written."""
        temporary = _temporary(self.path)
        try:
            write_new(temporary, dump(flash), _MODE)
            with self._lock:
                self._replace(temporary)
            sync_folder(self.path.parent)
        except FileNotFoundError as error:
            raise FileGone(self.path) from error
        except OSError as error:
            raise StateError(self.path, f"cannot be written: {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def in_place(self) -> bool:
        """Whether the name still leads to this file, and nobody else wrote to it."""
        with self._lock:
            return self._in_place()

    def _in_place(self) -> bool:
        try:
            return _identity(self.path.lstat()) == self._identity
        except OSError:
            return False

    def _replace(self, temporary: Path) -> None:
        if not self._in_place():
            raise FileGone(self.path)
        new = _identity(temporary.lstat())
        self.replaced += 1
        if _rename(temporary, self.path, _EXCHANGE) and _identity(temporary.lstat()) != self._identity:
            _rename(temporary, self.path, _EXCHANGE)  # somebody put another file there in this very moment
            raise FileGone(self.path)
        self._identity = new


def create(path: Path, flash: Flash) -> None:
    """Make the file of a new device, whole from its first moment. Raises `StateError`, also when there is a file."""
    temporary = _temporary(path)
    try:
        write_new(temporary, dump(flash), _MODE)
        _rename(temporary, path, _NOREPLACE)
        sync_folder(path.parent)
    except OSError as error:
        raise StateError(path, f"cannot be made: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _rename(old: Path, new: Path, flag: int) -> bool:
    """Rename as the flag of renameat2(2) says; False when the file system knows no such flag and it was less exact."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number))
    if flag == _NOREPLACE and new.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    if flag == _EXCHANGE:
        new.lstat()
    old.replace(new)
    return False
