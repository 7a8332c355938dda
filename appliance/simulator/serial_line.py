# SPDX-License-Identifier: Apache-2.0
"""A serial line that does not exist: a pty whose slave is the daemon's port, and a cable that can be unplugged.

The port has a name of its own, a symbolic link, because each unplugging ends one pty (that is how the daemon gets its
hang-up) and begins another.
"""

import asyncio
import errno
import os
import pty
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from appliance.simulator.inotify import IN_OPEN, Inotify

Receiver = Callable[[bytes], int]  # takes output of the daemon; how many bytes of it were taken

_CHUNK = 4096
_SETTLED = 0.15  # seconds; a terminal program that opens a port sets it up and flushes it within a moment


class SerialLine:
    """The far end of the daemon's serial port."""

    def __init__(self, port: Path) -> None:
        self.port = port
        self._master = -1
        self._receive: Receiver = len
        self._unshown = b""

    def connect(self, receive: Receiver) -> None:
        """Plug the cable in: the daemon hangs up and begins anew, and its output goes to `receive`.

        After `receive` took less than it was given, nothing more comes until `resume`.
        """
        old = self._master
        self._master, self._receive, self._unshown = self._new_pty(), receive, b""
        asyncio.get_running_loop().add_reader(self._master, self._forward)
        self._close(old)

    def disconnect(self) -> None:
        """Unplug the cable: the daemon hangs up, and its output goes nowhere."""
        self.connect(len)

    def send(self, data: bytes) -> None:
        """Let the daemon receive what was typed; a line that is too slow for it loses bytes, as a real one does."""
        with suppress(BlockingIOError):
            os.write(self._master, data)

    def close(self) -> None:
        """Take the port away."""
        self.port.unlink(missing_ok=True)
        self._close(self._master)

    def _new_pty(self) -> int:
        master, path = _raw_pty()
        new = self.port.with_name(f".{self.port.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(path)
        new.replace(self.port)
        return master

    def resume(self) -> None:
        """Go on with the output: the receiver can take more."""
        asyncio.get_running_loop().add_reader(self._master, self._forward)

    def _forward(self) -> None:
        data = self._unshown or _read(self._master)
        loop = asyncio.get_running_loop()
        if data is None:  # the daemon has not opened the port yet, or closed it and will open it again
            loop.remove_reader(self._master)
            loop.call_later(_SETTLED, self._resume_if, self._master)
        elif data:
            self._unshown = data[self._receive(data) :]
            if self._unshown:
                loop.remove_reader(self._master)

    def _resume_if(self, master: int) -> None:
        if master == self._master:
            self.resume()

    def _close(self, master: int) -> None:
        if master >= 0:
            asyncio.get_running_loop().remove_reader(master)
            os.close(master)


class Socket:
    """Where a terminal program attaches to the line: a pty that plugs the cable in when opened, out when closed."""

    def __init__(self, line: SerialLine) -> None:
        self._line = line
        self._master, self.path = _raw_pty()
        self._opened = Inotify()
        self._attached = False

    def start(self) -> None:
        """Wait for terminal programs."""
        self._opened.watch(self.path, IN_OPEN)
        asyncio.get_running_loop().add_reader(self._opened.fileno(), self._on_open)

    def close(self) -> None:
        """Take the pty away; an attached program gets a hang-up."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._opened.fileno())
        loop.remove_reader(self._master)
        loop.remove_writer(self._master)
        self._opened.close()
        os.close(self._master)

    def _on_open(self) -> None:
        if self._opened.read() and not self._attached:
            self._attached = True
            asyncio.get_running_loop().call_later(_SETTLED, self._attach)

    def _attach(self) -> None:
        self._line.connect(self._show)
        asyncio.get_running_loop().add_reader(self._master, self._typed)

    def _show(self, data: bytes) -> int:
        written = 0
        with suppress(BlockingIOError):
            written = os.write(self._master, data)
        if written < len(data):
            asyncio.get_running_loop().add_writer(self._master, self._writable)
        return written

    def _writable(self) -> None:
        asyncio.get_running_loop().remove_writer(self._master)
        self._line.resume()

    def _typed(self) -> None:
        data = _read(self._master)
        if data:
            self._line.send(data)
        elif data is None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._master)
            loop.remove_writer(self._master)
            self._attached = False
            self._line.disconnect()


def _raw_pty() -> tuple[int, Path]:
    """A pty whose slave neither echoes nor translates, whoever opens it: its master and the slave's path."""
    master, slave = pty.openpty()
    try:
        tty.setraw(slave)
        path = Path(os.ttyname(slave))
    finally:
        os.close(slave)
    os.set_blocking(master, False)
    return master, path


def _read(master: int) -> bytes | None:
    """What the other side wrote, b"" for nothing; None when nobody has the other side open."""
    try:
        return os.read(master, _CHUNK)
    except BlockingIOError:
        return b""
    except OSError as error:
        if error.errno == errno.EIO:
            return None
        raise
