# SPDX-License-Identifier: Apache-2.0
"""The card's end of the protocol T=1: blocks in, blocks out, APDUs to the card behind (ISO/IEC 7816-3:2006, 11)."""

from appliance.errors import ProtocolError
from appliance.hsm.t1_block import LONGEST_FIELD, Block, BlockFault, Request, Trouble
from appliance.simulator.ccid_reader import Card, CardSilent
from appliance.simulator.faults import Fault, Misdeed, When

_MULTIPLE = 2  # of the block waiting time that a slow card asks for
_FIRST_IFSD = 32  # bytes that the reader takes in a block until it says otherwise (11.4.2)


class T1Card:
    """A card in a reader that passes blocks on: `transmit` takes one and gives one.

    What goes wrong with a command is told by `misbehave`, while the card behind has it.
    """

    def __init__(self, card: Card) -> None:
        self._card = card
        self._reset()

    def _reset(self) -> None:
        self._ours = self._theirs = 0  # N(S) of our next I-block, and of the one that is expected
        self._ifsd = _FIRST_IFSD
        self._command = b""  # as much as came of it
        self._response = b""  # as much as was not sent
        self._last: Block | None = None  # what was sent last, and may be asked for again
        self._request: Block | None = None  # has to be agreed to before the response is sent
        self._noise: Misdeed | None = None  # what happens to blocks on their way to the reader

    def misbehave(self, fault: Fault) -> None:
        """Have a fault on the line. Raises `BlockFault` or `CardSilent` when the card is not to have the command."""
        match fault.do:
            case Misdeed.SLOW:
                self._request = Block(Request.WTX, bytes([_MULTIPLE]))
            case Misdeed.SHRINK:
                self._request = Block(Request.IFS, bytes([fault.length]))
            case Misdeed.LOSE if fault.when is When.BEFORE:
                raise CardSilent
            case Misdeed.GARBLE if fault.when is When.BEFORE:
                raise BlockFault(ProtocolError("the command was garbled"), Trouble.GARBLED)
            case Misdeed.LOSE | Misdeed.GARBLE | Misdeed.DEAFEN:
                self._noise = fault.do

    def power_on(self) -> bytes:
        """The answer to reset."""
        self._reset()
        return self._card.power_on()

    def power_off(self) -> None:
        """Take the power away."""
        self._reset()
        self._card.power_off()

    def transmit(self, block: bytes) -> bytes:
        """The card's next block. Raises `CardSilent` when none arrives."""
        try:
            answer = self._answer(Block.decode(block))
        except BlockFault as fault:
            answer = Block.ready(self._theirs, fault.trouble)
        self._last = answer
        noise, raw = self._noise, answer.encode()
        if noise is not Misdeed.DEAFEN:
            self._noise = None
        if noise is Misdeed.LOSE:
            raise CardSilent
        return raw if noise is None else raw[:-1] + bytes([raw[-1] ^ 0xFF])

    def _answer(self, block: Block) -> Block:
        """What a block calls for. Raises `BlockFault` when it is not the one expected."""
        if block.is_supervisory:
            return self._supervised(block)
        if block.is_ready:
            return self._continued(block)
        if block.number != self._theirs or self._request is not None:
            raise _unexpected()
        command = self._command + block.data
        if block.more:
            self._command = command
        else:
            self._response = self._card.transmit(command)
            self._command = b""
        self._theirs ^= 1
        return Block.ready(self._theirs) if block.more else self._request or self._next_part()

    def _next_part(self) -> Block:
        part, self._response = self._response[: self._ifsd], self._response[self._ifsd :]
        block = Block.information(self._ours, bool(self._response), part)
        self._ours ^= 1
        return block

    def _continued(self, block: Block) -> Block:
        """The answer to an R-block: the next part of a chain, or the last block again (11.6.3.2, rule 7)."""
        if self._last is None or (self._last.is_supervisory and self._request is None):
            raise _unexpected()  # no block was sent that could be meant, only responses
        if self._last.is_information and block.number == self._ours:
            if not self._last.more:
                raise _unexpected()
            return self._next_part()
        return self._last

    def _supervised(self, block: Block) -> Block:
        """The answer to an S-block (11.6.2.3, rules 3 and 4; 11.6.3.2, rules 6 and 9)."""
        if self._request is not None and block == Block.response(*self._request):
            self._request = None
            return self._next_part()
        match block.pcb, list(block.data):
            case Request.RESYNCH, []:
                self._reset()
            case Request.IFS, [ifsd] if 1 <= ifsd <= LONGEST_FIELD:
                self._ifsd = ifsd
            case Request.ABORT, []:
                self._command = self._response = b""
            case _:
                raise _unexpected()
        return Block.response(*block)


def _unexpected() -> BlockFault:
    return BlockFault(ProtocolError("the reader sends a block that does not follow"))
