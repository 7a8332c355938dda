# SPDX-License-Identifier: Apache-2.0
"""A reader at TPDU level is told what the card's answer to reset says, and the host speaks T=1 through it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from appliance.errors import DeviceBusy, DeviceError, DeviceTimeout, ProtocolError
from appliance.hsm.ccid import Command, Response
from tests.support.scripted_card import ASK, Clock, card_in
from tests.support.scripted_usb import TPDU, Answer, ccid_descriptor, message
from tests.support.t1_dialogue import encoded, lines, shown

NITROKEY = 0x000104BA  # dwFeatures of a Nitrokey HSM 2
PLAIN = 0x00010030  # a reader that does nothing by itself
GNUK, SMARTCARD_HSM = "3BDA11FF81B1FE551F0300318473800180009000E4", "3BFE1800008131FE458031815448534D31738021408107FA"
AGREED = "S(IFS request) FE > S(IFS response) FE\n"


@dataclass
class TpduReader:
    """A reader with a card that follows a dialogue; a line without a block on the right is a bError."""

    script: Sequence[tuple[str, str]] = ()
    atr: str = SMARTCARD_HSM
    status: int = 0x40  # of what fails: the card has its power
    parameters: list[str] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)  # bBWI

    def __call__(self, command: bytes) -> list[Answer]:
        sequence = command[6]
        match command[0]:
            case 0x62:
                return [message(0x80, sequence, bytes.fromhex(self.atr))]
            case 0x61:
                self.parameters.append(f"{command[7]} {command[10:].hex().upper()}")
                return [message(0x82, sequence, command[10:])]
            case 0x65:
                return [message(0x81, sequence)]
            case 0x6F if command[10] == 0xFF:
                self.parameters.append(f"PPS {command[10:].hex().upper()}")
                return [message(0x80, sequence, command[10:])]
        (expected, answer), *self.script = self.script
        assert shown(command[10:]) == expected
        assert command[8:10] == b"\0\0"
        self.waits.append(command[7])
        if len(answer) == 2:
            return [message(0x80, sequence, status=self.status, error=int(answer, 16))]
        return [message(0x80, sequence, encoded(answer))]


def conversation(reader: TpduReader, features: int = TPDU, command: Command = ASK, **options: int) -> Response:
    """One command to the card, after its power."""
    with card_in(reader, descriptor=ccid_descriptor(features, **options)) as (card, _):
        card.power_on()
        return card.transmit(command)


@pytest.mark.parametrize(
    ("features", "atr", "parameters"),
    [
        # The reader selects: it is given the speed of the card.
        (NITROKEY, SMARTCARD_HSM, ["1 1810004500FE00"]),
        (NITROKEY, GNUK, ["1 1110FF5500FE00"]),
        # It does not: the card stays as it is, and is asked for T=1 if it would begin with something else.
        (PLAIN, SMARTCARD_HSM, ["1 1110004500FE00"]),
        (PLAIN, "3B8080311020B1", ["PPS FF01FE", "1 11100020001000"]),
        (PLAIN, "3F80817110200111", ["1 11130020001000"]),
        (PLAIN, "3B9095918131400A", ["1 9510000A004000"]),
        # It does everything by itself.
        (TPDU | 0x40, SMARTCARD_HSM, []),
    ],
)
def test_parameters_are_agreed_on(features: int, atr: str, parameters: list[str]) -> None:
    """Speed, redundancy code, guard time, waiting times and the size of blocks, after a selection where one is due."""
    reader = TpduReader(atr=atr)
    with card_in(reader, descriptor=ccid_descriptor(features | 0x400)) as (card, _):
        card.power_on()

    assert reader.parameters == parameters


def test_a_command_and_its_answer_travel_in_blocks() -> None:
    """The first one tells the card what the reader takes; the time that a card asks for is the reader's bBWI."""
    reader = TpduReader(
        lines(
            AGREED
            + """I(0,0) 00CA004F00 > S(WTX request) 07
            S(WTX response) 07 > I(0,1) D276
            R(1) > I(1,0) 9000"""
        )
    )

    assert conversation(reader) == Response(b"\xd2\x76", 0x9000)
    assert reader.waits == [0, 0, 7, 0]


def test_a_reader_that_announces_its_room_itself_is_left_to_it() -> None:
    """The first block is a command."""
    assert conversation(TpduReader(lines("I(0,0) 00CA004F00 > I(0,0) 9000")), NITROKEY).status == 0x9000


