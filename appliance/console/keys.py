# SPDX-License-Identifier: Apache-2.0
"""Bytes from a terminal become keystrokes, whatever the pieces in which they arrive.

Characters are UTF-8; a byte that is no part of one is kept as a character of its own (PEP 383, surrogateescape), so
that nothing typed on an 8-bit terminal is lost. There are no timers: a lone ESC costs one unknown key and none of those
that follow it.
"""

import codecs
from collections.abc import Iterator, Mapping
from enum import Enum, auto

ESCAPE = 0x1B
LONGEST_SEQUENCE = 16  # bytes of a control sequence that no terminal sends on its own; longer ones are rubbish


class Key(Enum):
    """What a key that is no character asks the editor to do."""

    ENTER = auto()
    INTERRUPT = auto()
    DELETE_OR_LEAVE = auto()
    BACKSPACE = auto()
    DELETE = auto()
    ERASE_LINE = auto()
    ERASE_WORD = auto()
    ERASE_TAIL = auto()
    HOME = auto()
    END = auto()
    LEFT = auto()
    RIGHT = auto()
    OLDER = auto()
    NEWER = auto()
    SEARCH = auto()
    REDRAW = auto()
    COMPLETE = auto()
    UNKNOWN = auto()  # nothing; the bell rings


# Cursor keys come as CSI (ESC [) in the normal and as SS3 (ESC O) in the application mode of a VT100.
KEYS: tuple[tuple[Key, tuple[bytes, ...]], ...] = (
    (Key.ENTER, (b"\r", b"\n")),
    (Key.INTERRUPT, (b"\x03",)),  # ^C
    (Key.DELETE_OR_LEAVE, (b"\x04",)),  # ^D
    (Key.BACKSPACE, (b"\x08", b"\x7f")),
    (Key.DELETE, (b"\x1b[3~",)),
    (Key.ERASE_LINE, (b"\x15",)),  # ^U
    (Key.ERASE_WORD, (b"\x17",)),  # ^W
    (Key.ERASE_TAIL, (b"\x0b",)),  # ^K
    (Key.HOME, (b"\x01", b"\x1b[H", b"\x1bOH", b"\x1b[1~", b"\x1b[7~")),  # ^A
    (Key.END, (b"\x05", b"\x1b[F", b"\x1bOF", b"\x1b[4~", b"\x1b[8~")),  # ^E
    (Key.LEFT, (b"\x02", b"\x1b[D", b"\x1bOD")),  # ^B
    (Key.RIGHT, (b"\x06", b"\x1b[C", b"\x1bOC")),  # ^F
    (Key.OLDER, (b"\x10", b"\x1b[A", b"\x1bOA")),  # ^P
    (Key.NEWER, (b"\x0e", b"\x1b[B", b"\x1bOB")),  # ^N
    (Key.SEARCH, (b"\x12",)),  # ^R
    (Key.REDRAW, (b"\x0c",)),  # ^L
    (Key.COMPLETE, (b"\t",)),
    (Key.UNKNOWN, (b"\x1bOP", b"\x1bOQ", b"\x1bOR", b"\x1bOS")),  # PF1 to PF4
)

Stroke = Key | str  # a key, or one character
Node = dict[int, "Node | Key"]


def trie(keys: tuple[tuple[Key, tuple[bytes, ...]], ...]) -> Node:
    """The table as a tree: each node maps the next byte to another node or, at the end of a sequence, to its key."""
    root: Node = {}
    for key, sequences in keys:
        for *path, last in sequences:
            node = root
            for byte in path:
                match node.setdefault(byte, {}):
                    case Key() as other:
                        raise ValueError(f"{other} is the beginning of {key}")
                    case below:
                        node = below
            node[last] = key
    return root


ROOT: Mapping[int, "Node | Key"] = trie(KEYS)


class Keyboard:
    """The decoder of one terminal; it outlives a line, because the LF of a CR LF may come after the line was taken."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._node = ROOT
        self._sequence = bytearray()  # an escape sequence that is not complete
        self._after_return = False

    def press(self, byte: int) -> Iterator[Stroke]:
        """The keystrokes that are complete with this byte; a control key is always the last of them."""
        if self._sequence:
            yield from self._continue(byte)
        elif byte >= 0x20 and byte != 0x7F:
            self._after_return = False
            yield from map(_printable, self._decoder.decode(bytes((byte,))))
        else:
            yield from self._decoder.decode(b"", final=True)
            yield from self._control(byte)

    def _control(self, byte: int) -> Iterator[Stroke]:
        """A control character; the LF of a CR LF is none."""
        second_half = self._after_return and byte == 0x0A
        self._after_return = byte == 0x0D
        if second_half:
            return
        match ROOT.get(byte, Key.UNKNOWN):
            case Key() as key:
                yield key
            case node:
                self._node = node
                self._sequence.append(byte)

    def _continue(self, byte: int) -> Iterator[Stroke]:
        """The next byte of an escape sequence: a known key, an unknown control sequence, or no sequence at all."""
        self._sequence.append(byte)
        match self._node.get(byte):
            case Key() as key:
                self._sequence.clear()
                yield key
            case None if self._sequence.startswith(b"\x1b[") and 0x20 <= byte <= 0x7E:
                self._node = {}
                if byte >= 0x40 or len(self._sequence) >= LONGEST_SEQUENCE:  # its final byte (ECMA-48, 5.4)
                    self._sequence.clear()
                    yield Key.UNKNOWN
            case None:
                yield from self._no_sequence()
            case node:
                self._node = node

    def _no_sequence(self) -> Iterator[Stroke]:
        """The ESC was none of ours: it is dropped, and what followed it stands for itself."""
        _escape, *followed = self._sequence
        self._sequence.clear()
        yield Key.UNKNOWN
        if followed[0] == ord("[") and len(followed) > 1:  # a control sequence broken off by a byte that ends it
            followed = followed[-1:]
        for byte in followed:
            yield from self.press(byte)


def _printable(character: str) -> Stroke:
    """A character as it is; one of the C1 controls, to which a terminal might react, is no character.

    Nor is it as a byte of its own: an 8-bit terminal reacts to that, and behind a byte C2 a UTF-8 terminal does, too.
    """
    controls = "\x80" <= character <= "\x9f" or "\udc80" <= character <= "\udc9f"
    return Key.UNKNOWN if controls else character
