# SPDX-License-Identifier: Apache-2.0
"""The interface device's end of the protocol T=1: APDUs in, blocks out, and the other way (ISO/IEC 7816-3:2006, 11).

Nothing is read or written here, and no clock looked at: one callable takes a block to the card and brings one back.
What the standard leaves to the application is decided for cards that count and destroy: a command of which the card may
have had the last block is never sent again after a resynchronisation.
"""

from collections.abc import Callable
from contextlib import suppress

from appliance.errors import DeviceError, DeviceTimeout, ProtocolError
from appliance.hsm.t1_block import LONGEST_FIELD, Block, BlockFault, Request, Trouble

ATTEMPTS = 3  # for every block, and for the resynchronisation (11.6.3.2, rules 7.4 and 7.5)
LONGEST_RESPONSE = 65538  # bytes: the data and status word of an extended APDU

# Takes the bytes of one block to the card and returns those of the next one from it, which may be up to the given
# multiple of the block waiting time away, 0 standing for the ordinary time; at the deadline it raises `DeviceTimeout`.
# Raises `BlockFault` when the card was silent, or what it sent could not be received.
Swap = Callable[[bytes, int, float], bytes]


class Link:
    """One end of the line to a card that was given power and is in this protocol.

    `ifsc` is what the card takes in one block, by its answer to reset; the reader takes `room` bytes either way.
    """

    def __init__(self, swap: Swap, *, ifsc: int = 32, room: int = LONGEST_FIELD, crc: bool = False) -> None:
        self._swap = swap
        self._room = min(room, LONGEST_FIELD)
        self._first_ifsc = self._ifsc = ifsc
        self._crc = crc
        self._ours = self._theirs = 0  # N(S) of the next I-block, ours and the card's
        self._in_step = True  # whether both ends agree on these
        self._delivered = False  # whether the card may have the whole command

    def announce_room(self, deadline: float) -> None:
        """Tell the card that its blocks may be longer than 32 bytes (11.4.2). Raises `DeviceError` when it objects."""
        self._in_step = False
        self._request(Request.IFS, bytes([self._room]), deadline)
        self._in_step = True

    def transmit(self, command: bytes, deadline: float) -> bytes:
        """The response APDU. After any error the next call begins with a resynchronisation.

        Raises `DeviceTimeout` when the card fell silent, `ProtocolError` when it was not understood after all attempts,
        `DeviceError` when it broke off, and what the callable raises.
        """
        for attempt in range(1, ATTEMPTS + 1):
            if not self._in_step:
                self._resynchronise(deadline)
            self._in_step = self._delivered = False
            try:
                response = self._converse(command, deadline)
            except BlockFault as fault:
                if self._delivered or attempt == ATTEMPTS:
                    raise fault.error from fault
            else:
                self._in_step = True
                break
        return response

    def _converse(self, command: bytes, deadline: float) -> bytes:
        """Both chains (11.6.2.3, rules 2 and 5). Raises `BlockFault` when a block has had all its attempts."""
        more, rest = True, command
        while more:
            size = min(self._ifsc, self._room)
            part, rest = rest[:size], rest[size:]
            more = bool(rest)
            self._delivered = not more
            answer = self._ask(Block.information(self._ours, more, part), deadline)
            self._ours ^= 1
        response = answer.data
        self._theirs ^= 1
        while answer.more:
            answer = self._ask(Block.ready(self._theirs), deadline)
            response += answer.data
            if len(response) > LONGEST_RESPONSE:
                raise ProtocolError("the card's answer does not end")
            self._theirs ^= 1
        return response

    def _ask(self, block: Block, deadline: float) -> Block:
        """The block of the card that ours calls for, after as many attempts and S-blocks as it takes."""
        sending, waits = block, 0
        faults = sent = 0  # blocks in a row that could not be used; how often the card wanted ours again
        while True:
            try:
                answer = self._exchange(sending, waits, deadline)
                waits = 0
                if answer.is_supervisory:
                    sending = self._comply(answer, deadline)
                    waits = answer.data[0] if answer.pcb == Request.WTX else 0
                elif self._answers(block, answer):
                    return answer
                else:
                    self._demand_wanted_again(block, answer)
                    sending = block
                    sent += 1
                faults = 0
            except BlockFault as fault:
                faults += 1
                if faults == ATTEMPTS:
                    raise
                # Rules 7.1 and 7.3: the card is asked for the block; rule 7.2: with the same R-block as before.
                sending, waits = block if block.is_ready else Block.ready(self._theirs, fault.trouble), 0
            if sent == ATTEMPTS:
                raise BlockFault(ProtocolError("the card does not understand what it is sent"))

    def _answers(self, block: Block, answer: Block) -> bool:
        """Whether it is what comes after ours: the acknowledgement of a part, or the card's next part."""
        if block.more:
            return answer.is_ready and answer.number != block.number
        return answer.is_information and answer.number == self._theirs

    @staticmethod
    def _demand_wanted_again(block: Block, answer: Block) -> None:
        """Raises `BlockFault` unless it says that the card did not get ours."""
        if not answer.is_ready or (block.is_information and answer.number != block.number):
            raise BlockFault(ProtocolError("the card's block has a wrong number"))

    def _comply(self, request: Block, deadline: float) -> Block:
        """The response to an S-block of the card (11.6.2.3, rules 3 and 4; 11.6.3.2, rule 9)."""
        match request.pcb, list(request.data):
            case Request.WTX, [multiple] if multiple:
                pass
            case Request.IFS, [ifsc] if 1 <= ifsc <= LONGEST_FIELD:
                self._ifsc = ifsc
            case Request.ABORT, []:
                with suppress(BlockFault):  # whatever comes: it is over
                    self._exchange(Block.response(Request.ABORT), 0, deadline)
                raise DeviceError("the card broke off the exchange")
            case _:
                raise BlockFault(ProtocolError(f"the card sends a supervisory block {request.pcb:02X}"))
        return Block.response(request.pcb, request.data)

    def _resynchronise(self, deadline: float) -> None:
        """Have both ends begin anew, the sizes of blocks included (11.6.3.2, rules 6 and 7.5)."""
        self._request(Request.RESYNCH, b"", deadline)
        self._ours = self._theirs = 0
        self._ifsc = self._first_ifsc
        self.announce_room(deadline)

    def _request(self, request: Request, data: bytes, deadline: float) -> None:
        """Ask something of the card until it agrees (rule 7.3). Raises the error of the last attempt."""
        for _ in range(ATTEMPTS):
            try:
                if self._exchange(Block(request, data), 0, deadline) == Block.response(request, data):
                    return
                error: DeviceError = ProtocolError(f"the card does not agree to a {request.name} request")
            except BlockFault as fault:
                error = fault.error
        raise error

    def _exchange(self, block: Block, waits: int, deadline: float) -> Block:
        return Block.decode(self._swap(block.encode(self._crc), waits, deadline), self._crc)


def silent() -> BlockFault:
    """The card let the block waiting time pass (11.4.3)."""
    return BlockFault(DeviceTimeout("the card does not answer"))


def garbled() -> BlockFault:
    """What the card sent could not be received."""
    return BlockFault(ProtocolError("the card's block was garbled"), Trouble.GARBLED)
