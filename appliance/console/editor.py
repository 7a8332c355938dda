# SPDX-License-Identifier: Apache-2.0
"""The line editor is a state machine without I/O: bytes typed go in, bytes to show and finished lines come out.

What it shows consists of printable characters, BS, CR, LF, BEL and blanks, so that a terminal without any cursor
control will do. The echo of a line that fits the width is plain; a longer line is shown through a window that moves
sideways.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from itertools import accumulate
from unicodedata import category, east_asian_width

from appliance.console.history import History
from appliance.console.keys import Key, Keyboard, Stroke
from appliance.errors import EndOfFile, Interrupt, LineEvent

LONGEST_LINE = 1024  # characters
MOST_CANDIDATES = 64  # completions listed at a time
BELL = "\a"
NEW_LINE = "\r\n"

Completer = Callable[[str], Sequence[str]]  # what stands left of the cursor -> the whole words that can end it


class Echo(Enum):
    """What of the typing is shown."""

    ON = auto()
    SECRET = auto()  # nothing but the end of the line
    OFF = auto()  # nothing


@dataclass(frozen=True, slots=True)
class Step:
    """What some typed bytes came to."""

    output: bytes  # to be shown
    event: str | LineEvent | None  # a finished line, `Interrupt` or `EndOfFile`; None while the line is not finished
    rest: bytes  # what was typed after the event


class Editor:
    """The editing of one line, after its prompt has been shown.

    Without echo there is neither history nor completion. An event is the end: another line takes another editor, with
    the same keyboard.
    """

    def __init__(
        self,
        keyboard: Keyboard,
        prompt: str = "",
        *,
        columns: int = 80,
        echo: Echo = Echo.ON,
        history: History | None = None,
        complete: Completer | None = None,
    ) -> None:
        self._keyboard = keyboard
        self._echo = echo
        self._remembers = history is not None and echo is Echo.ON
        self._history = history if history is not None and self._remembers else History()
        self._complete = complete if echo is Echo.ON else None
        self._prompt = prompt.rpartition("\n")[2]
        self._columns = columns
        self._view = View(columns - 1 - width(self._prompt) % columns)
        self._text = ""
        self._cursor = 0
        self._place = len(self._history)  # in the history; at its end stands the line that is being typed
        self._draft = ""
        self._part: str | None = None  # what ^R looks for

    def feed(self, data: bytes) -> Step:
        """Take what was typed, up to the end of the line."""
        output: list[str] = []
        for index, byte in enumerate(data):
            for stroke in self._keyboard.press(byte):
                output.append(self._take(stroke))
                if (event := self._event(stroke)) is not None:
                    output.append(self._end(event))
                    return Step(self._encode(output), event, data[index + 1 :])
        return Step(self._encode(output), None, b"")

    def _encode(self, output: Sequence[str]) -> bytes:
        return "".join(output).encode("utf-8", "surrogateescape")

    def _event(self, stroke: Stroke) -> str | LineEvent | None:
        """What this keystroke ends the line with."""
        match stroke:
            case Key.ENTER:
                if self._remembers:
                    self._history.add(self._text)
                return self._text
            case Key.INTERRUPT:
                return Interrupt()
            case Key.DELETE_OR_LEAVE if not self._text:
                return EndOfFile()
        return None

    def _end(self, event: str | LineEvent) -> str:
        """What shows that the line has ended: the cursor stands at the beginning of the next."""
        if self._echo is Echo.OFF:
            return ""
        return f"^C{NEW_LINE}" if self._echo is Echo.ON and isinstance(event, Interrupt) else NEW_LINE

    def _take(self, stroke: Stroke) -> str:
        """Apply one keystroke; what it shows."""
        if stroke is not Key.SEARCH:
            self._part = None
        shown = self._type(stroke) if isinstance(stroke, str) else self._press(stroke)
        if self._echo is not Echo.ON:
            return ""
        return shown + self._view.draw(self._text, self._cursor)

    def _type(self, character: str) -> str:
        if len(self._text) >= LONGEST_LINE:
            return BELL
        return self._edit(self._text[: self._cursor] + character + self._text[self._cursor :], self._cursor + 1)

    def _press(self, key: Key) -> str:
        text, cursor = self._text, self._cursor
        match key:
            case Key.ENTER:
                return ""
            case Key.INTERRUPT:
                return self._move(len(text))
            case Key.BACKSPACE:
                return self._edit(text[: max(cursor - 1, 0)] + text[cursor:], max(cursor - 1, 0))
            case Key.DELETE_OR_LEAVE if not text:
                return ""
            case Key.DELETE | Key.DELETE_OR_LEAVE:
                return self._edit(text[:cursor] + text[cursor + 1 :], cursor)
            case Key.ERASE_LINE:
                return self._edit("", 0)
            case Key.ERASE_WORD:
                left = _before_word(text[:cursor])
                return self._edit(left + text[cursor:], len(left))
            case Key.ERASE_TAIL:
                return self._edit(text[:cursor], cursor)
            case Key.HOME:
                return self._move(0)
            case Key.END:
                return self._move(len(text))
            case Key.LEFT:
                return self._move(cursor - 1)
            case Key.RIGHT:
                return self._move(cursor + 1)
            case Key.OLDER:
                return self._recall(self._place - 1)
            case Key.NEWER:
                return self._recall(self._place + 1)
            case Key.SEARCH if self._remembers:
                return self._search()
            case Key.REDRAW | Key.SEARCH:
                return self._redraw()
            case Key.COMPLETE if self._complete:
                return self._complete_word(self._complete(text[:cursor]))
        return BELL

    def _edit(self, text: str, cursor: int) -> str:
        """The line becomes another; one that stays what it was rings the bell."""
        if text == self._text:
            return BELL
        self._text, self._cursor = text, cursor
        return ""

    def _move(self, cursor: int) -> str:
        if not 0 <= cursor <= len(self._text):
            return BELL
        self._cursor = cursor
        return ""

    def _recall(self, place: int) -> str:
        """The line becomes that at `place` of the history; what was being typed waits behind the youngest."""
        if not 0 <= place <= len(self._history):
            return BELL
        if self._place == len(self._history):
            self._draft = self._text
        self._place = place
        self._text = self._draft if place == len(self._history) else self._history[place]
        self._cursor = len(self._text)
        return ""

    def _search(self) -> str:
        """^R: the next older line that contains what was typed when ^R was pressed first."""
        before = self._place
        if self._part is None:
            self._part, before = self._text, len(self._history)
        place = self._history.search(self._part, before)
        return BELL if place is None else self._recall(place)

    def _complete_word(self, candidates: Sequence[str]) -> str:
        """The word left of the cursor grows as far as all candidates agree; when they do not, they are listed."""
        left = self._text[: self._cursor]
        start = "".join(left.rpartition(" ")[:2])
        match candidates:
            case []:
                return BELL
            case [only]:
                word = f"{only} "
            case _:
                word = _common_beginning(candidates)
        if len(self._text) + len(word) > LONGEST_LINE:
            return BELL
        if len(word) > len(left) - len(start):
            return self._edit(start + word + self._text[self._cursor :], len(start + word))
        return NEW_LINE + _rows(candidates[:MOST_CANDIDATES], self._columns) + self._redraw()

    def _redraw(self) -> str:
        """The prompt again on a fresh line; the view draws the text behind it."""
        self._view.clear()
        return NEW_LINE + self._prompt


class View:
    """What stands behind the prompt, and how to turn it into something else with the least bytes."""

    def __init__(self, room: int) -> None:
        self._room = max(room, 8)  # cells; what follows a prompt that leaves less runs over the edge
        self._left = 0  # the first character of the text that is shown
        self.clear()

    def clear(self) -> None:
        """Nothing stands there any more."""
        self._drawn = ("", 0)  # the text, and the cursor in it
        self._shown = ""  # the part of it that is shown
        self._at = 0  # the cursor in that part

    def draw(self, text: str, cursor: int) -> str:
        """What to send so that `text` is shown, or the part of it around the cursor."""
        if self._drawn == (text, cursor):
            return ""
        self._drawn = (text, cursor)
        window, at = self._window(text, cursor)
        shown, start = self._shown, self._at
        self._shown, self._at = window, at
        if window == shown:
            return _moved(shown, start, at)
        same = _same(shown, window)
        blanks = " " * (width(shown) - width(window))
        back = "\b" * (len(blanks) + width(window[at:]))
        return _moved(shown, start, same) + window[same:] + blanks + back

    def _window(self, text: str, cursor: int) -> tuple[str, int]:
        """The part of the text that is shown, and where in it the cursor stands."""
        if width(text) <= self._room:
            return text, cursor
        if cursor < self._left or width(text[self._left : cursor]) > self._room:
            # Half a window at once: at 9600 baud each move costs visible time.
            self._left = cursor - _fitting(text[:cursor][::-1], self._room // 2)
        end = self._left + _fitting(text[self._left :], self._room)
        return text[self._left : end], cursor - self._left


def width(text: str) -> int:
    """How many cells of a terminal `text` takes: two for the wide East Asian characters, none for what combines."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


