# SPDX-License-Identifier: Apache-2.0
"""A Luna Backup HSM is found, shown and reset through the vendor's library, and whatever that does has an outcome."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.config import HsmSettings, LibrarySettings
from appliance.errors import DeviceError, DeviceGone, SerialMismatch
from appliance.hsm.drivers import families
from appliance.hsm.drivers.luna import LunaDriver
from appliance.hsm.model import HsmState, Outcome, Probe
from appliance.hsm.pkcs11 import client
from appliance.hsm.pkcs11.client import Token
from appliance.hsm.usb import UsbBus
from tests.support.fake_driver import attachment
from tests.support.luna_house import LUNA, NUMBER, SECOND, SILENT, USB_IDS, Plugs, house, luna
from tests.support.manager_house import until
from tests.support.pty_child import running
from tests.support.vendor_module import VendorModule, needs_softhsm

pytestmark = needs_softhsm


def driver() -> LunaDriver:
    """A driver of whose library nothing is asked."""
    return luna(Path("/nonexistent"), Plugs())


def token(slot: int, serial: str, description: str = "Luna UHD Slot", flags: int = 0, model: str = "") -> Token:
    """A token as the library tells it."""
    return Token(slot, flags, description, "", model, serial, 0, "1.0", 4)


@pytest.mark.parametrize(
    ("serial", "normal"),
    [
        ("0007550054", "7550054"),
        ("7550054", "7550054"),
        ("  7550054      ", "7550054"),
        ("0", "0"),
        ("0000", "0"),
        ("", ""),
        ("   ", ""),
        ("75500541", "75500541"),
        ("7550054-2", "7550054-2"),
        ("007x", "007x"),
        ("\u0667", "\u0667"),  # a digit, but not one of ours
        ("9" * 5000, "9" * 5000),
    ],
)
def test_serial_numbers_are_compared_as_numbers(serial: str, normal: str) -> None:
    """Blanks and leading zeros do not count; nothing else is dropped."""
    assert driver().normalise(serial) == normal


@pytest.mark.parametrize(
    ("usb_serial", "tokens", "devices", "slot"),
    [
        (NUMBER, [token(3, "0007550054")], 1, 3),
        (NUMBER, [token(3, "1"), token(4, NUMBER)], 2, 4),
        (NUMBER, [token(0, NUMBER, "Net Token Slot"), token(4, NUMBER)], 2, 4),
        ("", [token(3, NUMBER)], 1, 3),
        ("opaque", [token(3, NUMBER)], 1, 3),
        ("", [token(0, "1", "Net Token Slot"), token(3, NUMBER)], 1, 3),  # the built-in HSM is not on USB
        ("", [token(0, "1", "Slot", flags=2)], 1, 0),  # CKF_REMOVABLE_DEVICE
        ("", [token(0, "1", "Admin Token Slot"), token(3, NUMBER, "Admin Token Slot", model="G5Backup")], 1, 3),
    ],
)
def test_a_device_is_tied_to_its_token(usb_serial: str, tokens: list[Token], devices: int, slot: int) -> None:
    """By the serial number that both tell; without one, only where there is one device and one token on USB."""
    assert driver().tie(tokens, replace(LUNA, usb_serial=usb_serial), devices).slot == slot


@pytest.mark.parametrize(
    ("usb_serial", "tokens", "devices", "reason"),
    [
        ("", [], 1, "shows no token on USB$"),
        ("", [token(0, "1", "Net Token Slot")], 1, "shows no token on USB, but slots named 'Net Token Slot'"),
        (NUMBER, [token(0, NUMBER, "Net Token Slot")], 1, "shows no token on USB, but slots named"),
        ("", [token(3, NUMBER)], 2, "not certain: tokens on USB 1, devices 2"),
        ("", [token(3, NUMBER), token(4, "1")], 1, "not certain: tokens on USB 2, devices 1"),
        ("", [token(3, NUMBER), token(4, "1")], 2, "not certain: tokens on USB 2, devices 2"),
        (NUMBER, [token(3, NUMBER), token(4, "0007550054")], 2, "this device's serial number 2"),
        ("755005", [token(3, NUMBER), token(4, "1")], 2, "this device's serial number 0"),
        ("", [token(3, "")], 2, "not certain"),
        (NUMBER, [token(3, NUMBER), token(4, NUMBER)], 1, "shows one token in 2 slots: it has to show each token once"),
    ],
)
def test_what_is_not_certain_is_refused(usb_serial: str, tokens: list[Token], devices: int, reason: str) -> None:
    """No token, or more than one, is never the first one."""
    with pytest.raises(DeviceError, match=reason):
        driver().tie(tokens, replace(LUNA, usb_serial=usb_serial), devices)


async def test_an_hsm_is_shown(vendor: VendorModule, tmp_path: Path) -> None:
    """Serial number, state, firmware, label and where it was found."""
    plugs = Plugs(LUNA)
    async with house(tmp_path / "state", plugs, luna(vendor.library, plugs)) as made:
        [device] = made.devices

    assert device.problem == ""
    assert isinstance(device.probe, Probe)
    assert (device.serial, device.state) == (NUMBER, HsmState.INITIALIZED)
    assert (device.probe.model, device.probe.firmware, device.probe.label) == ("SoftHSM v2", "6.24.3", "vault")
    assert device.probe.shortcomings == ("the HSM is initialized", "a user PIN is set")
    assert device.probe.credential is None
    assert ("PKCS#11 Library", str(vendor.library)) in device.probe.details


async def test_a_reset_destroys_the_keys(vendor: VendorModule, tmp_path: Path) -> None:
    """It is done by one CA_FactoryReset without flags, and another program finds the key before and not after."""
    before = vendor.keys()
    plugs = Plugs(SILENT)
    async with house(tmp_path / "state", plugs, luna(vendor.library, plugs)) as made:
        report = await made.reset()
        await made.settled()
        [device] = made.devices

    assert (report.outcome, report.reason, report.serial) == (Outcome.DONE, "", NUMBER)
    assert (before, vendor.keys()) == (1, 0)
    assert (device.state, device.interrupted) == (HsmState.ZEROIZED, None)
    assert (vendor.calls("CA_FactoryReset"), vendor.calls("CA_FactoryReset with flags")) == (1, 0)


REFUSED = [
    (fault, Outcome.NOT_DONE, name)
    for fault, name in {
        "8000001C": "LUNA_RET_SO_LOGIN_FAILURE_THRESHOLD",
        "80000026": "LUNA_RET_MTK_ZEROIZED",
        "80000030": "LUNA_RET_OPERATION_NOT_ALLOWED",
        "80000031": "LUNA_RET_LICENSE_CAPACITY_EXCEEDED",
        "8000006E": "LUNA_RET_STM_CMD_NON_TRANSPORT",
        "54": "CKR_FUNCTION_NOT_SUPPORTED",
    }.items()
]
UNCLEAR = [
    (fault, Outcome.UNKNOWN, text)
    for fault, text in {
        "03": "CKR_SLOT_ID_INVALID",
        "30": "CKR_DEVICE_ERROR",
        "32": "CKR_DEVICE_REMOVED",
        "E0": "CKR_TOKEN_NOT_PRESENT",
        "8000002B": "LUNA_RET_DEVICE_TIMEOUT",
        "hang": "the library does not answer",
        "crash": "the library crashed",
    }.items()
]


@pytest.mark.parametrize(("fault", "outcome", "text"), REFUSED + UNCLEAR)
async def test_a_fault_before_the_work_is_not_done_or_unknown(
    vendor: VendorModule, tmp_path: Path, fault: str, outcome: Outcome, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a clear no of an HSM that is as it was counts as not done; anything else leaves the reset begun."""
    if fault == "hang":  # else it is to have the time that it needs
        monkeypatch.setattr(client, "RESET_TIMEOUT", 2.0)
    vendor.tell("fault-CA_FactoryReset", fault)
    plugs = Plugs(LUNA)
    async with house(tmp_path / "state", plugs, luna(vendor.library, plugs)) as made:
        report = await made.reset()
        begun = bool(made.manager.interrupted())

    assert report.outcome is outcome
    assert text in report.reason
    assert begun is (outcome is Outcome.UNKNOWN)
    assert vendor.keys() == 1
    assert vendor.calls("CA_FactoryReset") == 1


