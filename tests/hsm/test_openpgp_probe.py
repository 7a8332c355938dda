# SPDX-License-Identifier: Apache-2.0
"""A probe reads what an OpenPGP card holds, spends no try, and believes nothing that cannot be."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import DeviceRefused, NotThisFamily, ProtocolError
from appliance.hsm.drivers.data_objects import DEEPEST, find
from appliance.hsm.model import HsmState
from tests.support.openpgp_script import (
    SELECT,
    application_data,
    probing,
    scripted,
    tlv,
)
from tests.support.scripted_driver import Script


def test_a_card_in_factory_state_is_zeroized() -> None:
    """Nothing speaks against it, and the AID tells who it is."""
    with scripted(probing(application_data())) as (connection, _):
        probe = connection.probe()

    assert (probe.serial, probe.state, probe.shortcomings) == ("F1420A7A", HsmState.ZEROIZED, ())
    assert (probe.model, probe.firmware, probe.label, probe.obstacle) == ("Gnuk", "1.2.19, OpenPGP 2.0", "", "")
    assert probe.details == (
        ("Manufacturer", "unmanaged (FFFE)"),
        ("PIN tries left", "user 3, reset code 3, admin 3"),
        ("Keys", "none"),
    )


@pytest.mark.parametrize(
    ("script", "shortcomings"),
    [
        (probing(application_data(pins="007F7F7F020303")), ["the user PIN has 2 tries left, not 3"]),
        (probing(application_data(pins="007F7F7F030300")), ["the admin PIN has 0 tries left, not 3"]),
        (probing(application_data(pins="007F7F7F030003")), []),
        (probing(application_data(fingerprints="00" * 20 + "01" * 20 + "00" * 20)), ["the decryption key is present"]),
        (probing(application_data(information="010102000300")), ["the signature key is present"]),
        (probing(application_data(information="010002000300")), []),
        (probing(application_data(information="000101000200")), ["the signature key is present"]),  # counted from 0
        (probing(application_data(information="000001010200")), ["the decryption key is present"]),
        (probing(application_data(information="0100020003010000")), ["the authentication key is present"]),
        (probing(application_data(times="00" * 11 + "01")), ["the time of the authentication key is recorded"]),
        (probing(application_data(), cardholder="5B03412042" + "9000"), ["the card holder's name is set"]),
        (probing(application_data(), cardholder="65055B03412042" + "9000"), ["the card holder's name is set"]),
        (probing(application_data(), cardholder="5B005F2D026465" + "9000"), []),
        (probing(application_data(), login="6A" + "9000"), ["the login name is set"]),
        (probing(application_data(), url="6A" + "9000"), ["the URL of the public key is set"]),
        (probing(application_data(), login="9000", url="9000", cardholder="9000"), []),
    ],
)
def test_what_speaks_against_factory_state(script: Script, shortcomings: list[str]) -> None:
    """Each trace of use is named, and with the first of them the card counts as initialized."""
    with scripted(script) as (connection, _):
        probe = connection.probe()

    assert list(probe.shortcomings) == shortcomings
    assert probe.state is (HsmState.INITIALIZED if shortcomings else HsmState.ZEROIZED)


@pytest.mark.parametrize(
    ("cardholder", "login", "label"),
    [
        (b"Doe<<John", b"jd", "Doe John"),
        (b"", b"operator", "operator"),
        (b"M\xfcller", b"", "Müller"),
        ("Müller".encode(), b"", "Müller"),
        (b"\x1b[2J\r\nroot", b"", "?[2J??root"),
        (b"", b"x" * 200, "x" * 64),
        (b"", b"", ""),
    ],
)
def test_the_label_is_decoded_with_care(cardholder: bytes, login: bytes, label: str) -> None:
    """Old and new encodings are read, and nothing that a terminal could obey gets through."""
    name = tlv("5B", cardholder.hex()) + "9000"
    with scripted(probing(application_data(), cardholder=name, login=login.hex() + "9000")) as (connection, _):
        assert connection.probe().label == label


def test_a_card_without_application_related_data_is_asked_singly() -> None:
    """Objects that are not in 6E are fetched by themselves."""
    script = probing("")
    script[1] = ("00CA006E00", "6A88")
    script[2:2] = [
        ("00CA004F00", "D276000124010304000F00AB12340000" + "9000"),
        ("00CA5F5200", "0031C573C001400590009000"),
        ("00CA00C400", "00202020030003" + "9000"),
        ("00CA00C500", "00" * 60 + "9000"),
        ("00CA00CD00", "00" * 12 + "9000"),
    ]

    with scripted(script, serial="", product=0x4108, vendor=0x20A0) as (connection, _):
        probe = connection.probe()

    assert (probe.serial, probe.model, probe.firmware) == ("AB1234", "Nitrokey Pro", "OpenPGP 3.4")
    assert probe.details[0] == ("Manufacturer", "Nitrokey (000F)")


def test_a_terminated_card_tells_no_serial() -> None:
    """It is recognised by SELECT alone and asked nothing more."""
    with scripted([(SELECT, "6285")], serial="FSIJ-1.2.10-43114251", vendor=0x20A0, product=0x4211) as (connection, _):
        probe = connection.probe()

    assert (probe.serial, probe.state, probe.obstacle) == (None, HsmState.TERMINATED, "")
    assert (probe.model, probe.firmware) == ("Nitrokey Start", "1.2.10")
    assert probe.shortcomings


@pytest.mark.parametrize("status", ["6700", "6985", "6999", "6A82", "6A86", "6D00", "6E00"])
def test_another_card_is_not_of_the_family(status: str) -> None:
    """The USB id only nominated; SELECT decides."""
    with scripted([(SELECT, status)]) as (connection, _), pytest.raises(NotThisFamily):
        connection.probe()


@pytest.mark.parametrize("status", ["6581", "6F00", "6982"])
def test_a_card_that_fails_is_no_other_family(status: str) -> None:
    """A fault is said as such, with the status."""
    with scripted([(SELECT, status)]) as (connection, _), pytest.raises(DeviceRefused) as caught:
        connection.probe()

    assert caught.value.status == int(status, 16)


@pytest.mark.parametrize(("serial", "told"), [("FSIJ-1.2.19-00667788", "667788"), ("FSIJ-1.2.19-f1420a7b", "F1420A7B")])
def test_two_numbers_are_told_and_the_cards_counts(serial: str, told: str) -> None:
    """Its owner may have given it a number of its own; while it is terminated, only USB's is there."""
    with scripted(probing(application_data()), serial=serial) as (connection, _):
        probe = connection.probe()

    assert (probe.serial, probe.alias, probe.obstacle) == ("F1420A7A", told, "")
    assert probe.conflict == f"USB says {told}, the card says F1420A7A"