@lru_cache(maxsize=1024)
def _cells(character: str) -> int:
    if category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if east_asian_width(character) in {"W", "F"} else 1


def _fitting(text: str, room: int) -> int:
    """How many characters from the beginning of `text` fit into so many cells."""
    for count, cells in enumerate(accumulate(map(_cells, text))):
        if cells > room:
            return count
    return len(text)


def _moved(shown: str, start: int, end: int) -> str:
    """What moves the cursor within what is shown: back by BS, forward by showing it again."""
    return shown[start:end] if start < end else "\b" * width(shown[end:start])


def _same(one: str, other: str) -> int:
    """The length of the beginning that two texts share."""
    short, long = sorted((one, other), key=len)
    if long.startswith(short):
        return len(short)
    return next(place for place, character in enumerate(short) if character != long[place])


def _before_word(text: str) -> str:
    """What is left when the last word and the blanks behind it are gone."""
    left, blank, _word = text.rstrip(" ").rpartition(" ")
    return left + blank


def _common_beginning(words: Sequence[str]) -> str:
    """The longest beginning that all words share in any case, as the first one spells it."""
    first, *others = words
    return first[: min(_same(first.lower(), other.lower()) for other in others)]


def _rows(words: Sequence[str], columns: int) -> str:
    """The words side by side, in lines that a terminal of this width does not have to wrap."""
    rows = [""]
    for word in words:
        if rows[-1] and width(rows[-1]) + 2 + width(word) >= columns:
            rows.append("")
        rows[-1] += f"  {word}" if rows[-1] else word
    return NEW_LINE.join(rows)
