# SPDX-License-Identifier: Apache-2.0
"""A serial line that does not exist: a pty whose slave is the daemon's port, and a cable that can be unplugged.

The port has a name of its own, a symbolic link, because each unplugging ends one pty (that is how the daemon gets its
hang-up) and begins another.
"""

import asyncio
import errno
import os
import pty
import select
import termios
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from appliance.simulator.inotify import IN_CLOSE, IN_OPEN, Inotify

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
        self._resuming: asyncio.TimerHandle | None = None

    def plug(self) -> None:
        """Begin anew with no terminal at the far end: the daemon hangs up, and its output waits for a terminal."""
        old = self._master
        self._master, path = _raw_pty()
        self._unshown = b""
        new = self.port.with_name(f".{self.port.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(path)
        new.replace(self.port)
        self._close(old)

    def connect(self, receive: Receiver) -> None:
        """Give the daemon's output to `receive`, from what waits on. When that takes less than it gets, `resume`."""
        self._receive = receive
        self.resume()

    def resume(self) -> None:
        """Go on with the output: the receiver can take more."""
        asyncio.get_running_loop().add_reader(self._master, self._forward)

    def send(self, data: bytes) -> None:
        """Let the daemon receive what was typed; a line that is too slow for it loses bytes, as a real one does."""
        with suppress(BlockingIOError):
            os.write(self._master, data)

    def close(self) -> None:
        """Take the port away."""
        self.port.unlink(missing_ok=True)
        self._close(self._master)
        self._master = -1

    def _forward(self) -> None:
        data = self._unshown or _read(self._master)
        loop = asyncio.get_running_loop()
        if data is None:  # the daemon has not opened the port yet, or closed it and will open it again
            loop.remove_reader(self._master)
            self._resuming = loop.call_later(_SETTLED, self.resume)
        elif data:
            self._unshown = data[self._receive(data) :]
            if self._unshown:
                loop.remove_reader(self._master)

    def _close(self, master: int) -> None:
        if self._resuming:  # by then the number may be another's
            self._resuming.cancel()
        if master >= 0:
            asyncio.get_running_loop().remove_reader(master)
            os.close(master)


class Socket:
    """Where a terminal program attaches to the line: a pty that plugs the cable in when opened, out when closed."""

    def __init__(self, line: SerialLine) -> None:
        self._line = line
        self._master, self.path = _raw_pty()
        self._happenings = Inotify()
        self._users = 0  # who have it open
        self._foreseen = False  # one of them was found before the kernel told of him
        self._attaching: asyncio.TimerHandle | None = None
        self._attached = False

    def start(self) -> None:
        """Wait for terminal programs."""
        self._happenings.watch(self.path, IN_OPEN | IN_CLOSE)
        asyncio.get_running_loop().add_reader(self._happenings.fileno(), self._hear)

    def close(self) -> None:
        """Take the pty away; an attached program gets a hang-up."""
        asyncio.get_running_loop().remove_reader(self._happenings.fileno())
        self._let_go()
        self._happenings.close()
        os.close(self._master)

    def _hear(self) -> None:
        for happening in self._happenings.read():
            if happening.mask & IN_OPEN:
                self._users += not self._foreseen
            else:
                self._users = max(0, self._users - 1)
            self._foreseen = False
            if self._users == 0:
                self._detach()
        self._recount()
        if self._users and not self._attached and not self._attaching:
            self._attaching = asyncio.get_running_loop().call_later(_SETTLED, self._attach)

    def _recount(self) -> None:
        """The kernel tells of two equal events once. Who counted too many would leave a session to the next user."""
        is_open = self._is_open()
        if is_open and self._users == 0:
            self._users, self._foreseen = 1, True
        elif self._users and not is_open:
            self._users = 0
            self._detach()

    def _attach(self) -> None:
        self._attaching, self._attached = None, True
        self._line.connect(self._show)
        asyncio.get_running_loop().add_reader(self._master, self._typed)

    def _detach(self) -> None:
        if self._attached:
            self._line.plug()
        self._let_go()
        termios.tcflush(self._master, termios.TCIOFLUSH)  # nothing of this user is for the next one

    def _let_go(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._master)
        loop.remove_writer(self._master)
        if self._attaching:
            self._attaching.cancel()
        self._attaching, self._attached = None, False

    def _is_open(self) -> bool:
        poll = select.poll()
        poll.register(self._master, 0)
        return not poll.poll(0)  # without a user there is a hang-up to report

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
        elif data is None:  # the last user is gone; that it was closed is told apart
            asyncio.get_running_loop().remove_reader(self._master)


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
