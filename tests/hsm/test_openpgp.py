# SPDX-License-Identifier: Apache-2.0
"""An OpenPGP card is asked and reset in exactly the commands that the specification gives for it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import (
    DeviceError,
    DeviceRefused,
    ResetUnsupported,
)
from appliance.hsm.drivers.openpgp import OpenPgpDriver
from appliance.hsm.drivers.openpgp_contents import NO_LIFE_CYCLE
from appliance.hsm.model import Attachment
from appliance.hsm.usb import UsbBus
from tests.support.openpgp_script import (
    ACTIVATE,
    SELECT,
    TERMINATE,
    UNGUARDED,
    application_data,
    probing,
    resetting,
    scripted,
    verifying,
)
from tests.support.scripted_driver import Script
from tests.support.scripted_usb import ScriptedReader, ScriptedUsb

DRIVER = OpenPgpDriver(UsbBus())
MASTER_KEY_TIME = "5F000000" + "00" * 8


def attachment(usb_id: str, usb_serial: str) -> Attachment:
    """A device as udev describes it."""
    vendor, product = (int(part, 16) for part in usb_id.split(":"))
    return Attachment("/sys/x", 1, 2, 3, vendor, product, usb_serial)


# Serial numbers


@pytest.mark.parametrize(
    ("serial", "normal"),
    [
        ("", ""),
        ("  ", ""),
        ("00667788", "667788"),
        (" 667788\n", "667788"),
        ("f1420a7a", "F1420A7A"),
        ("00000000", "0"),
        ("0", "0"),
        ("000667788", "000667788"),
        ("fsij-1.2.19-emulated", "FSIJ-1.2.19-EMULATED"),
        ("00 66", "00 66"),
        ("٠٦٦", "٠٦٦"),
    ],
)
def test_serials_are_normalised(serial: str, normal: str) -> None:
    """Blanks, case and the leading zeros of an eight-digit number do not matter; anything longer is left whole."""
    assert DRIVER.normalise(serial) == normal


@settings(deadline=None)
@given(st.text(max_size=12))
def test_normalising_twice_changes_nothing(serial: str) -> None:
    """The normal form is its own."""
    assert DRIVER.normalise(DRIVER.normalise(serial)) == DRIVER.normalise(serial)


@pytest.mark.parametrize(
    ("usb_id", "usb_serial", "serial"),
    [
        ("234b:0000", "FSIJ-1.2.19-00667788", "667788"),
        ("1209:2440", "FSIJ-1.2.10-43114251", "43114251"),
        ("20a0:4211", "FSIJ-1.2.10-4311425a", "4311425A"),
        ("234b:0000", "FSIJ-1.2.19-EMULATED", "FSIJ-1.2.19-EMULATED"),
        ("234b:0000", "", ""),
        ("234b:0000", "1234", "1234"),
        ("234b:0000", "E6614C311B5B8F2C", "E6614C311B5B8F2C"),  # a board's
        ("20a0:4108", "FSIJ-1.2.19-00667788", "FSIJ-1.2.19-00667788"),
        ("20a0:42b2", "a1b2c3d4e5f60718", "A1B2C3D4E5F60718"),
    ],
)
def test_the_serial_that_usb_suggests(usb_id: str, usb_serial: str, serial: str) -> None:
    """The last eight hex digits where the family puts the card's number there, else all of it."""
    assert DRIVER.serial_from_usb(attachment(usb_id, usb_serial)) == serial


@pytest.mark.parametrize(
    "usb_id", ["234b:0000", "1209:2440", "20a0:4211", "20a0:4108", "20a0:4109", "20a0:42b2", "20a0:42d4"]
)
def test_usb_ids_nominate(usb_id: str) -> None:
    """The known ids of the family."""
    assert DRIVER.nominated(attachment(usb_id, ""))


