# SPDX-License-Identifier: Apache-2.0
"""`lunash`, the client that sshd starts as a login shell, relays a terminal to the network door and nothing more.

It has no say in who the person is or what may be done: the door asks the kernel. All it tells of itself is where the
SSH connection came from, for the audit. It starts for every SSH command, so it imports next to nothing.
"""

import os
import selectors
import signal
import socket
import struct
import termios
import tty
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from appliance.console.frames import LARGEST_PAYLOAD, Decoder, FrameError, Kind, encode, encode_open

NOT_DONE: Final = 1
NO_SERVICE: Final = 255  # as ssh(1) itself ends when it has no connection
FORCED: Final = "/usr/bin/lunash"  # the ForceCommand of systemd/sshd_config.d/appliance-console.conf

_CONNECT_TIMEOUT = 10  # seconds; the door may have a queue of connections that it has not accepted yet
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_ENDING_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class _Stopped(BaseException):
    """A signal asks for the end: its number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def relay(socket_path: Path, command: str | None) -> int:
    """Relay one command, or an interactive session when it is None; the exit status of `lunash`.

    0 when the command did what was asked, or the session ended as it should; 1 when not; 255 when the console service
    could not be reached or broke off; 128 and the number of the signal that ended it (POSIX shell, 2.8.2).
    """
    try:
        try:
            for number in _ENDING_SIGNALS:
                signal.signal(number, _stop)
            return _connect_and_relay(socket_path, command)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)  # the status stands
    except _Stopped as stopped:
        return 128 + stopped.number


def wanted(command: str | None) -> str | None:
    """The command that the person wants, None for an interactive session, when `lunash` is asked to run `command`.

    sshd starts a login shell with its ForceCommand in place of what the client asked for, a subsystem included, and
    keeps that in a variable (sshd_config(5)). Whoever sets the variable himself could as well ask for the command.
    """
    return os.environ.get("SSH_ORIGINAL_COMMAND") if command == FORCED else command


def _connect_and_relay(socket_path: Path, command: str | None) -> int:
    try:
        opening = encode_open(command, _source())
    except ValueError:
        return _complain(NOT_DONE, "The command is too long.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            # For room in a full queue only the kernel waits: a socket with Python's own time limit does not block.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _CONNECT_TIMEOUT, 0))
            sock.connect(bytes(socket_path))
        except OSError as error:
            return _complain(NO_SERVICE, f"The console service cannot be reached: {error.strerror or error}.")
        sock.setblocking(False)
        plain = command is not None and not os.isatty(_STDOUT)
        woken, waker = socket.socketpair()
        with woken, waker:
            waker.setblocking(False)
            status = _with_terminal(_Relay(sock, woken, opening, plain=plain), waker)
    return _complain(status, "The console service broke off the connection.") if status == NO_SERVICE else status


def _source() -> str:
    """Address and port of the SSH client (sshd(8), SSH_CONNECTION); "" when there is none."""
    return " ".join(os.environ.get("SSH_CONNECTION", "").split()[:2])[:64]


def _complain(status: int, sentence: str) -> int:
    message = f"Error:  {sentence}\n".encode(errors="backslashreplace")
    try:
        os.write(_STDERR, message)
    except OSError:
        return status  # nobody is listening; the status still tells
    return status


def _with_terminal(relaying: "_Relay", waker: socket.socket) -> int:
    """Relay with the terminal on stdin, if there is one, in raw mode; it is restored whatever happens.

    A signal writes to `waker` besides: one that comes when Python has just looked for signals, and has not begun to
    wait yet, would be noticed with the next key only (signal.set_wakeup_fd).
    """
    saved = termios.tcgetattr(_STDIN) if os.isatty(_STDIN) else None
    try:
        try:
            signal.set_wakeup_fd(waker.fileno())
            if saved is not None:
                tty.setraw(_STDIN, termios.TCSANOW)  # what was typed already is kept
            return relaying.run()
        finally:
            # From here on no signal may come between the person and the restored terminal.
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    finally:
        if saved is not None:
            _restore(saved)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    for other in _ENDING_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise _Stopped(number)


def _restore(saved: list[Any]) -> None:
    try:
        termios.tcsetattr(_STDIN, termios.TCSANOW, saved)
    except termios.error:
        return  # the terminal itself is gone


class _Relay:
    """Bytes between stdin, stdout and the door."""

    def __init__(self, sock: socket.socket, woken: socket.socket, opening: bytes, *, plain: bool) -> None:
        """`woken` can be read when a signal has come; its handler then ends the relay."""
        self._sock = sock
        self._woken = woken
        self._unsent = bytearray(opening)
        self._plain = plain  # lines end in LF alone: stdout is a file or a pipe that holds the output of a command
        self._input_open = True
        self._decoder = Decoder()

    def run(self) -> int:
        """Relay until the door tells the exit status, and return it; `NO_SERVICE` when it broke off."""
        with selectors.PollSelector() as selector:  # unlike epoll, poll takes regular files
            while True:
                self._watch(selector)
                for key, _ in selector.select():
                    if key.fd == _STDIN:
                        self._read_input()
                        continue
                    self._send()
                    status = self._receive()
                    if status is not None:
                        return status

    def _watch(self, selector: selectors.PollSelector) -> None:
        """Read what is typed only when all before it was sent, so that a busy door slows the typing down."""
        wanted = {
            self._woken.fileno(): selectors.EVENT_READ,
            self._sock.fileno(): selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0),
        }
        if self._input_open and not self._unsent:
            wanted[_STDIN] = selectors.EVENT_READ
        watched = {key.fd: key.events for key in selector.get_map().values()}
        if watched == wanted:
            return
        for fd in watched:
            selector.unregister(fd)
        for fd, events in wanted.items():
            selector.register(fd, events)

    def _read_input(self) -> None:
        try:
            typed = os.read(_STDIN, LARGEST_PAYLOAD)
        except OSError:  # EIO: the terminal hung up
            typed = b""
        self._input_open = bool(typed)
        self._unsent += encode(Kind.DATA, typed) if typed else encode(Kind.END)

    def _send(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:  # the door has closed; what it said last is still to be read
            self._input_open = False
            self._unsent.clear()
            return
        del self._unsent[:sent]

    def _receive(self) -> int | None:
        """Show what the door sent; the exit status when that was all."""
        try:
            received = self._sock.recv(65536)
        except BlockingIOError:
            return None
        except OSError:
            return NO_SERVICE
        if not received:
            return NO_SERVICE
        try:
            for kind, payload in self._decoder.feed(received):
                match kind:
                    case Kind.DATA:
                        _show(payload.replace(b"\r", b"") if self._plain else payload)
                    case Kind.EXIT:
                        return payload[0]
                    case _:
                        return NO_SERVICE
        except FrameError:
            return NO_SERVICE
        except OSError:  # EPIPE, EIO: whoever read the output is gone
            return NOT_DONE
        return None


def _show(data: bytes) -> None:
    while data:
        data = data[os.write(_STDOUT, data) :]
