# SPDX-License-Identifier: Apache-2.0
"""The line editor turns bytes into lines, and shows what it holds on any terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.console.editor import LONGEST_LINE, Echo, Editor, width
from appliance.console.history import History
from appliance.console.keys import KEYS, Key, Keyboard, trie
from appliance.errors import EndOfFile, Interrupt, LineEvent
from tests.support.dumb_terminal import DumbTerminal

PROMPT = "[local_host] lunash:>"
WORDS = ("factoryReset", "factoryShow", "list", "-serial")


def complete(left: str) -> Sequence[str]:
    """The words of a small language, in any case."""
    part = left.rpartition(" ")[2].lower()
    return [word for word in WORDS if word.lower().startswith(part)]


@dataclass
class Typist:
    """Types at one terminal, line after line, as `Terminal` does it."""

    echo: Echo = Echo.ON
    prompt: str = PROMPT
    history: History | None = field(default_factory=History)
    screen: DumbTerminal = field(default_factory=DumbTerminal)
    events: list[str | type[LineEvent]] = field(default_factory=list)
    output: bytes = b""
    steps: int = 0

    def __post_init__(self) -> None:
        self.keyboard = Keyboard()
        self.begin()

    def begin(self) -> None:
        """A new line."""
        self.editor = Editor(
            self.keyboard,
            self.prompt,
            columns=self.screen.columns,
            echo=self.echo,
            history=self.history,
            complete=complete,
        )
        self.screen.feed(self.prompt.replace("\n", "\r\n").encode())

    def type(self, data: bytes) -> "Typist":
        """Type `data` in one piece."""
        while data:
            step = self.editor.feed(data)
            assert step.event is not None or not step.rest
            self.steps += 1
            self.output += step.output
            self.screen.feed(step.output)
            data = step.rest
            if step.event is not None:
                self.events.append(step.event if isinstance(step.event, str) else type(step.event))
                self.begin()
        return self


ENDS = [
    (b"list\r", "list"),
    (b"list\n", "list"),
    (b"", None),
    (b"\r", ""),
    (b"\x03", Interrupt),
    (b"abc\x03", Interrupt),
    (b"\x04", EndOfFile),
    (b"abc\x15\x04", EndOfFile),
]


@pytest.mark.parametrize(("typed", "event"), ENDS)
def test_a_line_ends_in_one_event(typed: bytes, event: str | type[LineEvent] | None) -> None:
    """CR and LF finish the line, ^C abandons it, ^D leaves when there is none."""
    assert Typist().type(typed).events == ([] if event is None else [event])


EDITS = [
    (b"lisst\x08\x08t", "list"),
    (b"lisst\x7f\x7ft", "list"),
    (b"\x08ok", "ok"),
    (b"one two\x15three", "three"),
    (b"one two \x17three", "one three"),
    (b"one two\x17\x17x", "x"),
    (b"one\x02\x02\x17", "ne"),
    (b"one two\x01\x06\x06\x06\x0b", "one"),
    (b"ne\x01o\x05!", "one!"),
    (b"ac\x02b", "abc"),
    (b"ac\x1b[Db", "abc"),
    (b"ac\x1bODb", "abc"),
    (b"ab\x02\x02\x06x", "axb"),
    (b"ab\x1b[D\x1b[D\x1b[Cx", "axb"),
    (b"bc\x1b[Ha\x1b[Fd", "abcd"),
    (b"bc\x1bOHa\x1bOFd", "abcd"),
    (b"bc\x1b[1~a\x1b[4~d", "abcd"),
    (b"bc\x1b[7~a\x1b[8~d", "abcd"),
    (b"abc\x01\x1b[3~", "bc"),
    (b"abc\x01\x04", "bc"),
    (b"abc\x04", "abc"),
    ("Grüße\x7f\x7fe".encode(), "Grüe"),
    ("日本語\x02\x7f".encode(), "日語"),
    (b"\xe9t\xe9\x7f", "\udce9t"),  # Latin-1
    (b"\xe2\xa2\x7fx", "\udce2x"),  # half a UTF-8 character is two bytes
    (b"\xe2\x82x", "\udce2x"),  # of which one is a control character of 8-bit terminals
    (b"\x80\x01\xc2", "\udcc2"),  # brought together by the cursor, the two would be one in UTF-8
    (b"a\xe2\x82\xac\x7fb", "ab"),
    (b"\xc2\x9b3~x", "3~x"),  # U+009B, a control sequence introducer
]


@pytest.mark.parametrize(("typed", "line"), EDITS)
@pytest.mark.parametrize("echo", [Echo.ON, Echo.SECRET, Echo.OFF])
def test_keys_edit_the_line(typed: bytes, line: str, echo: Echo) -> None:
    """Each editing key does what the manual says, shown or not."""
    assert Typist(echo).type(typed + b"\r").events == [line]


UNKNOWN = [
    (b"\x00", ""),
    (b"\x07", ""),
    (b"\x13", ""),
    (b"\x14", ""),  # ^T
    (b"\x1b[15~", ""),  # F5
    (b"\x1b[1;5C", ""),  # ^Right
    (b"\x1bOP", ""),  # PF1
    (b"\x1bp", "p"),
    (b"\x1b\x1b[C", ""),
    (b"\x1bOut", "Out"),
    (b"\x1b[12\xc3\xa9", "é"),
    (b"\x1b[" + b"1" * 14 + b"ab", "ab"),
]


@pytest.mark.parametrize(("typed", "inserted"), UNKNOWN)
def test_unknown_keys_ring_the_bell(typed: bytes, inserted: str) -> None:
    """A key that means nothing costs a bell; the line and the keys after it are untouched."""
    typist = Typist().type(b"say " + typed + b"proceed\r")

    assert typist.events == [f"say {inserted}proceed"]
    assert typist.screen.bells >= 1


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\x03"])
def test_a_lone_escape_does_not_hold_the_line(end: bytes) -> None:
    """What ends a line ends it also after ESC, ESC [ and ESC O."""
    for escape in (b"\x1b", b"\x1b[", b"\x1b[1", b"\x1bO"):
        assert len(Typist().type(b"list" + escape + end).events) == 1


@pytest.mark.parametrize("chunks", [(b"a\r\nb\r\n",), (b"a\r", b"\nb\r", b"\n"), (b"a\n", b"b\r\n")])
def test_cr_lf_ends_one_line(chunks: Sequence[bytes]) -> None:
    """The LF behind a CR belongs to it, also when it comes late."""
    typist = Typist()
    for chunk in chunks:
        typist.type(chunk)

    assert typist.events == ["a", "b"]


def test_only_a_pair_counts_once() -> None:
    """Empty lines are lines: LF CR and CR CR are two, and so are a CR and an LF behind something else."""
    assert Typist().type(b"\n\r\r\n\n").events == ["", "", "", ""]
    assert Typist().type(b"\rx\n").events == ["", "x"]


def test_a_line_is_bounded() -> None:
    """Beyond 1024 characters the bell rings and nothing is added."""
    typist = Typist().type(b"x" * (LONGEST_LINE + 3) + b"\r")

    assert typist.events == ["x" * LONGEST_LINE]
    assert typist.screen.bells == 3


@pytest.mark.parametrize(
    ("typed", "echoed"),
    [
        (b"list", b"list"),
        (b"list\r", b"list\r\n"),
        (b"a\x08", b"a\b \b"),
        ("ü\x7f".encode(), "ü\b \b".encode()),
        (b"\xe9\x08", b"\xe9\b \b"),
        (b"ac\x02b", b"ac\bbc\b"),
        (b"abc\x01\x0b", b"abc\b\b\b   \b\b\b"),
        (b"abc\x01\x05", b"abc\b\b\babc"),
        (b"abc\x01\x03", b"abc\b\b\babc^C\r\n"),
        (b"\x04", b"\r\n"),
        (b"\t", b"\r\nfactoryReset  factoryShow  list  -serial\r\n" + PROMPT.encode()),
        (b"ab\x02\x0c", b"ab\b\r\n" + PROMPT.encode() + b"ab\b"),
        (b"a\x00", b"a\a"),
    ],
)
def test_the_echo_is_plain(typed: bytes, echoed: bytes) -> None:
    """Typing echoes the typed characters; editing takes blanks and BS."""
    assert Typist().type(typed).output == echoed


@pytest.mark.parametrize(("echo", "shown"), [(Echo.SECRET, b"\r\n"), (Echo.OFF, b"")])
@pytest.mark.parametrize("typed", [b"PASSWORD\r", b"\x00\x07\x0c\t\x10x\x08\x03", b"x" * 2000 + b"\r"])
def test_without_echo_nothing_is_shown(echo: Echo, shown: bytes, typed: bytes) -> None:
    """A password shows nothing but its end: no characters, no bell, no redrawing."""
    assert Typist(echo).type(typed).output == shown


def test_a_secret_is_not_remembered() -> None:
    """Without echo there is no history, neither to add to nor to read from."""
    history = History()
    history.add("list")
    typist = Typist(Echo.SECRET, history=history).type(b"PASSWORD\r\x10\r\x12\r")

    assert (typist.events, len(history)) == (["PASSWORD", "", ""], 1)


HISTORY = [
    (b"\x10\r", "three"),
    (b"\x1b[A\r", "three"),
    (b"\x1bOA\x1bOA\r", "two"),
    (b"\x10\x10\x10\x10\r", "one"),
    (b"dra\x10\x0eft\r", "draft"),
    (b"dra\x10\x10\x1b[B\x1bOBft\r", "draft"),
    (b"\x0ex\r", "x"),
    (b"\x10\x15\x10\r", "two"),
    (b"o\x12\r", "two"),  # ^R: the youngest that contains "o"
    (b"o\x12\x12\r", "one"),
    (b"o\x12\x12\x12\r", "one"),
    (b"zz\x12\r", "zz"),
    (b"e\x12\x12!\r", "one!"),
    (b"tw\x12\x15thr\x12\r", "three"),  # another search begins at the youngest again
]


@pytest.mark.parametrize(("typed", "line"), HISTORY)
def test_history_keys(typed: bytes, line: str) -> None:
    """^P, ^N, the arrows and ^R bring lines of this session back; what was being typed is not lost."""
    assert Typist().type(b"one\rtwo\rthree\r" + typed).events[-1] == line


def test_a_line_without_history() -> None:
    """An answer is not remembered, the history keys ring, and ^R shows the line again."""
    typist = Typist(history=None).type(b"yes\r\x10no\x12")

    assert (typist.events, typist.screen.bells, typist.screen.row) == (["yes"], 1, f"{PROMPT}no")


def test_the_history_is_bounded_and_has_no_repetitions() -> None:
    """Only the youngest lines are kept; blank ones and repetitions are not kept at all."""
    history = History(limit=2)
    for line in ("a", "b", "b", " ", "", "c"):
        history.add(line)

    assert [history[place] for place in range(len(history))] == ["b", "c"]


COMPLETIONS = [
    (b"l\t", "list ", 0),
    (b"token LI\t-s\t", "token list -serial ", 0),
    (b"fac\t", "factory", 0),
    (b"FAC\tr\t", "factoryReset ", 0),
    (b"x\t", "x", 1),
    (b"ly\x02\t", "list y", 0),
    (b"a" * (LONGEST_LINE - 2) + b" f\t", "a" * (LONGEST_LINE - 2) + " f", 1),
]


@pytest.mark.parametrize(("typed", "line", "bells"), COMPLETIONS)
def test_tab_completes(typed: bytes, line: str, bells: int) -> None:
    """A word grows as far as the candidates agree, in any case; a single one gets its blank."""
    typist = Typist().type(typed + b"\r")

    assert (typist.events, typist.screen.bells) == ([line], bells)


def test_candidates_are_listed() -> None:
    """When the word cannot grow, the candidates are shown and the line stands below them."""
    typist = Typist().type(b"x factory\x01\x05\t")

    assert typist.screen.text == f"{PROMPT}x factory\nfactoryReset  factoryShow\n{PROMPT}x factory"


@pytest.mark.parametrize("prompt", ["", PROMPT, "one line\nanother> ", "x" * 70, "日本> "])
def test_long_lines_move_sideways(prompt: str) -> None:
    """A line longer than the terminal stays in its row, and the cursor where the typing is."""
    typist = Typist(prompt=prompt, screen=DumbTerminal())
    rows = len(typist.screen.rows)
    for number in range(300):
        typist.type(b"%c" % (97 + number % 26))
        assert typist.screen.row.endswith(chr(97 + number % 26))
    typist.type(b"\x01")

    assert typist.screen.row.startswith(prompt.rpartition("\n")[2] + "abc")
    assert len(typist.screen.rows) == rows


KEYSTROKES = st.one_of(
    st.sampled_from([sequence for _, sequences in KEYS for sequence in sequences if sequence not in b"\r\n\x03\x04\t"]),
    st.characters(codec="utf-8").map(str.encode),
    st.sampled_from([b"\x80", b"\xbf", b"\xff", b"\x00", b"\x1f"]),  # no half character: its other half might follow
    st.text("abc d", min_size=20, max_size=60).map(str.encode),
)


@given(st.lists(KEYSTROKES, max_size=40), st.sampled_from([40, 80, 132]))
def test_the_screen_shows_the_line(strokes: list[bytes], columns: int) -> None:
    """Whatever is typed, the terminal shows the prompt and the line, or the part of it around the cursor."""
    typist = Typist(screen=DumbTerminal(columns))
    for stroke in strokes:
        typist.type(stroke)
    typist.type(b"\x1b\x05.\r")  # whatever hangs is settled, and the line ends in a full stop

    line = typist.events[-1]
    shown = typist.screen.text.split("\n")[-2]
    assert isinstance(line, str)
    visible = "".join(c for c in line if width(c))
    assert shown.startswith(PROMPT)
    assert visible.endswith(shown.removeprefix(PROMPT))
    assert width(line) > columns - 1 - len(PROMPT) or visible.rstrip(" ") == shown.removeprefix(PROMPT)


@given(st.one_of(st.binary(max_size=200), st.lists(KEYSTROKES, max_size=30).map(b"".join)), st.data())
def test_the_pieces_do_not_matter(typed: bytes, data: st.DataObject) -> None:
    """The lines and the echo are the same however the bytes are split, down to the byte."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(typed)), max_size=8)) | {0, len(typed)})
    whole = Typist().type(typed)
    pieces = Typist()
    for start, end in pairwise(cuts):
        pieces.type(typed[start:end])

    assert (pieces.events, pieces.output) == (whole.events, whole.output)


def test_one_chunk_echoes_in_one_piece() -> None:
    """What is typed in one piece is shown in one piece."""
    assert Typist().type(b"token backup\x08\x08list").steps == 1


def test_the_key_table_has_no_contradictions() -> None:
    """No sequence is the beginning of another: the table would be ambiguous."""
    with pytest.raises(ValueError, match="beginning"):
        trie(((Key.HOME, (b"\x1b[",)), (Key.END, (b"\x1b[F",))))