@pytest.mark.parametrize("usb_id", ["1050:0030", "234b:0001", "ffa0:4211"])
def test_other_usb_ids_do_not(usb_id: str) -> None:
    """Neither the vendor nor the product alone."""
    assert not DRIVER.nominated(attachment(usb_id, ""))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=2, max_size=40), min_size=1, max_size=20), st.booleans())
def test_random_answers_raise_only_our_errors(answers: list[bytes], select: bool) -> None:
    """Probe and reset against a card that answers anything end, in a result or in a device error."""
    asked = 0

    def card(_: bytes) -> bytes:
        nonlocal asked
        asked += 1
        return b"\x90\x00" if select and asked == 1 else answers[asked % len(answers)]

    backend = ScriptedUsb(ScriptedReader(card))
    for action in ("probe", "reset"):
        asked = 0
        try:
            with OpenPgpDriver(UsbBus(backend)).open(backend.attachment) as connection:
                connection.probe() if action == "probe" else connection.factory_reset(lambda _: None)
        except DeviceError:
            pass
        assert asked < 2000


# Reset


def test_a_reset_takes_the_documented_steps() -> None:
    """Guard, block, terminate, activate, and a restart, each step announced before it begins."""
    steps: list[str] = []
    script = [*resetting(), (TERMINATE, "9000"), (ACTIVATE, "9000")]

    with scripted(script) as (connection, reader):
        connection.factory_reset(steps.append)
        assert [command[0] for command in reader.commands[-3:]] == [0x63, 0x65, 0x62]

    assert steps == [
        "selecting the card",
        "blocking the user PIN",
        "blocking the admin PIN",
        "terminating",
        "activating",
        "restarting the card",
    ]


@pytest.mark.parametrize("historical", [UNGUARDED, "", "059000"[:4], "0031C573C00140079000", "0031C573C00140FF9000"])
def test_without_life_cycle_management_no_try_is_spent(historical: str) -> None:
    """The card is left as it is: terminating it would be for good."""
    script = resetting(historical=historical)[:2]
    if not historical:
        script = [(SELECT, "9000"), ("00CA006E00", "6A88"), ("00CA5F5200", "6A88")]

    with scripted(script) as (connection, _), pytest.raises(ResetUnsupported, match="life-cycle"):
        connection.factory_reset(lambda _: None)


@pytest.mark.parametrize(
    ("historical", "obstacle"),
    [("0031059000", ""), ("0031039000", ""), (UNGUARDED, NO_LIFE_CYCLE), ("0590", NO_LIFE_CYCLE)],
)
def test_a_probe_tells_the_obstacle(historical: str, obstacle: str) -> None:
    """The operator learns it before the prompt."""
    with scripted(probing(application_data(historical=historical))) as (connection, _):
        assert connection.probe().obstacle == obstacle


def test_a_terminated_card_is_only_activated() -> None:
    """The second half of an interrupted reset is all that is left to do."""
    for script in ([(SELECT, "6285")], [(SELECT, "9000"), ("00CA006E00", "6985")]):
        with scripted([*script, (ACTIVATE, "9000")]) as (connection, _):
            connection.factory_reset(lambda _: None)


@pytest.mark.parametrize(
    ("answers", "pins"),
    [
        (["6983"], "007F7F7F000303"),
        (["6982", "6983"], "007F7F7F010303"),
        (["63C2", "63C1", "6983"], "007F7F7F030303"),
        (["63C2", "63C1", "63C0"], "007F7F7F030303"),
        (["63C0"], "007F7F7F000303"),
        (["6982"] * 5 + ["6983"], "007F7F7F030303"),
    ],
)
def test_pins_are_blocked_however_the_card_counts(answers: list[str], pins: str) -> None:
    """6982 or 63Cx until 6983, as many times as the counter says and a few more."""
    script = [*resetting(user=verifying("81", answers), pins=pins), (TERMINATE, "9000"), (ACTIVATE, "9000")]

    with scripted(script) as (connection, _):
        connection.factory_reset(lambda _: None)


