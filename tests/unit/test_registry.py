# SPDX-License-Identifier: Apache-2.0
"""The inventory equals what is plugged in, and a serial number leads to one device or to a refusal."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import AmbiguousSerial, InventoryError, UnknownSerial, WrongClass
from appliance.hsm.drivers import Driver
from appliance.hsm.drivers.openpgp import OpenPgpDriver
from appliance.hsm.drivers.smartcard_hsm import SmartcardHsmDriver
from appliance.hsm.drivers.yubihsm2 import YubiHsmDriver
from appliance.hsm.hotplug import Event, Plugged, Rescan, Unplugged
from appliance.hsm.model import Attachment, HsmClass, HsmState, Probe
from appliance.hsm.registry import Changes, Registry
from appliance.hsm.usb import UsbBus
from tests.support.fake_driver import FakeDriver, OtherDriver, attachment

HERE = attachment("1-1", 5, "A1")
THERE = attachment("1-2", 6, "B2")
PROBE = Probe("A1", HsmState.INITIALIZED, "Fake", "1.0")


def registry(*events: Event, pki: tuple[str, ...] = ()) -> Registry:
    """An inventory after some events."""
    made = Registry([FakeDriver(), OtherDriver()], pki)
    for event in events:
        made.apply(event)
    return made


def places(changes: Changes) -> tuple[list[Attachment], list[Attachment]]:
    """Where something vanished, and where something appeared."""
    return [d.attachment for d in changes.vanished], [d.attachment for d in changes.appeared]


ELSEWHERE = replace(HERE, address=9)
LATER = replace(HERE, initialized=HERE.initialized + 1)
KEYBOARD = attachment("1-3", 7, vendor=0x046D)


@pytest.mark.parametrize(
    ("before", "event", "vanished", "appeared"),
    [
        ([], Plugged(HERE), [], [HERE]),
        ([Plugged(HERE)], Plugged(HERE), [], []),
        ([Plugged(HERE)], Plugged(THERE), [], [THERE]),
        ([Plugged(HERE)], Plugged(ELSEWHERE), [HERE], [ELSEWHERE]),
        ([Plugged(HERE)], Plugged(LATER), [HERE], [LATER]),
        ([Plugged(HERE)], Unplugged(HERE.sys_path), [HERE], []),
        ([Plugged(HERE), Unplugged(HERE.sys_path)], Unplugged(HERE.sys_path), [], []),
        ([], Unplugged("/sys/never/seen"), [], []),
        ([], Plugged(KEYBOARD), [], []),
        ([Plugged(HERE)], Plugged(replace(KEYBOARD, sys_path=HERE.sys_path)), [HERE], []),
        ([], Rescan(()), [], []),
        ([], Rescan((HERE, THERE, KEYBOARD)), [], [HERE, THERE]),
        ([Plugged(HERE)], Rescan((HERE,)), [], []),
        ([Plugged(HERE), Plugged(THERE)], Rescan((THERE,)), [HERE], []),
        ([Plugged(HERE)], Rescan((THERE,)), [HERE], [THERE]),
        ([Plugged(HERE)], Rescan((ELSEWHERE,)), [HERE], [ELSEWHERE]),
        ([Plugged(HERE), Plugged(THERE)], Rescan(()), [HERE, THERE], []),
    ],
)
def test_an_event_changes_the_inventory_once(
    before: list[Event], event: Event, vanished: list[Attachment], appeared: list[Attachment]
) -> None:
    """An event tells what it changed; the same event again changes nothing."""
    inventory = registry(*before)

    assert places(inventory.apply(event)) == (vanished, appeared)
    assert places(inventory.apply(event)) == ([], [])


PLACES = [
    attachment(f"1-{port}", address, serial) for port in "123" for address in (1, 2) for serial in ("A1", "", "z")
]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Event], dict[str, Attachment]]:
    """Events as a machine can send them, and what is plugged in at the end."""
    plugged: dict[str, Attachment] = {}
    events: list[Event] = []
    for kind in draw(st.lists(st.sampled_from(["plug", "unplug", "scan"]), max_size=30)):
        place = draw(st.sampled_from(PLACES))
        if kind == "plug":
            plugged[place.sys_path] = place
            events.append(Plugged(place))
        elif kind == "unplug":
            plugged.pop(place.sys_path, None)
            events.append(Unplugged(place.sys_path))
        else:
            events.append(Rescan(tuple(plugged.values())))
        events += [events[-1]] * draw(st.integers(0, 1))
    return events, plugged


@given(histories())
def test_the_inventory_is_what_is_plugged_in(history: tuple[list[Event], dict[str, Attachment]]) -> None:
    """After any events, doubled ones among them, the inventory is the set of what is plugged in."""
    events, plugged = history

    assert {d.attachment for d in registry(*events).all()} == set(plugged.values())


@given(histories())
def test_the_changes_add_up(history: tuple[list[Event], dict[str, Attachment]]) -> None:
    """Whoever only follows the changes knows the same inventory: nothing appears twice or vanishes unseen."""
    known: set[Attachment] = set()
    inventory = registry()
    for event in history[0]:
        vanished, appeared = places(inventory.apply(event))
        assert known >= set(vanished)
        known -= set(vanished)
        assert known.isdisjoint(appeared)
        known |= set(appeared)

    assert known == set(history[1].values())


@given(histories(), histories())
def test_a_scan_heals_what_was_lost(
    lost: tuple[list[Event], dict[str, Attachment]], truth: tuple[list[Event], dict[str, Attachment]]
) -> None:
    """After an overflow, whatever was believed, a rescan makes it true."""
    inventory = registry(*lost[0])
    inventory.apply(Rescan(tuple(truth[1].values())))

    assert {d.attachment for d in inventory.all()} == set(truth[1].values())


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("A1", HERE),
        (" a1 ", HERE),
        ("B2", THERE),
        ("A", UnknownSerial),
        ("A11", UnknownSerial),
        ("", UnknownSerial),
        ("   ", UnknownSerial),
        ("P9", WrongClass),
        ("D4", AmbiguousSerial),
    ],
)
def test_a_serial_leads_to_one_device(wanted: str, expected: Attachment | type[InventoryError]) -> None:
    """A serial is compared whole and by the family's rule; none, two, or another class is refused."""
    inventory = registry(
        Plugged(HERE),
        Plugged(THERE),
        Plugged(attachment("1-3", 7, "p9")),
        Plugged(attachment("1-4", 8, "D4")),
        Plugged(attachment("1-5", 9, "d4 ")),
        Plugged(attachment("1-6", 10, "")),
        pki=(" p9",),
    )

    if isinstance(expected, Attachment):
        assert inventory.find(wanted, HsmClass.BACKUP).attachment == expected
    else:
        with pytest.raises(expected) as caught:
            inventory.find(wanted, HsmClass.BACKUP)
        assert caught.value.serial == wanted


