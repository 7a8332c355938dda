# SPDX-License-Identifier: Apache-2.0
"""The serial port is ours alone while it is open, and nobody at its other end can make the daemon wait.

This is the only module that imports pyserial, and the only one that sets terminal attributes. The kernel's side of it
is in termios(3) and ioctl_tty(2).
"""

import asyncio
import errno
import fcntl
import os
import select
import stat
import struct
import termios
from contextlib import ExitStack, suppress
from pathlib import Path

import serial

from appliance.config import LineSettings
from appliance.errors import Break, Hangup, LineUnavailable
from appliance.log import get_logger

MOST_UNREAD = 4096  # bytes; what comes beyond waits in the kernel, where flow control can see it
WRITE_LIMIT = 20.0  # seconds without any progress, after which the other end counts as gone
CARRIER_INTERVAL = 1.0  # seconds between two looks at DCD while it is absent; its return cannot be waited for
DRAIN_LIMIT = 2.0  # seconds
DRAIN_INTERVAL = 0.02  # seconds

REASONS = {
    errno.ENOENT: "the port does not exist",
    errno.ENXIO: "there is no device behind the port",
    errno.ENODEV: "there is no device behind the port",
    errno.EIO: "there is no working device behind the port",
    errno.EACCES: "permission to open the port is missing",
    errno.EPERM: "permission to open the port is missing",
    errno.ENOTTY: "this is no terminal line",
    errno.EBUSY: "another program holds the port",
    errno.EAGAIN: "another program holds the port",
}

_log = get_logger(__name__)


class MarkDecoder:
    """Undoes what the kernel does to input under PARMRK (termios(3)): FF FF is a byte FF, FF 00 00 a BREAK.

    FF 00 and another byte is one that was damaged on its way; it was not typed like that and is dropped.
    """

    def __init__(self) -> None:
        self._held = b""  # the beginning of a mark

    def feed(self, data: bytes) -> tuple[bool, bytes]:
        """Whether there was a BREAK, and the bytes that came after the last one."""
        data = self._held + data
        self._held = b""
        broken = False
        plain = bytearray()
        start = 0
        while (mark := data.find(0xFF, start)) >= 0:
            plain += data[start:mark]
            marked = data[mark + 1 : mark + 3]
            if marked in (b"", b"\x00"):
                self._held = data[mark:]
                return broken, bytes(plain)
            if marked[0] != 0x00:  # FF FF; anything else is not allowed and stands for itself
                plain.append(0xFF)
                start = mark + (2 if marked[0] == 0xFF else 1)
                continue
            if marked[1] == 0x00:
                broken = True
                plain.clear()
            start = mark + 3
        return broken, bytes(plain + data[start:])


