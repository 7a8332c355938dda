# SPDX-License-Identifier: Apache-2.0
"""APDUs as ISO/IEC 7816-4 has them: commands, status words, TLV, command chaining and GET RESPONSE."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from appliance.simulator.faults import name_of

OK = 0x9000
END_OF_FILE = 0x6282
TERMINATED = 0x6285
MEMORY_FAILURE = 0x6581
WRONG_LENGTH = 0x6700
NOT_LAST = 0x6883  # the last command of a chain was expected
SECURITY_STATUS = 0x6982
BLOCKED = 0x6983
CONDITIONS = 0x6985
WRONG_DATA = 0x6A80
FILE_NOT_FOUND = 0x6A82
WRONG_P1P2 = 0x6A86
NO_SUCH_DATA = 0x6A88
FILE_EXISTS = 0x6A89
NO_SUCH_INS = 0x6D00
NO_SUCH_CLA = 0x6E00
TRIES_LEFT = 0x63C0  # and the number of them in the last digit

CHAINED = 0x10
GET_RESPONSE = 0xC0
LONGEST = 256  # bytes of data in one response
LONGEST_EXTENDED = 65536  # bytes of data in one response to an extended command
LONGEST_CHAIN = 2048  # bytes of data in all commands of a chain


class Refused(Exception):
    """A command ends with a status word other than 9000, and with `data` when that is a warning."""

    def __init__(self, status: int, data: bytes = b"") -> None:
        super().__init__(f"{status:04X}")
        self.status = status
        self.data = data


@dataclass(frozen=True, slots=True)
class Command:
    """One command APDU; `le` is the number of bytes asked for, None without an Le field."""

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes = b""
    le: int | None = None

    @property
    def p1p2(self) -> int:
        """Both parameters as one number, as tags and commands are usually written."""
        return self.p1 << 8 | self.p2

    def demand_no_parameters(self) -> None:
        """Raises `Refused` for a command that has no parameters, and came with some."""
        if self.p1p2:
            raise Refused(WRONG_P1P2)


def parse(apdu: bytes) -> Command:
    """The command in the short form (ISO/IEC 7816-4, 5.1). Raises `Refused` for any other length."""
    if len(apdu) < 4:
        raise Refused(WRONG_LENGTH)
    command, body = Command(apdu[0], apdu[1], apdu[2], apdu[3]), apdu[4:]
    if not body:
        return command
    if len(body) == 1:
        return replace(command, le=body[0] or LONGEST)
    length, data, rest = body[0], body[1 : 1 + body[0]], body[1 + body[0] :]
    if not length or len(data) < length or len(rest) > 1:
        raise Refused(WRONG_LENGTH)
    return replace(command, data=data, le=(rest[0] or LONGEST) if rest else None)


def parse_extended(apdu: bytes) -> Command:
    """The command in either form (ISO/IEC 7816-4, 5.1). Raises `Refused` for any other length."""
    body = apdu[4:]
    if len(body) < 3 or body[0]:
        return parse(apdu)
    command, length, rest = Command(apdu[0], apdu[1], apdu[2], apdu[3]), int.from_bytes(body[1:3], "big"), body[3:]
    if not rest:
        return replace(command, le=length or LONGEST_EXTENDED)
    data, le = rest[:length], rest[length:]
    if not length or len(data) < length or len(le) not in (0, 2):
        raise Refused(WRONG_LENGTH)
    return replace(command, data=data, le=(int.from_bytes(le, "big") or LONGEST_EXTENDED) if le else None)


class SmartCard:
    """What every card of this standard is for the device that it is in."""

    restarts = False  # it never leaves the bus by itself
    name_of = staticmethod(name_of)


class CommandLayer:
    """Puts chained commands together and hands long answers out in parts, so that `execute` sees whole ones.

    `read` tells the forms of commands that the card knows, `classes` the class bytes, the one for chaining aside.
    """

    def __init__(
        self,
        execute: Callable[[Command], bytes],
        read: Callable[[bytes], Command] = parse,
        classes: tuple[int, ...] = (0,),
    ) -> None:
        self._execute = execute
        self._read = read
        self._classes = classes
        self._chain: Command | None = None
        self._unsent = b""

    def reset(self) -> None:
        """Forget what was begun."""
        self._chain, self._unsent = None, b""

    def transmit(self, apdu: bytes) -> bytes:
        """The response APDU."""
        try:
            return self._respond(self._read(apdu))
        except Refused as refused:
            self.reset()
            return refused.data + refused.status.to_bytes(2, "big")

    def _respond(self, command: Command) -> bytes:
        if command.cla & ~CHAINED not in self._classes:
            raise Refused(NO_SUCH_CLA)
        chained = bool(command.cla & CHAINED)
        if command.ins == GET_RESPONSE and not chained:
            return self._next_part(command)
        whole = self._joined(command)
        if chained:
            self._chain = whole
            return OK.to_bytes(2, "big")
        self._chain = None
        self._unsent = self._execute(whole)
        return self._part(command.le or LONGEST)

    def _joined(self, command: Command) -> Command:
        begun = self._chain
        if begun is None:
            return replace(command, cla=command.cla & ~CHAINED)
        if (begun.ins, begun.p1p2) != (command.ins, command.p1p2):
            raise Refused(NOT_LAST)
        if len(begun.data) + len(command.data) > LONGEST_CHAIN:
            raise Refused(WRONG_LENGTH)
        return replace(begun, data=begun.data + command.data, le=command.le)

    def _next_part(self, command: Command) -> bytes:
        if not self._unsent:
            raise Refused(CONDITIONS)
        return self._part(command.le or LONGEST)

    def _part(self, length: int) -> bytes:
        part, self._unsent = self._unsent[:length], self._unsent[length:]
        left = len(self._unsent)
        status = 0x6100 | (left if left < LONGEST else 0) if left else OK
        return part + status.to_bytes(2, "big")


def tlv(tag: int, value: bytes) -> bytes:
    """One data object in BER-TLV."""
    size = len(value)
    length = (
        bytes([size]) if size < 0x80 else bytes([0x81, size]) if size < 0x100 else b"\x82" + size.to_bytes(2, "big")
    )
    return tag.to_bytes(1 if tag < 0x100 else 2, "big") + length + value


def objects(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The tag and the value of each data object. Raises `Refused` for what is no BER-TLV."""
    while data:
        tag, data = _tag(data)
        length, data = _length(data)
        if len(data) < length:
            raise Refused(WRONG_DATA)
        yield tag, data[:length]
        data = data[length:]


def headers(data: bytes) -> Iterator[tuple[int, int]]:
    """The tag and the length of each entry of an extended header list, in which no values follow."""
    while data:
        tag, data = _tag(data)
        length, data = _length(data)
        yield tag, length


def _tag(data: bytes) -> tuple[int, bytes]:
    size = 2 if data[0] & 0x1F == 0x1F else 1
    if len(data) < size:
        raise Refused(WRONG_DATA)
    return int.from_bytes(data[:size], "big"), data[size:]


def _length(data: bytes) -> tuple[int, bytes]:
    size = {0x81: 2, 0x82: 3}.get(data[0], 1) if data else 1
    if len(data) < size or (size == 1 and data[0] >= 0x80):
        raise Refused(WRONG_DATA)
    return int.from_bytes(data[1:size] if size > 1 else data[:1], "big"), data[size:]
