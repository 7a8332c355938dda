# SPDX-License-Identifier: Apache-2.0
"""A stream of bytes becomes a place where lines are asked for and text is shown.

What is not a line comes out of `Terminal.readline` as an exception, so that whoever holds the dialogue writes straight
code. All of them but `Hangup` leave the cursor at the beginning of a line.
"""

import asyncio
from typing import Protocol

from appliance.console.editor import Completer, Echo, Editor
from appliance.console.history import History
from appliance.console.keys import Keyboard
from appliance.errors import Break, LineEvent, Timeout


class Stream(Protocol):
    """Bytes to and from the place where a person types."""

    async def read(self) -> bytes:
        """At least one byte. Raises `Hangup`, for ever, once the place is gone, and `Break` once for each BREAK."""

    async def write(self, data: bytes) -> None:
        """Return when everything is on its way. Raises `Hangup`, also when there is no progress for too long."""

    async def hung_up(self) -> None:
        """Return when the place is gone; consumes no input."""

    def flush_input(self) -> None:
        """Forget what was typed so far."""


class Terminal:
    """One terminal, for one session: it keeps the history, and what was typed ahead."""

    def __init__(
        self, stream: Stream, *, idle_timeout: float | None = None, columns: int = 80, echo: bool = True
    ) -> None:
        """`idle_timeout`, in seconds, is how long `readline` waits for a key; None: for ever."""
        self._stream = stream
        self._idle_timeout = idle_timeout
        self._columns = columns
        self._echo = echo
        self._history = History()
        self._forget()

    async def write(self, text: str) -> None:
        """Show `text`; each ``\\n`` becomes CR LF, any other unprintable character a visible escape."""
        await self._stream.write(visible(text).replace("\n", "\r\n").encode())

    async def readline(
        self,
        prompt: str,
        *,
        secret: bool = False,
        history: bool = False,
        complete: Completer | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  it ends in our Timeout, and None means the idle time
    ) -> str:
        """Ask for one line.

        Raises `Interrupt`, `EndOfFile`, `Break`, `Hangup`, and `Timeout` when the line is not finished in `timeout`
        seconds or, without it, no key is pressed for the idle time.
        """
        await self.write(prompt)
        return await self.finish_line(prompt, secret=secret, history=history, complete=complete, timeout=timeout)

    async def typed(self) -> None:
        """Return when something has been typed that was not read yet. Raises `Break` and `Hangup`."""
        if not self._ahead:
            await self._fill()

    async def finish_line(
        self,
        prompt: str,
        *,
        secret: bool = False,
        history: bool = False,
        complete: Completer | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  see readline
    ) -> str:
        """`readline`, where the prompt stands there already."""
        editor = Editor(
            self._keyboard,
            visible(prompt),
            columns=self._columns,
            echo=self._mode(secret),
            history=self._history if history else None,
            complete=complete,
        )
        try:
            async with asyncio.timeout(timeout):
                return await self._edit(editor, None if timeout is not None else self._idle_timeout)
        except TimeoutError:
            await self._new_line()
            raise Timeout from None

    def flush_input(self) -> None:
        """Forget what was typed so far."""
        self._forget()
        self._stream.flush_input()

    def _forget(self) -> None:
        self._ahead = b""  # at most what one read of the stream gave
        self._keyboard = Keyboard()

    def _mode(self, secret: bool) -> Echo:
        if not self._echo:
            return Echo.OFF
        return Echo.SECRET if secret else Echo.ON

    async def _edit(self, editor: Editor, idle_timeout: float | None) -> str:
        while True:
            if not self._ahead:
                async with asyncio.timeout(idle_timeout):
                    await self._fill()
            step = editor.feed(self._ahead)
            self._ahead = step.rest
            if step.output:
                await self._stream.write(step.output)
            match step.event:
                case str(line):
                    return line
                case LineEvent() as event:
                    raise event

    async def _fill(self) -> None:
        try:
            self._ahead = await self._stream.read()
        except Break:
            self._forget()
            await self._new_line()
            raise

    async def _new_line(self) -> None:
        if self._echo:
            await self._stream.write(b"\r\n")


def visible(text: str) -> str:
    """`text` with every character that a terminal might obey, or that is no character, written as an escape.

    Line feeds and tabs stay. A byte that was no UTF-8 (PEP 383) shows as ``\\xff``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _escape(c) for c in text)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
