# SPDX-License-Identifier: Apache-2.0
"""A token of any PKCS#11 module is reset with its SO PIN, and a wrong one costs one try and nothing else."""

import re
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from appliance.config import HsmSettings, LibrarySettings
from appliance.errors import DeviceError, ResetUnsupported
from appliance.hsm.drivers import Connection, families, pkcs11
from appliance.hsm.drivers.pkcs11 import Pkcs11Driver
from appliance.hsm.model import Attachment, Credential, HsmState, Outcome, Secret
from appliance.hsm.pkcs11 import client
from appliance.hsm.pkcs11.client import Token
from appliance.hsm.usb import UsbBus
from tests.support.fake_driver import attachment
from tests.support.luna_house import LUNA, READERS, USB_IDS, Plugs, house
from tests.support.vendor_module import SERIAL, SO_PIN, VendorModule, needs_softhsm, tool

pytestmark = needs_softhsm

PLACE = replace(LUNA, usb_serial="reader 1")  # a reader's number is not its card's
WRONG = "so-pin-4712"


@pytest.fixture
def module(vendor: VendorModule) -> VendorModule:
    """The vendor's module with a slot like a card reader's."""
    vendor.tell("slot", "Reader 0")
    vendor.tell("removable")
    return vendor


def driver(vendor: VendorModule, plugs: Plugs) -> Pkcs11Driver:
    """The driver for the module."""
    return Pkcs11Driver(plugs, [LibrarySettings(vendor.library, tuple(USB_IDS))])


async def test_a_token_is_shown(module: VendorModule, tmp_path: Path) -> None:
    """What speaks against factory state, what it wants to be given, and that USB tells another serial number."""
    plugs = Plugs(PLACE)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        [device] = made.devices

    assert (device.serial, device.state, device.problem) == (SERIAL, HsmState.INITIALIZED, "")
    assert device.probe is not None
    assert device.probe.shortcomings == ("a user PIN is set", "there are objects")
    assert device.probe.credential == Credential("SO PIN", "[ -~]{4,255}", "The SO PIN has 4 to 255 ASCII characters.")
    assert device.probe.details[2:] == (("Public Objects", "1"),)
    assert device.probe.conflict == f"USB says READER 1, the token says {SERIAL}"


async def test_a_token_may_be_in_another_reader(module: VendorModule, tmp_path: Path) -> None:
    """With a reader more that the module may use too, nobody knows in which of them its only token is."""
    other = attachment("1-1.3", 8, "", vendor=READERS)
    plugs = Plugs(PLACE, other)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        [device] = made.devices
        plugs.unplug(other)
        await made.manager.refresh(device)
        [alone] = made.devices

    assert (device.state, alone.state) == (HsmState.UNREACHABLE, HsmState.INITIALIZED)
    assert "which token is in which device is not certain: tokens on USB 1, devices 2" in device.problem


async def test_the_right_so_pin_resets(module: VendorModule, tmp_path: Path) -> None:
    """Another program finds the key before and not after; the token reads back without objects and user PIN."""
    before = module.keys()
    plugs = Plugs(PLACE)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        report = await made.reset(secret=Secret(SO_PIN))
        await made.settled()
        [device] = made.devices
        recorded = made.recorded()

    assert (report.outcome, report.reason) == (Outcome.DONE, "")
    assert (before, module.keys(), device.state) == (1, 0, HsmState.ZEROIZED)
    assert SO_PIN not in recorded


async def test_a_user_pin_that_the_module_sets_is_no_obstacle(module: VendorModule, tmp_path: Path) -> None:
    """What C_InitToken wrote is read back: that is proof, each time. Later the token counts as initialized."""
    module.tell("flags", "8")
    plugs = Plugs(PLACE)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        outcomes, labels = [], []
        for _ in range(3):
            outcomes.append((await made.reset(secret=Secret(SO_PIN))).outcome)
            await made.settled()
            [device] = made.devices
            assert device.probe is not None
            labels.append(device.probe.label)

    assert (outcomes, labels) == ([Outcome.DONE] * 3, ["blank", "empty", "blank"])
    assert (module.keys(), device.state) == (0, HsmState.INITIALIZED)


async def test_a_module_that_only_says_it_did_is_not_believed(module: VendorModule, tmp_path: Path) -> None:
    """It has written nothing, whatever it says, also where an earlier reset has."""
    plugs = Plugs(PLACE)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        first = await made.reset(secret=Secret(SO_PIN))
        module.tell("flags", "8")
        module.tell("idle")
        second = await made.reset(secret=Secret(SO_PIN))

    assert (first.outcome, second.outcome) == (Outcome.DONE, Outcome.UNKNOWN)
    assert second.reason == "not in factory state: its label is not the one that was written, a user PIN is set"


