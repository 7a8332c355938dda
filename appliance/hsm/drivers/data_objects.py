# SPDX-License-Identifier: Apache-2.0
"""Data objects in BER-TLV, as cards of every family give them, and the texts in them."""

from appliance.errors import ProtocolError

DEEPEST = 4  # data objects within data objects
LONGEST_TEXT = 64  # characters shown of a text on the card


def find(data: bytes, wanted: int, depth: int = DEEPEST) -> bytes | None:
    """The value of the first data object with that tag, at any level (ISO 7816-4, 5.2.2). Raises `ProtocolError`."""
    while data := data.lstrip(b"\x00\xff"):  # filling between data objects
        constructed = data[0] & 0x20
        tag, value, data = _first(data)
        if tag == wanted:
            return value
        if constructed and depth:
            inner = find(value, wanted, depth - 1)
            if inner is not None:
                return inner
    return None


def _first(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag and value of the first data object, and what follows it."""
    tag_size = 2 if data[0] & 0x1F == 0x1F else 1
    tag, data = int.from_bytes(data[:tag_size]), data[tag_size:]
    length_size = data[0] & 0x7F if data and data[0] >= 0x80 else 0
    start = 1 + length_size
    length = int.from_bytes(data[1:start] if length_size else data[:1])
    if length_size > 2 or len(data) < start + length:
        raise ProtocolError("the card's data objects do not have the lengths that they announce")
    return tag, data[start : start + length], data[start + length :]


def text(raw: bytes) -> str:
    """Text of a card: UTF-8, or Latin-1 as the older specifications say; printable, and not without end."""
    try:
        decoded = raw.decode()
    except UnicodeDecodeError:
        decoded = raw.decode("latin-1")
    return "".join(c if c.isprintable() else "?" for c in decoded[:LONGEST_TEXT])