def test_a_pki_token_is_found_as_one() -> None:
    """The class belongs to the serial number, as the configuration names it."""
    inventory = registry(Plugged(HERE), Plugged(THERE), pki=("a1",))

    assert inventory.find("A1", HsmClass.PKI).attachment == HERE
    with pytest.raises(WrongClass):
        inventory.find("B2", HsmClass.PKI)


def test_udevs_mark_makes_a_pki_token() -> None:
    """A device that a udev rule of the administrator marks is a PKI token; another mark means nothing."""
    marks = [replace(HERE, class_mark="pki"), replace(THERE, class_mark="builtin")]
    inventory = registry(*map(Plugged, marks))

    assert [device.hsm_class for device in inventory.all()] == [HsmClass.PKI, HsmClass.BACKUP]


def test_a_blank_pki_serial_is_nobody() -> None:
    """An empty entry of the configuration does not make every device without a serial a PKI token."""
    inventory = registry(Plugged(attachment(usb_serial="")), pki=("", "  "))

    assert [device.hsm_class for device in inventory.all()] == [HsmClass.BACKUP]


def test_what_the_device_says_stands_above_usb() -> None:
    """A device is found by the serial it told itself, no more by the one that USB suggested, and its class follows."""
    inventory = registry(Plugged(HERE), pki=("C3",))
    inventory.learn(HERE, "fake", "C3", probe=replace(PROBE, serial="C3"))

    assert inventory.find("C3", HsmClass.PKI).probe is not None
    with pytest.raises(UnknownSerial):
        inventory.find("A1", HsmClass.BACKUP)


