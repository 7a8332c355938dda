# SPDX-License-Identifier: Apache-2.0
"""A file is replaced as a whole and for good, or not at all; a folder of files belongs to one process at a time."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from appliance.errors import StateError


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Replace the file `path` with one that holds `data` and has the permissions `mode`, durable on return.

    After a crash at any point there is either the old file or the new one. Raises `StateError`; then the old file is
    in force and nothing is left beside it, unless it is the folder that cannot be made durable.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        write_new(temporary, data, mode)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StateError(path, f"cannot be written: {error.strerror or error}") from error


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Make the file `path` anew, its contents durable on return, its name not yet. Raises `OSError`."""
    path.unlink(missing_ok=True)  # what a power cut left over
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (fsync(2): the file's own fsync does not). Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_folder(folder: Path) -> int:
    """Take `folder` for this process until the descriptor is closed or the process ends, however it ends.

    Needs no room on the disk and no permission to write. Raises `StateError` when another process has it, `OSError`.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StateError(folder, "in use by another daemon") from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
