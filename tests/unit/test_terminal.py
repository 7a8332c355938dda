# SPDX-License-Identifier: Apache-2.0
"""A terminal asks for lines and shows text over any stream."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.console.terminal import Stream, Terminal, visible
from appliance.errors import Break, EndOfFile, Hangup, Interrupt, LineEvent, Timeout
from appliance.shell.invocation import Terminal as ShellTerminal
from tests.support.clock import let_time_pass
from tests.support.fake_stream import FakeStream

LIMIT = 20.0  # seconds until a test gives up
SOON = 0.02  # seconds


def test_it_is_what_the_shell_needs() -> None:
    """The seams fit: the shell's terminal, and a stream."""
    stream: Stream = FakeStream()
    terminal: ShellTerminal = Terminal(stream)

    assert terminal


# Text


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("", b""),
        ("one\ntwo\n", b"one\r\ntwo\r\n"),
        ("a\tb", b"a\tb"),
        ("Grüße", "Grüße".encode()),
        ("\x1b[2J", b"\\x1b[2J"),
        ("a\rb\bc\ad\x00", b"a\\rb\\x08c\\x07d\\x00"),
        ("\x9b\x7f", b"\\x9b\\x7f"),
        ("\udcff\udc80", b"\\xff\\x80"),
        ("\ud800", b"\\ud800"),
        ("\u202e\u2028\ufeff", b"\\u202e\\u2028\\ufeff"),
    ],
)
async def test_text_is_shown_and_never_obeyed(text: str, sent: bytes) -> None:
    """Line feeds become CR LF; every other control character is shown as an escape."""
    stream = FakeStream()
    await Terminal(stream).write(text)

    assert stream.sent == sent


@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Zs"])))
def test_what_is_visible_is_printable(text: str) -> None:
    """Nothing that a terminal might obey is left, and text without it is left alone."""
    shown = visible(text)

    assert shown.replace("\n", "").replace("\t", "").isprintable()
    assert shown == text or not text.isprintable()


# Lines


async def test_a_line_is_asked_for() -> None:
    """The prompt is shown, the typing echoed, the line returned."""
    stream = FakeStream(b"token backup", b" list\r")

    assert await Terminal(stream).readline("lunash:>") == "token backup list"
    assert stream.sent == b"lunash:>token backup list\r\n"
    assert stream.writes == 3


async def test_the_prompt_is_untrusted_text() -> None:
    """A foreign string in a question does nothing to the terminal."""
    stream = FakeStream(b"\x0cy\r")
    await Terminal(stream).readline("\nErase '\x1b[2J'? ")

    assert stream.sent == b"\r\nErase '\\x1b[2J'? \r\nErase '\\x1b[2J'? y\r\n"


async def test_a_secret_is_not_shown() -> None:
    """Nothing but the end of the line is echoed, and the history does not know it."""
    stream = FakeStream(b"PASSWORD\r", b"\x10\r")
    terminal = Terminal(stream)

    assert await terminal.readline("Password: ", secret=True, history=True) == "PASSWORD"
    assert await terminal.readline(">", history=True) == ""
    assert stream.sent == b"Password: \r\n>\a\r\n"


async def test_the_history_is_that_of_the_session() -> None:
    """A command comes back with ^P, an answer does not."""
    terminal = Terminal(FakeStream(b"list\rproceed\r\x10\r"))

    assert await terminal.readline(">", history=True) == "list"
    assert await terminal.readline("?") == "proceed"
    assert await terminal.readline(">", history=True) == "list"


async def test_words_are_completed() -> None:
    """Tab asks for what stands left of the cursor."""
    asked: list[str] = []

    def complete(left: str) -> list[str]:
        asked.append(left)
        return ["list"]

    assert await Terminal(FakeStream(b"token li\t\r")).readline(">", complete=complete) == "token list "
    assert asked == ["token li"]


async def test_type_ahead_is_kept() -> None:
    """What was typed behind the end of a line is the next line."""
    terminal = Terminal(FakeStream(b"one\rtwo\r\nth", b"ree\n"))

    assert [await terminal.readline("") for _ in range(3)] == ["one", "two", "three"]


