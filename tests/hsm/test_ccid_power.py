# SPDX-License-Identifier: Apache-2.0
"""A reader is understood by its class descriptor, and its card powered, or it is clear why not."""

import errno
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import DeviceError, ProtocolError
from appliance.hsm.ccid import Card
from appliance.hsm.ccid_messages import ClassDescriptor
from appliance.hsm.usb import UsbBus
from tests.support.scripted_card import card_in
from tests.support.scripted_usb import (
    ATR,
    AUTOMATIC_VOLTAGE,
    CHARACTER,
    EXTENDED_APDU,
    SHORT_APDU,
    TPDU,
    Answer,
    Fault,
    ScriptedReader,
    ScriptedUsb,
    ccid_descriptor,
    message,
    usb_error,
)

# The class descriptor


@pytest.mark.parametrize(
    ("raw", "features"),
    [
        (ccid_descriptor(0x0002047A), 0x0002047A),
        (b"\x09\x21\x11\x01\x00\x01\x22\x3f\x00" + ccid_descriptor(0x00040000), 0x00040000),
        (ccid_descriptor(0x00020842).replace(b"\x36\x21", b"\x36\xff"), 0x00020842),
        (ccid_descriptor(0x00010000) + b"\x00\x00", 0x00010000),
    ],
)
def test_the_class_descriptor_is_found(raw: bytes, features: int) -> None:
    """Among other descriptors, and under the type number of readers older than the standard."""
    assert ClassDescriptor.parse(raw).features == features


@pytest.mark.parametrize("raw", [b"", b"\x36", b"\x00\x21", ccid_descriptor()[:-1], b"\x01" * 60, b"\x36\x22" * 40])
def test_a_missing_class_descriptor_is_a_protocol_error(raw: bytes) -> None:
    """Cut, empty or of another type: there is no reader to speak to."""
    with pytest.raises(ProtocolError):
        ClassDescriptor.parse(raw)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_class_descriptor_is_survived(raw: bytes) -> None:
    """Random bytes are a descriptor or a protocol error."""
    with suppress(ProtocolError):
        ClassDescriptor.parse(raw)


@pytest.mark.parametrize(
    ("features", "word"),
    [(CHARACTER, "character"), (SHORT_APDU | EXTENDED_APDU, "several"), (TPDU | SHORT_APDU, "several")],
)
def test_other_exchange_levels_are_refused(features: int, word: str) -> None:
    """A reader that wants more than APDUs is refused by name before the card is powered."""
    reader = ScriptedReader()

    with pytest.raises(DeviceError, match=word), card_in(reader, descriptor=ccid_descriptor(features)):
        pytest.fail("accepted")

    assert reader.commands == []


# Power


@pytest.mark.parametrize(
    ("features", "voltages", "mute", "tried"),
    [
        (AUTOMATIC_VOLTAGE, 7, 0, [0]),
        (AUTOMATIC_VOLTAGE, 7, 2, [0, 1, 2]),
        (0, 7, 2, [1, 2, 3]),
        (0, 2, 0, [2]),
        (0, 4, 0, [3]),
        (0, 0, 0, [0]),
    ],
)
def test_the_card_is_powered_at_the_first_voltage_it_answers_at(
    features: int, voltages: int, mute: int, tried: list[int]
) -> None:
    """Automatic selection first where the reader has it, then 5, 3 and 1.8 V as far as it has those."""
    reader = ScriptedReader(mute_below=mute)

    with card_in(reader, descriptor=ccid_descriptor(SHORT_APDU | features, voltages=voltages)) as (card, _):
        assert card.power_on() == ATR

    assert [command[7] for command in reader.commands if command[0] == 0x62] == tried


def test_a_mute_card_is_given_up() -> None:
    """After the last voltage the reader's word for it is passed on."""
    with card_in(ScriptedReader(mute_below=9)) as (card, _), pytest.raises(DeviceError, match="does not answer"):
        card.power_on()


def test_an_absent_card_is_not_powered_again() -> None:
    """Other voltages do not bring a card into the reader."""
    reader = ScriptedReader(faults={1: Fault.ABSENT})

    with card_in(reader) as (card, _), pytest.raises(DeviceError, match="no card"):
        card.power_on()

    assert len(reader.commands) == 2


@pytest.mark.parametrize("atr", [b"", b"\x3b", bytes(34)])
def test_an_impossible_answer_to_reset_is_a_protocol_error(atr: bytes) -> None:
    """An answer to reset has 2 to 33 bytes."""

    def reader(command: bytes) -> list[Answer]:
        return [message(0x80 if command[0] == 0x62 else 0x81, command[6], atr if command[0] == 0x62 else b"")]

    with card_in(reader) as (card, _), pytest.raises(ProtocolError, match="answer to reset"):
        card.power_on()


def test_power_off_is_confirmed() -> None:
    """Taking the power away is a command like others."""
    with card_in(ScriptedReader(faults={1: Fault.FAILED})) as (card, _):
        card.power_off()
        with pytest.raises(DeviceError):
            card.power_off()


def test_a_reader_stuck_with_an_old_answer_is_read_first() -> None:
    """It takes no command until the answer to one that a killed program sent has been fetched."""
    reader = ScriptedReader()

    class Stuck(ScriptedUsb):
        def bulk_write(self, *args: object) -> int:
            if self.answers:
                raise usb_error(errno.ETIMEDOUT)
            return super().bulk_write(*args)  # type: ignore[arg-type]  # passed on

    backend = Stuck(reader)
    backend.answers.append(message(0x80, 0, b"\x90\x00"))
    with UsbBus(backend).open(backend.attachment, 0x0B) as pipe:
        assert Card(pipe).power_on() == ATR
