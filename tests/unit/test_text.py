# SPDX-License-Identifier: Apache-2.0
"""Foreign text in the shell's answers."""

import pytest

from appliance.shell.text import shown


@pytest.mark.parametrize(
    ("foreign", "safe"),
    [("Gnuk", "Gnuk"), ("a\x1b[2Jb", "a\\x1b[2Jb"), ("caf\udce9", "caf\\xe9"), ("\ud800", "\\ud800"), ("é\n", "é\\n")],
)
def test_foreign_text_is_printable(foreign: str, safe: str) -> None:
    """What a terminal might obey is written as an escape, and a byte that was no UTF-8 as that byte."""
    assert shown(foreign) == safe


def test_foreign_text_is_bounded() -> None:
    """What is too long says so."""
    assert shown("x" * 100, 10) == "xxxxxxx..."