def test_a_card_that_never_says_blocked_is_asked() -> None:
    """Some call every PIN wrong for ever; their counter tells."""
    read = ("00CA006E00", application_data(pins="007F7F7F000300") + "9000")
    user, admin = ([*verifying(reference, ["6982"] * 6), read] for reference in ("81", "83"))

    with scripted([*resetting(user=user, admin=admin), (TERMINATE, "9000"), (ACTIVATE, "9000")]) as (connection, _):
        connection.factory_reset(lambda _: None)


def test_a_pin_that_the_wrong_pin_is_by_accident() -> None:
    """Another is taken, for the counter is full again."""
    user = [
        *verifying("81", ["9000"]),
        ("00CA006E00", application_data() + "9000"),
        *verifying("81", ["6982", "6982", "6982", "6983"], pin="21" * 8),
    ]

    with scripted([*resetting(user=user), (TERMINATE, "9000"), (ACTIVATE, "9000")]) as (connection, _):
        connection.factory_reset(lambda _: None)


def test_an_admin_pin_that_is_right_by_accident_serves() -> None:
    """TERMINATE DF wants it blocked or verified."""
    script = [*resetting(admin=verifying("83", ["6982", "9000"])), (TERMINATE, "9000"), (ACTIVATE, "9000")]

    with scripted(script) as (connection, _):
        connection.factory_reset(lambda _: None)


@pytest.mark.parametrize(
    ("derivation", "pin"),
    [
        ("810100", "40" * 8),
        ("F903810100", "40" * 8),
        ("8101038201088304000186A0", "40" * 32),
        ("81010382010A8304000186A0", "40" * 64),
        ("F90C8101038201088304000186A0", "40" * 32),
        ("810103", "40" * 32),
    ],
)
def test_a_card_with_key_derivation_gets_hashes(derivation: str, pin: str) -> None:
    """Such a card refuses a PIN of another length without counting it."""
    blocked = ["6982", "6982", "6982", "6983"]
    script = resetting(
        derivation=derivation + "9000", user=verifying("81", blocked, pin), admin=verifying("83", blocked, pin)
    )

    with scripted([*script, (TERMINATE, "9000"), (ACTIVATE, "9000")]) as (connection, _):
        connection.factory_reset(lambda _: None)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (resetting(user=verifying("81", ["6985"]))[:5], 0x6985),
        (resetting(user=verifying("81", ["6982"] * 6))[:11], 0x6982),
        (resetting(pins="007F7F7FFF0303", user=verifying("81", ["63CF"] * 18))[:23], 0x63CF),
        (resetting(admin=verifying("83", ["6A88"])), 0x6A88),
        ([*resetting(), (TERMINATE, "6982")], 0x6982),
        ([*resetting(), (TERMINATE, "6D00")], 0x6D00),
        ([(SELECT, "6285"), (ACTIVATE, "6982"), (SELECT, "6285"), (ACTIVATE, "6982")], 0x6982),
    ],
)
def test_a_refusal_ends_the_reset(script: Script, status: int) -> None:
    """With the card's status, and without a further command."""
    with scripted(script) as (connection, _), pytest.raises(DeviceRefused) as caught:
        connection.factory_reset(lambda _: None)

    assert caught.value.status == status


@pytest.mark.parametrize(
    "rest",
    [
        [(ACTIVATE, "6985"), (SELECT, "6285"), (ACTIVATE, "9000")],
        [(ACTIVATE, "6985"), (SELECT, "9000"), ("00CA006E00", "6985"), (ACTIVATE, "9000")],
        [(ACTIVATE, "6985"), (SELECT, "9000"), ("00CA006E00", application_data() + "9000")],
    ],
)
def test_a_card_that_wants_power_anew_gets_it(rest: Script) -> None:
    """Some accept ACTIVATE FILE only then, and some are done by then."""
    with scripted([*resetting(), (TERMINATE, "9000"), *rest]) as (connection, reader):
        connection.factory_reset(lambda _: None)
        assert [command[0] for command in reader.commands].count(0x63) == 2