async def test_a_blank_token_proves_nothing_by_being_blank(module: VendorModule, tmp_path: Path) -> None:
    """Where nothing told the token from a blank one before, only the label that was written can, and is looked for."""
    plugs = Plugs(PLACE)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        await made.reset(secret=Secret(SO_PIN))
        await made.settled()
        module.tell("idle")
        report = await made.reset(secret=Secret(WRONG))

    assert report.outcome is Outcome.UNKNOWN
    assert report.reason == "not in factory state: its label is not the one that was written"


async def test_a_blank_token_proves_nothing_when_its_label_cannot_be_looked_for(
    module: VendorModule, tmp_path: Path
) -> None:
    """A library that crashes in the read-back takes with it the knowledge of what was written."""
    plugs = Plugs(PLACE)
    tested = driver(module, plugs)

    def crash(step: str) -> None:
        if step.startswith("reading"):
            module.tell("fault-C_GetTokenInfo", "crash")

    def reopen(place: Attachment) -> AbstractContextManager[Connection]:
        module.untell("fault-C_GetTokenInfo")
        return tested.open(place)

    async with house(tmp_path / "state", plugs, tested) as made:
        await made.reset(secret=Secret(SO_PIN))
        await made.settled()
        module.tell("idle")
        with patch.object(tested, "reopen", reopen):
            report = await made.reset(crash, Secret(WRONG))

    assert (report.outcome, report.reason) == (Outcome.UNKNOWN, "the library crashed (tokens: SIGSEGV)")


async def test_a_wrong_so_pin_is_tried_once(module: VendorModule, tmp_path: Path) -> None:
    """The reset is not done, nothing is begun, the key is there, and the PIN is on no record."""
    plugs = Plugs(PLACE)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        report = await made.reset(secret=Secret(WRONG))
        begun, recorded = bool(made.manager.interrupted()), made.recorded()

    assert (report.outcome, report.reason) == (Outcome.NOT_DONE, "the SO PIN is wrong (A00000 : CKR_PIN_INCORRECT)")
    assert (module.calls("C_InitToken"), module.keys(), begun) == (1, 1, False)
    assert "reset-outcome" in recorded
    assert WRONG not in recorded