@pytest.mark.parametrize("serial", ["FSIJ-1.2.19-f1420a7a", "FSIJ-1.2.19-EMULATED", "E6614C311B5B8F2C", "1B5B8F2C", ""])
def test_what_is_no_other_number_is_no_conflict(serial: str) -> None:
    """The same in either case; and what has Gnuk's USB id need not have a number of Gnuk's."""
    with scripted(probing(application_data()), serial=serial) as (connection, _):
        probe = connection.probe()

    assert (probe.serial, probe.conflict) == ("F1420A7A", "")


def test_what_a_reset_does_not_reach_is_told() -> None:
    """Of a Nitrokey Start, which holds three identities; in use and terminated."""
    for script in (probing(application_data()), [(SELECT, "6285")]):
        with scripted(script, vendor=0x20A0, product=0x4211) as (connection, _):
            assert "the other two keep their keys" in connection.probe().leaves
    with scripted(probing(application_data())) as (connection, _):
        assert connection.probe().leaves == ""


def test_a_card_that_allows_nothing_is_terminated() -> None:
    """The first ones of the Nitrokey 3 are selected as ever then, and refuse everything else."""
    with scripted([(SELECT, "9000"), ("00CA006E00", "6985")]) as (connection, _):
        assert connection.probe().state is HsmState.TERMINATED


def test_keys_are_asked_for_where_they_are_not_listed() -> None:
    """Some cards have the object, but not among the others."""
    script = probing(application_data())
    script[2] = ("00CA00DE00", "010102000300" + "9000")
    with scripted(script) as (connection, _):
        assert connection.probe().shortcomings == ("the signature key is present",)


@pytest.mark.parametrize("status", ["6A88", "6B00", "6985", "6D00"])
def test_a_card_that_does_not_know_the_list_of_keys(status: str) -> None:
    """It is one of those before version 3.4, whatever it says."""
    script = probing(application_data())
    script[2] = ("00CA00DE00", status)
    with scripted(script) as (connection, _):
        assert connection.probe().state is HsmState.ZEROIZED


@pytest.mark.parametrize(
    "application",
    [
        application_data(aid="D2760001240102"),
        application_data(aid="A0" + "00" * 15),
        application_data(pins="007F7F7F0303"),
        application_data(fingerprints="00" * 40),
        application_data(times="00"),
    ],
    ids=["short AID", "other AID", "short C4", "short C5", "short CD"],
)
def test_nonsense_is_a_protocol_error(application: str) -> None:
    """An object that cannot be is not taken for an empty one."""
    with scripted(probing(application)) as (connection, _), pytest.raises(ProtocolError):
        connection.probe()


@pytest.mark.parametrize("application", ["6E05", "4F", "4F8510", "5F", "7382FFFF00", "4F1000"])
def test_broken_data_objects_are_a_protocol_error(application: str) -> None:
    """A length that leads out of the answer."""
    script = probing(application)[:2]
    with scripted(script) as (connection, _), pytest.raises(ProtocolError):
        connection.probe()


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([0x4F, 0x5F52, 0xC4]))
def test_any_bytes_are_searched(raw: bytes, tag: int) -> None:
    """Random bytes hold the object, or not, or are refused."""
    with suppress(ProtocolError):
        find(raw, tag)


def test_nesting_is_bounded() -> None:
    """Objects within objects are followed as far as a card has them, and not without end."""
    raw = bytes.fromhex("4F01AA")
    for depth in range(2000):
        assert find(raw, 0x4F) == (b"\xaa" if depth <= DEEPEST else None)
        raw = b"\x73\x82" + len(raw).to_bytes(2) + raw