@pytest.mark.parametrize("fault", ["hang", "crash", "30", "32", "8000002B"])
async def test_a_fault_after_the_work_is_read_back(
    vendor: VendorModule, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the library said at last does not matter when a new process reads the HSM back as zeroized."""
    if fault == "hang":  # else it is to have the time that it needs
        monkeypatch.setattr(client, "RESET_TIMEOUT", 2.0)
    vendor.tell("after-CA_FactoryReset", fault)
    plugs = Plugs(LUNA)
    async with house(tmp_path / "state", plugs, luna(vendor.library, plugs)) as made:
        report = await made.reset()

    assert (report.outcome, vendor.keys()) == (Outcome.DONE, 0)


async def test_the_same_command_completes_an_unknown_reset(vendor: VendorModule, tmp_path: Path) -> None:
    """A reset in which the library died is shown as interrupted, and is done when it is run again."""
    vendor.tell("fault-CA_FactoryReset", "crash")
    plugs = Plugs(LUNA)
    async with house(tmp_path / "state", plugs, luna(vendor.library, plugs)) as made:
        await made.reset()
    vendor.untell("fault-CA_FactoryReset")
    async with house(tmp_path / "state", plugs, luna(vendor.library, plugs)) as made:
        interrupted = made.devices[0].interrupted
        report = await made.reset()

    assert interrupted is not None
    assert report.outcome is Outcome.DONE


SWAPS: dict[str, Callable[[VendorModule], None]] = {
    "put in again": lambda vendor: vendor.tell("insertions", "2"),
    "another one": lambda vendor: vendor.tell("serial", "475282"),
    "taken out": lambda vendor: vendor.tell("absent"),
}


@pytest.mark.parametrize("swap", SWAPS)
async def test_a_swap_before_the_reset_is_noticed(vendor: VendorModule, tmp_path: Path, swap: str) -> None:
    """An HSM that is not the one that was found is not touched."""
    plugs = Plugs(SILENT)

    def progress(step: str) -> None:
        if step == "checking that it is still in its slot":
            SWAPS[swap](vendor)

    async with house(tmp_path / "state", plugs, luna(vendor.library, plugs)) as made:
        report = await made.reset(progress)

    assert report.outcome is Outcome.UNKNOWN
    assert vendor.calls("CA_FactoryReset") == 0


@pytest.mark.parametrize(("swap", "outcome"), [("put in again", Outcome.DONE), ("another one", Outcome.UNKNOWN)])
async def test_a_swap_in_the_middle_is_read_back(
    vendor: VendorModule, tmp_path: Path, swap: str, outcome: Outcome
) -> None:
    """The HSM that comes back under its own number as zeroized was reset; under another number nobody knows."""
    plugs = Plugs(SILENT)

    def progress(step: str) -> None:
        if step == "checking that it was not taken out":
            SWAPS[swap](vendor)

    async with house(tmp_path / "state", plugs, luna(vendor.library, plugs)) as made:
        report = await made.reset(progress)

    assert report.outcome is outcome


def test_a_swap_in_the_middle_is_noticed(vendor: VendorModule) -> None:
    """Where another number of insertions is counted afterwards, the reset does not return as if nothing had been."""
    plugs = Plugs(LUNA)

    def progress(step: str) -> None:
        if step == "checking that it was not taken out":
            vendor.tell("insertions", "2")

    with luna(vendor.library, plugs).open(LUNA) as connection, pytest.raises(DeviceGone, match="was taken out"):
        connection.factory_reset(progress)


@pytest.mark.parametrize(("when", "state"), [("fault", HsmState.INITIALIZED), ("after", HsmState.ZEROIZED)])
async def test_a_daemon_killed_in_the_reset_leaves_it_begun(
    vendor: VendorModule, tmp_path: Path, when: str, state: HsmState
) -> None:
    """Killed before or after the keys are gone: the next one shows the reset as interrupted, and completes it."""
    vendor.tell(f"{when}-CA_FactoryReset", "hang")
    await asyncio.to_thread(killed_reset, tmp_path / "state", vendor, state is HsmState.ZEROIZED)
    vendor.untell(f"{when}-CA_FactoryReset")
    plugs = Plugs(LUNA)
    async with house(tmp_path / "state", plugs, luna(vendor.library, plugs)) as made:
        [device] = made.devices
        report = await made.reset()
        left = made.manager.interrupted()

    assert (device.state, device.interrupted is not None) == (state, True)
    assert (report.outcome, vendor.keys(), left) == (Outcome.DONE, 0, ())


def killed_reset(state: Path, vendor: VendorModule, zeroized: bool) -> None:
    """A process that resets the HSM, killed with SIGKILL once the library hangs."""
    command = [sys.executable, "-m", "tests.support.library_reset", str(state), str(vendor.library)]
    with running(command):
        vendor.until((vendor.folder / "zeroized").exists if zeroized else lambda: vendor.calls("CA_FactoryReset") > 0)


async def test_two_numbers_are_shown_and_not_reset(vendor: VendorModule, tmp_path: Path) -> None:
    """Where USB and the HSM tell different numbers, that is said, and there is no reset under either."""
    plugs = Plugs(replace(LUNA, usb_serial="475282"))
    async with house(tmp_path / "state", plugs, luna(vendor.library, plugs)) as made:
        [device] = made.devices
        with pytest.raises(SerialMismatch):
            await made.reset()

    assert device.state is HsmState.UNREACHABLE
    assert device.problem == "expected serial '475282', the device says '7550054'"
    assert vendor.calls("CA_FactoryReset") == 0


async def test_two_silent_devices_are_not_guessed(vendor: VendorModule, tmp_path: Path) -> None:
    """With a second one plugged in neither is tied to the token; when it is pulled, the first one is."""
    plugs = Plugs(SILENT, SECOND)
    async with house(tmp_path / "state", plugs, luna(vendor.library, plugs)) as made:
        states = [device.state for device in made.devices]
        plugs.unplug(SECOND)
        plugs.rescan()
        await made.settled()
        [device] = made.devices

    assert states == [HsmState.UNREACHABLE, HsmState.UNREACHABLE]
    assert (device.serial, device.state) == (NUMBER, HsmState.INITIALIZED)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [("hang", "the library does not answer (load)"), ("crash", "the library crashed (load: SIGSEGV)")],
)
async def test_a_library_that_never_starts_is_a_problem_of_its_hsm(
    vendor: VendorModule, tmp_path: Path, fault: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop runs on while it hangs, and then the HSM is listed as unreachable."""
    if fault == "hang":  # else it is to have the time that it needs
        monkeypatch.setattr(client, "LOAD_TIMEOUT", 3.0)
    vendor.tell("fault-C_Initialize", fault)
    plugs = Plugs()
    async with house(tmp_path / "state", plugs, luna(vendor.library, plugs)) as made:
        plugs.plug(LUNA)
        await until(lambda: vendor.calls("C_Initialize") > 0)
        waiting = [device.state for device in made.devices]
        await made.settled()
        [device] = made.devices

    assert waiting in ([HsmState.UNKNOWN], [HsmState.UNREACHABLE])
    assert (device.state, device.problem, device.serial) == (HsmState.UNREACHABLE, problem, NUMBER)


async def test_an_hsm_that_is_pulled_is_gone(vendor: VendorModule, tmp_path: Path) -> None:
    """After udev said so it is not listed, and a driver that still opens it says that it was unplugged."""
    plugs = Plugs(LUNA)
    async with house(tmp_path / "state", plugs, luna(vendor.library, plugs)) as made:
        plugs.unplug(LUNA)
        left = made.devices
        with pytest.raises(DeviceError, match="unplugged"), luna(vendor.library, plugs).open(LUNA):
            pass

    assert left == ()


@pytest.mark.parametrize(
    ("text", "library"),
    [
        ("Chrystoki2 = {\n   LibUNIX = /a.so;\n   LibUNIX64 = /usr/lib/b.so;\n}\n", "/usr/lib/b.so"),
        ("Other = {\n LibUNIX64 = /a.so;\n}\nChrystoki2={LibNT=x;\nLibUNIX64=/b c.so ;}", "/b c.so"),
        ("Chrystoki2 = {\n   LibUNIX64 = relative.so;\n}\n", None),
        ("Chrystoki2 = {\n   LibUNIX = /a.so;\n}\nOther = {\n LibUNIX64 = /c.so;\n}\n", None),
        ("", None),
        (None, None),
    ],
)
def test_the_vendors_client_knows_the_library(
    text: str | None, library: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a library in our configuration, that of the vendor's client is taken; without any there is no family."""
    monkeypatch.setenv("ChrystokiConfigurationPath", str(tmp_path))
    if text is not None:
        (tmp_path / "Chrystoki.conf").write_text(text)
    settings = HsmSettings(luna=LibrarySettings(None, tuple(USB_IDS)))
    paths = [str(found.path) for found in families(UsbBus(), settings) if isinstance(found, LunaDriver)]

    assert paths == ([library] if library else [])


def test_without_usb_ids_there_is_no_family() -> None:
    """Nothing is guessed of a device whose USB id nobody has told."""
    assert "luna" not in [found.family for found in families(UsbBus())]
    settings = HsmSettings(luna=LibrarySettings(Path("/a.so"), ((0x1A2B, 1),)))
    [found] = [found for found in families(UsbBus(), settings) if found.family == "luna"]

    assert found.nominated(attachment(vendor=0x1A2B))
    assert not found.nominated(attachment())