@pytest.mark.parametrize(
    ("fault", "outcome", "keys"),
    [
        ("fault-C_InitToken E2", Outcome.NOT_DONE, 1),
        ("fault-C_InitToken A2", Outcome.NOT_DONE, 1),
        ("fault-C_InitToken A4", Outcome.NOT_DONE, 1),
        ("fault-C_InitToken B6", Outcome.NOT_DONE, 1),
        ("fault-C_InitToken 30", Outcome.UNKNOWN, 1),
        ("fault-C_InitToken hang", Outcome.UNKNOWN, 1),
        ("fault-C_InitToken crash", Outcome.UNKNOWN, 1),
        ("after-C_InitToken 32", Outcome.DONE, 0),
        ("after-C_InitToken A0", Outcome.DONE, 0),  # it has reset itself after the last of too many wrong ones
        ("after-C_InitToken A4", Outcome.DONE, 0),
        ("after-C_InitToken hang", Outcome.DONE, 0),
        ("after-C_InitToken crash", Outcome.DONE, 0),
    ],
)
async def test_a_fault_has_an_outcome(
    module: VendorModule, tmp_path: Path, fault: str, outcome: Outcome, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not done is what a token that is as it was has refused; done is what was read back; the rest is not known."""
    if fault.endswith("hang"):  # else it is to have the time that it needs
        monkeypatch.setattr(client, "RESET_TIMEOUT", 2.0)
    module.tell(*fault.split())
    plugs = Plugs(PLACE)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        report = await made.reset(secret=Secret(SO_PIN))

    assert (report.outcome, module.keys()) == (outcome, keys)
    assert (module.calls("C_InitToken"), SO_PIN in report.reason) == (1, False)


@pytest.mark.parametrize(
    ("flags", "obstacle"),
    [("400000", "its SO PIN is locked"), ("100", "it takes its SO PIN on a keypad of its own only")],
)
async def test_what_cannot_be_reset_says_so(module: VendorModule, tmp_path: Path, flags: str, obstacle: str) -> None:
    """A token that would take no SO PIN from us is not given one."""
    module.tell("flags", flags)
    plugs = Plugs(PLACE)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        with pytest.raises(ResetUnsupported, match=obstacle):
            await made.reset(secret=Secret(SO_PIN))

    assert module.calls("C_InitToken") == 0


async def test_the_last_try_is_told(module: VendorModule, tmp_path: Path) -> None:
    """Before the SO PIN is asked for, a person knows that a wrong one would be the last."""
    module.tell("flags", "200000")
    plugs = Plugs(PLACE)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        [device] = made.devices

    assert device.probe is not None
    assert device.probe.credential is not None
    assert device.probe.credential.tries_left == 1


async def test_a_blank_token_is_left_blank(module: VendorModule, tmp_path: Path) -> None:
    """One that was never initialised wants no SO PIN, and is given none."""
    tool("--slot-index", "0", "--init-token", "--label", "empty", "--so-pin", SO_PIN)
    module.tell("zeroized")
    plugs = Plugs(PLACE)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        [device] = made.devices
        report = await made.reset()

    assert device.probe is not None
    assert (device.state, device.probe.credential) == (HsmState.ZEROIZED, None)
    assert (report.outcome, module.calls("C_InitToken")) == (Outcome.DONE, 0)


@pytest.mark.parametrize(("emptied", "flags"), [(False, "0"), (True, "8"), (False, "8")])
async def test_a_token_that_is_in_use_is_not_blank(
    module: VendorModule, tmp_path: Path, emptied: bool, flags: str
) -> None:
    """Whatever its flag says: one with objects or a user PIN wants its SO PIN, and is reset with it."""
    if emptied:
        tool("--slot-index", "0", "--init-token", "--label", "empty", "--so-pin", SO_PIN)
    module.tell("zeroized")
    module.tell("flags", flags)
    plugs = Plugs(PLACE)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        [device] = made.devices
        report = await made.reset(secret=Secret(SO_PIN))

    assert device.probe is not None
    assert (device.state, device.probe.credential is None) == (HsmState.INITIALIZED, False)
    assert (report.outcome, module.calls("C_InitToken"), module.keys()) == (Outcome.DONE, 1, 0)


async def test_a_blank_token_that_has_no_sessions_is_blank(module: VendorModule, tmp_path: Path) -> None:
    """What holds nothing yet need not be open to anybody."""
    module.tell("zeroized")
    module.tell("fault-C_OpenSession", "E1")
    plugs = Plugs(PLACE)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        [device] = made.devices

    assert (device.problem, device.state) == ("", HsmState.ZEROIZED)


@pytest.mark.parametrize(
    ("serials", "reason"),
    [
        (("1", "1"), "the library shows one token in 2 slots: it has to show each token once"),
        (("1", "2"), "leave only this device plugged in"),
        (("", ""), "leave only this device plugged in"),
    ],
)
def test_a_card_in_two_slots_is_not_guessed(module: VendorModule, serials: tuple[str, str], reason: str) -> None:
    """A module may show it once for each of its PINs: what holds for one of them need not for the other."""
    tokens = [Token(slot, 2, "Reader 0", "label", "model", serial, 0, "1.0", 4) for slot, serial in enumerate(serials)]

    with pytest.raises(DeviceError, match=reason):
        driver(module, Plugs(PLACE)).tie(tokens, PLACE, 1)


async def test_a_token_in_use_that_has_no_sessions_is_not_blank(module: VendorModule, tmp_path: Path) -> None:
    """What it holds is not known then."""
    module.tell("fault-C_OpenSession", "E1")
    plugs = Plugs(PLACE)
    async with house(tmp_path / "state", plugs, driver(module, plugs)) as made:
        [device] = made.devices

    assert (device.probe, device.state) == (None, HsmState.UNREACHABLE)


def test_each_device_has_its_own_module() -> None:
    """The USB id decides which of the configured modules is loaded; without any there is no such family."""
    modules = [LibrarySettings(Path(f"/{name}.so"), ((0x1A2B, number),)) for number, name in enumerate("ab", start=1)]
    [found] = [found for found in families(UsbBus(), HsmSettings(pkcs11=tuple(modules))) if found.family == "pkcs11"]

    assert isinstance(found, Pkcs11Driver)
    assert found.library(attachment(vendor=0x1A2B)) == (Path("/a.so"), ((0x1A2B, 1),))
    assert "pkcs11" not in [found.family for found in families(UsbBus())]


@pytest.mark.parametrize("shortest", [0, 4, 8, 255, 2**64 - 1])
def test_no_limit_of_a_library_breaks_the_question(shortest: int) -> None:
    """Whatever a library says of its PINs, an empty one and one that is not ASCII never reach the token."""
    found = Token(0, 0, "slot", "label", "model", "1", 0, "1.0", shortest)
    pattern = pkcs11._credential(found).pattern

    assert not re.fullmatch(pattern, "")
    assert not re.fullmatch(pattern, "é" * 8)
    assert re.fullmatch(pattern, "x" * min(max(1, shortest), 255))
