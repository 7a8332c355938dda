# SPDX-License-Identifier: Apache-2.0
"""The network door and its client speak in small frames: one type byte, two bytes of length, the payload.

The client sends one `OPEN`, then any number of `DATA`, then at most one `END`. The door sends any number of `DATA`,
then one `EXIT`, and closes. The length is big-endian and at most `LARGEST_PAYLOAD`. Both ends are of one version: the
format is private to them, and whatever does not fit it ends the connection.
"""

import json
import struct
from collections.abc import Iterator
from enum import IntEnum

from appliance.errors import ApplianceError

LARGEST_PAYLOAD = 16384

_HEADER = struct.Struct("!BH")


class Kind(IntEnum):
    """What a frame is."""

    OPEN = 1  # client: what is wanted, as JSON; see `encode_open`
    DATA = 2  # both: bytes of the terminal, at least one
    END = 3  # client: nothing more will be typed; no payload
    EXIT = 4  # door: the exit status, one byte


class FrameError(ApplianceError):
    """What the other side sent is not a frame, or not one that fits where it stands: the reason."""


Frame = tuple[Kind, bytes]


def encode(kind: Kind, payload: bytes = b"") -> bytes:
    """One frame. Raises `ValueError` for a payload of more than `LARGEST_PAYLOAD` bytes."""
    if len(payload) > LARGEST_PAYLOAD:
        raise ValueError(f"a payload of {len(payload)} bytes")
    return _HEADER.pack(kind, len(payload)) + payload


def encode_open(command: str | None, source: str) -> bytes:
    """The `OPEN` of a command, or of an interactive session when it is None.

    `source` is where the person's own connection came from, as "address port"; "" when that is not known. Raises
    `ValueError` for a command that does not fit a frame.
    """
    mode = "interactive" if command is None else "command"
    return encode(Kind.OPEN, json.dumps({"mode": mode, "command": command or "", "from": source}).encode())


def decode_open(payload: bytes) -> tuple[str | None, str]:
    """The command (None for an interactive session) and the source of an `OPEN`. Raises `FrameError`."""
    try:
        document = json.loads(payload.decode())
    except (ValueError, RecursionError) as error:
        raise FrameError("the opening is not JSON") from error
    match document:
        case {"mode": "interactive", "command": "", "from": str(source), **more} if not more:
            return None, source
        case {"mode": "command", "command": str(command), "from": str(source), **more} if not more:
            return command, source
    raise FrameError("the opening does not say what is wanted")


class Decoder:
    """Turns a stream of bytes, however it was cut, into frames; holds less than one frame and what it was fed last."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. Raises `FrameError` as soon as a header cannot be one.

        The frames before the wrong one are given first. After the error the decoder is of no use any more.
        """
        self._rest += data
        while len(self._rest) >= _HEADER.size:
            kind, length = _checked(*_HEADER.unpack_from(self._rest))
            end = _HEADER.size + length
            if len(self._rest) < end:
                return
            payload = bytes(self._rest[_HEADER.size : end])
            del self._rest[:end]
            yield kind, payload


def _checked(kind: int, length: int) -> tuple[Kind, int]:
    """A header that some frame may have. Raises `FrameError`."""
    match kind:
        case Kind.OPEN | Kind.DATA:
            fits = 0 < length <= LARGEST_PAYLOAD
        case Kind.END:
            fits = length == 0
        case Kind.EXIT:
            fits = length == 1
        case _:
            fits = False
    if not fits:
        raise FrameError(f"a frame of type {kind} with {length} bytes")
    return Kind(kind), length
