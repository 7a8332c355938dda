# SPDX-License-Identifier: Apache-2.0
"""A terminal without any cursor control, as a model: it shows what it is sent, and refuses what it does not know."""

import codecs
from unicodedata import category, east_asian_width


class DumbTerminal:
    """Rows of cells; obeys BS, CR, LF and BEL. A wide character takes two cells, its second one is ""."""

    def __init__(self, columns: int = 80) -> None:
        self.columns = columns
        self.rows: list[list[str]] = [[]]
        self.column = 0
        self.bells = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    @property
    def row(self) -> str:
        """What the row with the cursor shows."""
        return "".join(self.rows[-1]).rstrip(" ")

    @property
    def text(self) -> str:
        """What all rows show."""
        return "\n".join("".join(row).rstrip(" ") for row in self.rows)

    def feed(self, data: bytes) -> None:
        """Show `data`. Raises `AssertionError` for what a dumb terminal cannot do."""
        for character in self._decoder.decode(data):
            match character:
                case "\a":
                    self.bells += 1
                case "\r":
                    self.column = 0
                case "\n":
                    self.rows.append([])
                case "\b":
                    assert self.column > 0, "BS in the first column"
                    self.column -= 1
                case _:
                    self._put(character)

    def _put(self, character: str) -> None:
        assert character >= " ", f"control character {character!a}"
        assert not "\x7f" <= character <= "\x9f", f"control character {character!a}"
        row = self.rows[-1]
        row.extend(" " * (self.column - len(row)))
        if category(character) in {"Mn", "Me", "Cf"}:
            return  # it joins its neighbour, which is all that matters for the cursor
        cells = [character, ""] if east_asian_width(character) in {"W", "F"} else [character]
        row[self.column : self.column + len(cells)] = cells
        self.column += len(cells)
        assert self.column < self.columns, "the last column, where terminals differ"
