# SPDX-License-Identifier: Apache-2.0
"""What a card's answer to reset says of the protocol T=1 (ISO/IEC 7816-3:2006, 8.2, 8.3 and 11.4)."""

from dataclasses import dataclass
from typing import Self

from appliance.errors import ProtocolError

T1 = 1
DEFAULT_RATE = 0x11  # Fi = 372, Di = 1
_NO_PROTOCOL = 15  # the type that stands before interface bytes for all protocols
_INVERSE = 0x3F  # TS of a card that sends bits inverted (8.1)


@dataclass(frozen=True, slots=True)
class AnswerToReset:
    """The interface bytes that matter here."""

    protocols: tuple[int, ...]  # in the order in which the card offers them
    specific: int | None = None  # the only protocol of a card in specific mode (TA2)
    rate: int = DEFAULT_RATE  # TA1: Fi and Di
    guard_time: int = 0  # TC1
    inverse: bool = False
    ifsc: int = 32  # bytes that the card takes in the information field of one block (11.4.2)
    waiting: int = 0x4D  # BWI and CWI (11.4.3)
    crc: bool = False  # blocks end with a CRC instead of an LRC (11.4.4)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """The answer to reset. Raises `ProtocolError` when it is cut, or says what none may say.

        The check byte is not looked at: cards are about on which it is wrong. Whoever misunderstood the answer gets no
        block through.
        """
        groups, protocols = _interface_bytes(raw)
        first = groups[0][1]
        second = groups[1][1] if len(groups) > 1 else {}
        # Of the bytes for T=1 the first of each kind counts (11.4.1).
        ours: dict[str, int] = {}
        for protocol, group in groups[2:]:
            if protocol == T1:
                ours = group | ours
        ifsc = ours.get("A", 32)
        if not 1 <= ifsc <= 254:
            raise ProtocolError(f"the card's answer to reset announces blocks of {ifsc} bytes")
        return cls(
            protocols=tuple(dict.fromkeys(protocol for protocol in protocols if protocol != _NO_PROTOCOL)) or (0,),
            specific=second["A"] & 0x0F if "A" in second else None,
            rate=first.get("A", DEFAULT_RATE),
            guard_time=first.get("C", 0),
            inverse=raw[0] == _INVERSE,
            ifsc=ifsc,
            waiting=ours.get("B", 0x4D),
            crc=bool(ours.get("C", 0) & 0x01),
        )

    @property
    def speaks_t1(self) -> bool:
        """Whether the card speaks T=1, after a selection where it offers several."""
        return T1 in self.protocols if self.specific is None else self.specific == T1


def _interface_bytes(raw: bytes) -> tuple[list[tuple[int, dict[str, int]]], list[int]]:
    """The groups of TA, TB and TC, each with the protocol that the TD before it names; and all protocols named (8.2.3).

    The first group has no TD before it and stands for all protocols.
    """
    groups: list[tuple[int, dict[str, int]]] = []
    protocols: list[int] = []
    try:
        following, protocol, at = raw[1], _NO_PROTOCOL, 2
        while True:
            group: dict[str, int] = {}
            for bit, name in enumerate("ABCD", start=4):
                if following & 1 << bit:
                    group[name] = raw[at]
                    at += 1
            groups.append((protocol, group))
            if "D" not in group:
                return groups, protocols
            following, protocol = group["D"], group["D"] & 0x0F
            protocols.append(protocol)
    except IndexError as error:
        raise ProtocolError("the card's answer to reset is cut") from error
