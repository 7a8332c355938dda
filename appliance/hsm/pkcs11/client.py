# SPDX-License-Identifier: Apache-2.0
"""A PKCS#11 library at work in a child process: whatever it does, every call ends in time and no process stays behind.

A library that hangs or crashes costs the operation that called it. What it did until then is not known, and it is not
called again: a new process is a new start for it, with C_Initialize.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

from appliance.errors import DeviceError, DeviceTimeout, ProtocolError, ResetUnsupported
from appliance.hsm.model import Secret
from appliance.hsm.pkcs11.codes import error
from appliance.log import get_logger

LOAD_TIMEOUT = 15.0  # seconds; with one answer more it is within probe_timeout, so that the person hears the reason
CALL_TIMEOUT = 10.0  # seconds for a question
RESET_TIMEOUT = 60.0  # seconds; within operation_timeout there is time to read back in a new process
END_TIMEOUT = 2.0  # seconds to let go of everything (C_Finalize), and again to die when killed
WATCH = 0.005  # seconds between two looks at a child that is to end
LONGEST_ANSWER = 1 << 20  # bytes

_log = get_logger(__name__)

T = TypeVar("T", bound=object)


class MissingFunction(ResetUnsupported):
    """The library has no such function: it is none of this vendor's, or an old one."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token in a slot, as the library tells it. All strings are untrusted."""

    slot: int
    slot_flags: int
    slot_description: str
    label: str
    model: str
    serial: str
    flags: int
    firmware: str
    shortest_pin: int

    @classmethod
    def parse(cls, answer: Any) -> Self:
        """Raises `ProtocolError`."""
        known = {field.name: str if field.type is str else int for field in fields(cls)}
        if not isinstance(answer, dict) or answer.keys() != known.keys():
            raise ProtocolError("the library's process answered nonsense")
        values: dict[str, Any] = {name: _of_type(answer[name], kind) for name, kind in known.items()}
        return cls(**values)


class Library:
    """A library in its process. Every method raises `DeviceError`, at the latest when its time is over."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        self._process = process
        self._line = line
        self._rest = b""  # of what was read, behind the last answer

    def tokens(self) -> tuple[Token, ...]:
        """Every token that is in a slot now."""
        return tuple(map(Token.parse, _of_type(self._call("tokens", timeout=CALL_TIMEOUT), list)))

    def insertions(self, slot: int) -> int:
        """How often a token was put into the slot; another number is another token, or the same one anew."""
        return _of_type(self._call("insertions", slot, timeout=CALL_TIMEOUT), int)

    def firmware(self, slot: int) -> str:
        """The firmware version as the vendor's function tells it."""
        return _of_type(self._call("firmware", slot, timeout=CALL_TIMEOUT), str)

    def objects(self, slot: int) -> int:
        """How many objects can be seen without a login."""
        return _of_type(self._call("objects", slot, timeout=CALL_TIMEOUT), int)

    def factory_reset(self, slot: int) -> None:
        """CA_FactoryReset with no flags; it needs no login."""
        self._call("factory_reset", slot, timeout=RESET_TIMEOUT)

    def init_token(self, slot: int, pin: Secret, label: str) -> None:
        """C_InitToken with the SO PIN; the label has 32 bytes at most. Raises `SecretRefused` too."""
        self._call("init_token", slot, pin.text, label, timeout=RESET_TIMEOUT)

    def open_session(self, slot: int) -> int:
        """A session for `log_in`. Nothing is tried yet."""
        return _of_type(self._call("open_session", slot, timeout=CALL_TIMEOUT), int)

    def log_in(self, session: int, pin: Secret) -> None:
        """C_Login as the security officer, and out again: the PIN is right. Raises `SecretRefused` too.

        What goes wrong after C_Login says nothing of the PIN, and is none of the caller's business.
        """
        self._call("log_in", session, pin.text, timeout=CALL_TIMEOUT)
        with suppress(DeviceError):
            self._call("log_out", session, timeout=CALL_TIMEOUT)

    def load(self, path: Path) -> None:
        """Load and initialise it."""
        self._call("load", str(path), timeout=LOAD_TIMEOUT)

    def end(self) -> None:
        """Let the library finish, then leave no process, neither the child nor one that the library started."""
        self._line.close()
        self._wait(END_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its own group; not reaped yet, so the number is still its
        if self._wait(END_TIMEOUT):
            self._process.wait()
        else:
            _log.error("library cannot be killed", pid=self._process.pid)

    def _wait(self, patience: float) -> bool:
        """Whether the child has ended; it is not reaped. Needs no descriptor, of which there may be none left."""
        deadline = time.monotonic() + patience
        while os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(WATCH)
        return True

    def _call(self, call: str, *arguments: object, timeout: float) -> Any:
        request = json.dumps({"call": call, "arguments": arguments}).encode() + b"\n"
        deadline = time.monotonic() + timeout
        try:
            self._line.settimeout(timeout)
            self._line.sendall(request)
            answer = self._read_line(deadline)
        except TimeoutError as problem:
            self._kill()
            raise DeviceTimeout(f"the library does not answer ({call})") from problem
        except OSError as problem:
            raise self._crash(call) from problem
        return _result(answer)

    def _read_line(self, deadline: float) -> bytes:
        while b"\n" not in self._rest:
            self._line.settimeout(max(0.001, deadline - time.monotonic()))
            piece = self._line.recv(65536)
            if not piece:
                raise BrokenPipeError
            self._rest += piece
            if len(self._rest) > LONGEST_ANSWER:
                self._kill()
                raise ProtocolError("the library's process answered nonsense")
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _kill(self) -> None:
        """End a library that is not to be waited for; further calls fail at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _crash(self, call: str) -> ProtocolError:
        """The error for a child that is gone, and how it ended."""
        how = ""
        if self._wait(END_TIMEOUT):
            ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            if ended is not None and ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED):
                how = f": {signal.Signals(ended.si_status).name}"
        return ProtocolError(f"the library crashed ({call}{how})")


@contextmanager
def loaded(path: Path, variables: Mapping[str, str] = MappingProxyType({})) -> Iterator[Library]:
    """The library at `path`, loaded and initialised in a process that ends with the block.

    `variables` are for its environment. It ends with the calling thread too, so the block must not move to another.
    Raises `DeviceError`.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as problem:
        raise DeviceError(f"the library's process cannot be started: {problem.strerror}") from problem
    with ours:
        with theirs:
            library = Library(_start(theirs.fileno(), variables), ours)
        try:
            library.load(path)
            yield library
        finally:
            library.end()


def _start(descriptor: int, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-m", "appliance.hsm.pkcs11.child", str(os.getpid()), str(descriptor)]
    try:
        return subprocess.Popen(  # noqa: S603  # our own module; nothing of it comes from outside
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # whatever a library prints, a PIN perhaps
            pass_fds=[descriptor],
            env={**os.environ, **variables},
            start_new_session=True,
        )
    except OSError as problem:
        raise DeviceError(f"the library's process cannot be started: {problem.strerror}") from problem


def _result(line: bytes) -> Any:
    """What an answer holds. Raises the error that it tells of."""
    try:
        match json.loads(line):
            case {"result": result}:
                return result
            case {"failed": str(function), "value": int(value)}:
                raise error(function, value)
            case {"missing": str(function)}:
                raise MissingFunction(f"the library has no function {function}")
            case {"unloadable": str(reason)}:
                raise DeviceError(f"the library cannot be loaded: {reason}")
    except (ValueError, RecursionError):
        pass
    raise ProtocolError("the library's process answered nonsense")


def _of_type(value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise ProtocolError("the library's process answered nonsense")
    return value
