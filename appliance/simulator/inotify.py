# SPDX-License-Identifier: Apache-2.0
"""The kernel tells what happens to a file or in a folder (inotify(7)), so that nothing has to look again and again."""

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path

IN_CLOSE_WRITE = 0x008
IN_CLOSE = 0x018  # written to or not
IN_OPEN = 0x020
IN_MOVED_FROM = 0x040
IN_MOVED_TO = 0x080
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_Q_OVERFLOW = 0x4000  # events were lost: look at everything

_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows


@dataclass(frozen=True, slots=True)
class Happening:
    """One event: what, and to which name in a watched folder ("" for a watched file itself)."""

    mask: int
    name: str


class Inotify:
    """One watch on one file or folder; its descriptor is readable when something happened. Raises `OSError`."""

    def __init__(self) -> None:
        self._fd = -1

    def watch(self, path: Path, mask: int) -> None:
        """Begin to listen."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(path), mask) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._fd

    def read(self) -> list[Happening]:
        """What happened since the last call; empty when nothing did."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return []
        happenings, position = [], 0
        while position < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size
            name = data[position : position + length].rstrip(b"\0")
            happenings.append(Happening(mask, os.fsdecode(name)))
            position += length
        return happenings

    def close(self) -> None:
        """Stop listening."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