@pytest.mark.parametrize(
    ("longest", "ifsd", "room"),
    [(271, 254, "FE"), (268, 254, "FE"), (267, 254, "FD"), (15, 254, "01"), (271, 32, "20"), (65544, 1000, "FE")],
)
def test_blocks_fit_in_the_reader(longest: int, ifsd: int, room: str) -> None:
    """In its messages, with header, prologue and redundancy code, and in the size that it says for itself."""
    reader = TpduReader(lines(f"S(IFS request) {room} > S(IFS response) {room}"))
    with card_in(reader, descriptor=ccid_descriptor(TPDU, longest, ifsd=ifsd)) as (card, _):
        card.power_on()

    assert reader.script == []


def test_a_reader_without_room_is_a_protocol_error() -> None:
    """Not a byte of information would fit."""
    with pytest.raises(ProtocolError, match="room"):
        conversation(TpduReader(), longest=14)


def test_extended_commands_pass() -> None:
    """As SmartCard-HSMs want them, here in two blocks of a card with short ones."""
    reader = TpduReader(
        lines("I(0,1) 00B12F0200000454 > R(1)\n I(1,0) 0200000000 > I(0,0) 6282"),
        atr="3B8081310845FB",
    )
    command = Command(0xB1, 0x2F, 0x02, data=bytes.fromhex("54020000"), le=65536)

    assert conversation(reader, NITROKEY, command) == Response(b"", 0x6282)


@pytest.mark.parametrize("error", ["FE", "FD", "FC"])
def test_a_block_that_the_reader_did_not_get_is_asked_for_again(error: str) -> None:
    """The card was silent, or what it sent was garbled."""
    trouble = "other" if error == "FE" else "garbled"
    reader = TpduReader(lines(f"{AGREED} I(0,0) 00CA004F00 > {error}\n R(0) {trouble} > I(0,0) 9000"))

    assert conversation(reader) == Response(b"", 0x9000)


@pytest.mark.parametrize(
    ("error", "status", "expected", "attempts"),
    [
        ("FE", 0x40, DeviceTimeout, 3),
        ("FD", 0x40, ProtocolError, 3),
        ("FE", 0x41, DeviceError, 1),  # the reader took its power away
        ("FE", 0x42, DeviceError, 1),  # it was pulled out
        ("E0", 0x40, DeviceBusy, 1),
        ("FB", 0x40, DeviceError, 1),
    ],
)
def test_what_does_not_pass_is_an_error(error: str, status: int, expected: type[DeviceError], attempts: int) -> None:
    """After the attempts that make sense."""
    again = "garbled" if error == "FD" else "other"
    blocks = ["I(0,0) 00CA004F00", f"R(0) {again}", f"R(0) {again}"]
    reader = TpduReader([(block, error) for block in blocks[:attempts]], status=status)

    with pytest.raises(DeviceError) as caught:
        conversation(reader, NITROKEY)

    assert type(caught.value) is expected
    assert reader.script == []


@pytest.mark.parametrize("atr", ["3B00", "3B800F", "3B801000"])
def test_a_card_without_t1_is_refused(atr: str) -> None:
    """Before anything is sent to it."""
    reader = TpduReader(atr=atr)
    with pytest.raises(DeviceError, match="T=1"):
        conversation(reader)

    assert reader.parameters == []


def test_a_card_without_power_is_an_error() -> None:
    """How blocks are to be sent is not known before its answer to reset."""
    with (
        card_in(TpduReader(), descriptor=ccid_descriptor(TPDU)) as (card, _),
        pytest.raises(DeviceError, match="power"),
    ):
        card.transmit(ASK)


def test_a_card_in_place_of_another_is_not_spoken_to_as_that_one() -> None:
    """When it gets its power and cannot be agreed with."""
    reader = TpduReader()
    with card_in(reader, descriptor=ccid_descriptor(NITROKEY)) as (card, _):
        card.power_on()
        reader.atr = "3B00"
        with pytest.raises(DeviceError, match="T=1"):
            card.power_on()
        with pytest.raises(DeviceError, match="power"):
            card.transmit(ASK)


def test_more_time_ends_at_the_deadline() -> None:
    """A card that asks for more and more does not hold its caller for ever."""
    more = [("I(0,0) 00CA004F00", "S(WTX request) 01"), *[("S(WTX response) 01", "S(WTX request) 01")] * 1000]
    with card_in(TpduReader(more), descriptor=ccid_descriptor(NITROKEY), clock=Clock(0.1)) as (card, backend):
        card.power_on()
        with pytest.raises(DeviceTimeout):
            card.transmit(ASK, timeout=60)

    assert backend.calls.count("bulk_read") < 600