async def test_without_echo_nothing_is_echoed() -> None:
    """A one-shot command has no person at its other end."""
    stream = FakeStream(b"proceed\r")
    terminal = Terminal(stream, echo=False)

    assert await terminal.readline("proceed? ") == "proceed"
    assert stream.sent == b"proceed? "


@pytest.mark.parametrize(
    ("typed", "event", "sent"),
    [
        (b"abc\x03", Interrupt, b">abc^C\r\n"),
        (b"\x04", EndOfFile, b">\r\n"),
        (Break(), Break, b">\r\n"),
        (Hangup(), Hangup, b">"),
    ],
)
async def test_what_is_no_line_is_raised(typed: bytes | LineEvent, event: type[LineEvent], sent: bytes) -> None:
    """Each event is an exception, and leaves the cursor at the beginning of a line."""
    stream = FakeStream(typed)
    with pytest.raises(event):
        await Terminal(stream).readline(">")

    assert stream.sent == sent


async def test_a_break_abandons_what_was_typed() -> None:
    """After a BREAK the next line is a fresh one, and so is the key that was half typed."""
    terminal = Terminal(FakeStream(b"half a line\x1b[", Break(), b"A\r"))
    with pytest.raises(Break):
        await terminal.readline(">")

    assert await terminal.readline(">") == "A"


async def test_input_can_be_flushed() -> None:
    """What was typed ahead is forgotten, here and in the stream."""
    stream = FakeStream(b"one\rtwo\r", b"three\r")
    terminal = Terminal(stream)
    await terminal.readline("")
    terminal.flush_input()
    stream.type(b"four\r")

    assert (await terminal.readline(""), stream.flushed) == ("four", 1)


# Time


async def test_an_idle_terminal_times_out() -> None:
    """When nobody types for the idle time, the question ends in `Timeout` on a fresh line."""
    stream = FakeStream()
    async with asyncio.timeout(LIMIT):
        with pytest.raises(Timeout):
            await Terminal(stream, idle_timeout=SOON).readline(">")

    assert stream.sent == b">\r\n"


async def test_the_time_of_one_question() -> None:
    """A timeout of its own bounds the whole line, however busily somebody types."""
    stream = FakeStream(b"a")
    terminal = Terminal(stream, idle_timeout=LIMIT)

    async def type_for_ever() -> None:
        while True:
            await asyncio.sleep(SOON / 10)
            stream.type(b"b")

    async with asyncio.timeout(LIMIT):
        typing = asyncio.create_task(type_for_ever())
        with pytest.raises(Timeout):
            await terminal.readline(">", timeout=SOON)
        typing.cancel()


async def test_the_time_of_one_question_replaces_the_idle_time() -> None:
    """Who may take longer over one question is not cut off by the idle time."""
    stream = FakeStream()
    terminal = Terminal(stream, idle_timeout=SOON)

    async def type_late() -> None:
        await asyncio.sleep(5 * SOON)
        stream.type(b"late\r")

    async with asyncio.TaskGroup() as group:
        group.create_task(type_late())
        assert await terminal.readline(">", timeout=LIMIT) == "late"


async def test_typing_is_not_idle() -> None:
    """The idle time begins anew with each key: a line may take longer than it."""
    stream = FakeStream()
    terminal = Terminal(stream, idle_timeout=LIMIT / 5)

    async def type_slowly() -> None:
        for number, byte in enumerate(b"slow.", start=1):
            let_time_pass(LIMIT / 10)
            stream.type(bytes((byte,)))
            while len(stream.sent) <= number:  # noqa: ASYNC110  the prompt, and the echo of this key
                await asyncio.sleep(0)
        stream.type(b"\r")

    async with asyncio.TaskGroup() as group, asyncio.timeout(LIMIT):
        group.create_task(type_slowly())
        assert await terminal.readline(">") == "slow."


async def test_typed_waits_without_reading() -> None:
    """The first byte is noticed and still there to be read."""
    stream = FakeStream()
    terminal = Terminal(stream)
    waiting = asyncio.create_task(terminal.typed())
    await asyncio.sleep(0)
    assert not waiting.done()
    stream.type(b"one\r")
    await waiting
    await terminal.typed()

    assert await terminal.finish_line("login: ") == "one"
    assert stream.sent == b"one\r\n"
