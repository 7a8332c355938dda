# SPDX-License-Identifier: Apache-2.0
"""Dialogues of T=1 in the notation of ISO/IEC 7816-3, Annex A: I(N(S),M), R(N(R)), S(IFS request).

A line is what one end sends, ``>``, and what the other one sends back. Data follow a block in hex, `garbled` or `other`
the error that an R-block tells of. In place of a block there may be `noise`, which arrives garbled, or `silence`.
"""

import re
from collections.abc import Sequence

from appliance.errors import DeviceTimeout
from appliance.hsm.t1 import silent
from appliance.hsm.t1_block import Block, Request, Trouble

NOISE, SILENCE = "noise", "silence"
_TROUBLES = {"": Trouble.NONE, "garbled": Trouble.GARBLED, "other": Trouble.OTHER}


def lines(text: str) -> list[tuple[str, str]]:
    """What is sent, and what comes back."""
    pairs = [line.split(">") for line in text.strip().splitlines()]
    return [(sent.strip(), received.strip()) for sent, received in pairs]


def encoded(text: str) -> bytes:
    """The bytes of a block in this notation; of noise, those of a block whose redundancy code is wrong."""
    if text == NOISE:
        return bytes.fromhex("00 00 01 AA 00")
    kind, arguments, rest = re.fullmatch(r"([IRS])\(([^)]*)\) ?(.*)", text).groups()  # type: ignore[union-attr]  # or fail
    match kind:
        case "I":
            sequence, more = map(int, arguments.split(","))
            block = Block.information(sequence, bool(more), bytes.fromhex(rest))
        case "R":
            block = Block.ready(int(arguments), _TROUBLES[rest])
        case _:
            name, side = arguments.split()
            block = Block(Request[name], bytes.fromhex(rest))
            block = block if side == "request" else Block.response(*block)
    return block.encode()


def shown(raw: bytes) -> str:
    """A block in this notation."""
    block = Block.decode(raw)
    data = block.data.hex().upper()
    if block.is_information:
        return f"I({block.number},{int(block.more)}) {data}".strip()
    if block.is_ready:
        trouble = next(name for name, value in _TROUBLES.items() if value == block.pcb & 0x0F)
        return f"R({block.number}) {trouble}".strip()
    side = "response" if block.pcb & 0x20 else "request"
    return f"S({Request(block.pcb & ~0x20).name} {side}) {data}".strip()


class ScriptedEnd:
    """The card's end of a written dialogue: it insists on what it is sent."""

    def __init__(self, script: Sequence[tuple[str, str]]) -> None:
        self.left = list(script)
        self.waits: list[int] = []  # multiples of the block waiting time, other than the ordinary one

    def __call__(self, block: bytes, waits: int, deadline: float) -> bytes:
        if not self.left:
            raise DeviceTimeout("the dialogue is at its end")
        expected, answer = self.left.pop(0)
        assert shown(block) == expected
        if waits:
            self.waits.append(waits)
        if answer == SILENCE:
            raise silent()
        return encoded(answer)