def test_an_unreachable_device_is_found_by_its_usb_serial() -> None:
    """A device that cannot be asked is in the inventory, with the reason."""
    inventory = registry(Plugged(HERE))
    inventory.learn(HERE, "fake", "A1", problem="no answer in time")

    found = inventory.find("A1", HsmClass.BACKUP)
    assert (found.state, found.problem) == (HsmState.UNREACHABLE, "no answer in time")


@pytest.mark.parametrize("now", [Unplugged(HERE.sys_path), Plugged(ELSEWHERE), Plugged(LATER), Rescan((ELSEWHERE,))])
def test_an_answer_that_comes_too_late_is_dropped(now: Event) -> None:
    """What a device said is not noted for the one that took its place."""
    inventory = registry(Plugged(HERE), now)

    assert inventory.learn(HERE, "fake", "A1", probe=PROBE) is None
    assert inventory.forget(HERE) is None
    assert [device.probe for device in inventory.all()] == [None] * len(inventory.all())


@pytest.mark.parametrize(
    ("event", "known"),
    [
        (Plugged(HERE), []),
        (Rescan((HERE,)), []),
        (Plugged(ELSEWHERE), [ELSEWHERE]),
        (Rescan((ELSEWHERE,)), [ELSEWHERE]),
        (Unplugged(HERE.sys_path), []),
    ],
)
def test_a_stranger_stays_forgotten(event: Event, known: list[Attachment]) -> None:
    """A device of no family is not taken up again by a scan, but what comes in its place is."""
    inventory = registry(Plugged(HERE))
    assert inventory.forget(HERE) is not None
    inventory.apply(event)

    assert [device.attachment for device in inventory.all()] == known


def test_a_stranger_that_comes_back_is_new() -> None:
    """Plugged in again, even with the very same address, it is asked again."""
    inventory = registry(Plugged(HERE))
    inventory.forget(HERE)
    inventory.apply(Unplugged(HERE.sys_path))

    assert places(inventory.apply(Plugged(HERE))) == ([], [HERE])


def test_the_order_is_stable() -> None:
    """Devices are listed by serial number, then by place, however they came."""
    come = [attachment("1-4", 1, "B"), attachment("1-2", 2, "A"), attachment("1-1", 3, "B"), attachment("1-3", 4, "")]
    listed = [device.attachment.port for device in registry(*map(Plugged, come)).all()]

    assert listed == ["1-3", "1-2", "1-1", "1-4"]
    assert [d.attachment.port for d in registry(Rescan(tuple(reversed(come)))).all()] == listed


def test_families_are_asked_in_order() -> None:
    """All families that a USB id suggests are nominated, none for a device nobody knows."""
    inventory = registry()

    assert [driver.family for driver in inventory.nominees(HERE)] == ["fake", "other"]
    assert inventory.nominees(KEYBOARD) == ()


ALL = (OpenPgpDriver, SmartcardHsmDriver, YubiHsmDriver)


@pytest.mark.parametrize(
    ("drivers", "usb_id", "asked"),
    [
        (ALL, (0x234B, 0x0000), ["openpgp", "smartcard-hsm"]),
        (ALL, (0x20A0, 0x4230), ["smartcard-hsm", "openpgp"]),
        (ALL, (0x1050, 0x0030), ["yubihsm", "openpgp", "smartcard-hsm"]),
        (ALL[:2], (0x1050, 0x0030), ["openpgp", "smartcard-hsm"]),  # without Yubico's package
        (ALL, (0x1050, 0x0407), []),
    ],
)
def test_a_family_whose_boards_borrow_an_id_is_asked_last(
    drivers: Sequence[type[Driver]], usb_id: tuple[int, int], asked: list[str]
) -> None:
    """A board can be given the id of another family's device: it is asked as such once that family does not know it."""
    inventory = Registry([driver(UsbBus()) for driver in drivers])
    vendor, product = usb_id
    nominees = inventory.nominees(replace(HERE, vendor_id=vendor, product_id=product))

    assert [driver.family for driver in nominees] == asked