class SerialLine:
    """A `Stream` over one serial port: raw, 8N1, exclusive, never blocking.

    It can be opened again after it was closed, and as long as it is not open it counts as hung up. A BREAK discards
    what was typed before it and is not read yet; several of them that nobody reads meanwhile are one.
    """

    def __init__(self, settings: LineSettings, *, write_limit: float = WRITE_LIMIT) -> None:
        """`write_limit`: seconds without progress after which a write ends in `Hangup`."""
        self._settings = settings
        self._write_limit = write_limit
        self._serial: serial.Serial | None = None
        self._fd = -1
        self._hangup_poll: select.epoll | None = None
        self.held = asyncio.Event()  # set while the port is ours, also while the carrier is waited for
        self._lost = asyncio.Event()
        self._lost.set()
        self._input = asyncio.Event()
        self._writable = asyncio.Event()
        self._writing = asyncio.Lock()
        self._decoder = MarkDecoder()
        self._waiting = bytearray()
        self._broken = False
        self.watches_carrier = False  # the kernel ends the connection when DCD falls

    @property
    def name(self) -> str:
        """The tty's name for people, e.g. ``ttyS0`` or ``pts/3``."""
        path = Path(self._settings.port)
        return str(path.relative_to("/dev")) if path.is_relative_to("/dev") else path.name

    async def open(self) -> None:
        """Take the port, and wait for the carrier where one is required. Raises `LineUnavailable`."""
        self.close()
        try:
            with ExitStack() as undo:
                undo.callback(self.close)
                self._take()
                if self._settings.carrier == "require":
                    await self._carrier()
                self._listen()
                undo.pop_all()
        except (OSError, ValueError, termios.error) as error:
            raise LineUnavailable(Path(self._settings.port), _reason(error)) from error

    def close(self) -> None:
        """Let the port go at once: nothing of this session, neither its input nor its output, is left in it."""
        self._lose("closed")
        self.held.clear()
        if self._serial is None:
            return
        with suppress(OSError, termios.error):  # a port that is gone has nothing left in it
            termios.tcflush(self._fd, termios.TCIOFLUSH)  # closing would wait for output that cannot leave
            termios.tcflow(self._fd, termios.TCOOFF)  # TCOON alone does not undo the XOFF of the other end
            termios.tcflow(self._fd, termios.TCOON)
            fcntl.ioctl(self._fd, termios.TIOCNXCL)
        self._serial.close()
        self._serial = None
        self._fd = -1

    async def read(self) -> bytes:
        """What was typed since the last call, at least one byte. Raises `Break`, and `Hangup` for ever."""
        while not self._lost.is_set():
            if self._broken:
                self._broken = False
                raise Break
            if self._waiting:
                data = bytes(self._waiting)
                self._waiting.clear()
                self._resume()
                return data
            self._input.clear()
            await self._input.wait()
        raise Hangup

    async def write(self, data: bytes) -> None:
        """Return when the kernel has all of `data`. Raises `Hangup`, also when nothing moves for the write limit."""
        loop = asyncio.get_running_loop()
        async with self._writing:
            rest = memoryview(data)
            try:
                async with asyncio.timeout(self._write_limit) as limit:
                    while rest:
                        if sent := self._send(rest):
                            rest = rest[sent:]
                            limit.reschedule(loop.time() + self._write_limit)
                        else:
                            await self._wait_writable()
            except TimeoutError:
                self._lose("output stuck")
                raise Hangup from None

    async def drain(self) -> None:
        """Return when what was written has left the port, or after a bounded time."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(DRAIN_LIMIT):
                while not self._lost.is_set() and _unsent(self._fd):  # noqa: ASYNC110  the kernel tells nobody
                    await asyncio.sleep(DRAIN_INTERVAL)

    async def hung_up(self) -> None:
        """Return when the line is gone; consumes no input."""
        await self._lost.wait()

    def flush_input(self) -> None:
        """Forget what was typed so far."""
        if self._lost.is_set():
            return
        with suppress(OSError, termios.error):  # then the hang-up is on its way
            termios.tcflush(self._fd, termios.TCIFLUSH)
        self._forget()
        self._resume()

    def _take(self) -> None:
        """Open the port for us alone and set it up. Raises what the system and pyserial raise, or `LineUnavailable`."""
        settings = self._settings
        if not stat.S_ISCHR(Path(settings.port).stat().st_mode):
            raise LineUnavailable(Path(settings.port), "this is no terminal line")
        # pyserial sets CLOCAL when it opens, so it is read before; and with this descriptor open DTR does not pulse.
        before = os.open(settings.port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            local = bool(termios.tcgetattr(before)[2] & termios.CLOCAL)
            self._serial = serial.Serial(
                settings.port,
                settings.speed,
                xonxoff=settings.flow == "xonxoff",
                rtscts=settings.flow == "rtscts",
                exclusive=True,
            )
        finally:
            os.close(before)
        self._fd = self._serial.fileno()
        fcntl.ioctl(self._fd, termios.TIOCEXCL)
        self.watches_carrier = settings.carrier == "require" or (settings.carrier == "auto" and not local)
        self._set_attributes()
        self.held.set()

    def _set_attributes(self) -> None:
        """What pyserial leaves open: BREAK is marked, a hang-up is seen, and an empty port does not look like one."""
        attributes = termios.tcgetattr(self._fd)
        attributes[0] = termios.PARMRK
        if self._settings.flow == "xonxoff":
            attributes[0] |= termios.IXON | termios.IXOFF
        attributes[2] |= termios.HUPCL | termios.CREAD | termios.CLOCAL
        if self.watches_carrier:
            attributes[2] &= ~termios.CLOCAL
        attributes[6][termios.VSTART], attributes[6][termios.VSTOP] = b"\x11", b"\x13"
        attributes[6][termios.VMIN], attributes[6][termios.VTIME] = 1, 0  # with VMIN 0, "nothing" reads as end of file
        termios.tcsetattr(self._fd, termios.TCSANOW, attributes)
        termios.tcflush(self._fd, termios.TCIOFLUSH)

    async def _carrier(self) -> None:
        """Return when DCD is there. Raises `OSError` when the port has none, or is gone."""
        while self._serial is not None and not self._serial.cd:  # noqa: ASYNC110  the kernel tells nobody
            await asyncio.sleep(CARRIER_INTERVAL)

    def _listen(self) -> None:
        self._forget()
        self._lost = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._fd, self._readable)
        # An epoll that waits for nothing still reports a hang-up (epoll_ctl(2)): also when we do not read.
        self._hangup_poll = select.epoll()
        self._hangup_poll.register(self._fd, 0)
        loop.add_reader(self._hangup_poll, self._lose, "hung up")

    def _forget(self) -> None:
        self._decoder = MarkDecoder()
        self._waiting.clear()
        self._broken = False

    def _lose(self, reason: str) -> None:
        """The line is gone: whoever waits for it learns it now, and the loop hears of it no more."""
        if self._lost.is_set():
            return
        _log.info("line lost", port=self._settings.port, reason=reason)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._fd)
        loop.remove_writer(self._fd)
        if self._hangup_poll is not None:
            loop.remove_reader(self._hangup_poll)
            self._hangup_poll.close()
            self._hangup_poll = None
        self._forget()
        self._lost.set()
        self._input.set()
        self._writable.set()

    def _resume(self) -> None:
        asyncio.get_running_loop().add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, MOST_UNREAD - len(self._waiting))
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error.strerror or "input error")
            return
        if data:
            self._receive(data)
        else:
            self._lose("end of file")

    def _receive(self, data: bytes) -> None:
        broken, data = self._decoder.feed(data)
        if broken:
            self._waiting.clear()
            self._broken = True
        self._waiting += data
        if len(self._waiting) >= MOST_UNREAD:
            asyncio.get_running_loop().remove_reader(self._fd)
        self._input.set()

    def _send(self, data: memoryview) -> int:
        """How many bytes the kernel took; 0 when it takes none now. Raises `Hangup`."""
        if self._lost.is_set():
            raise Hangup
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lose(error.strerror or "output error")
            raise Hangup from error

    async def _wait_writable(self) -> None:
        loop = asyncio.get_running_loop()
        self._writable.clear()
        loop.add_writer(self._fd, self._writable.set)
        try:
            await self._writable.wait()
        finally:
            if not self._lost.is_set():
                loop.remove_writer(self._fd)


def _unsent(fd: int) -> int:
    """How many bytes wait in the port's output (ioctl_tty(2), TIOCOUTQ)."""
    (count,) = struct.unpack("=i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))
    return int(count)


def _reason(error: OSError | ValueError | termios.error) -> str:
    """One clause for the operator."""
    number = getattr(error, "errno", None) or (error.args[0] if error.args else 0)
    return REASONS.get(number) or (os.strerror(number) if isinstance(number, int) else str(error))
