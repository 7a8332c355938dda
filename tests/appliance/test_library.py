# SPDX-License-Identifier: Apache-2.0
"""Devices behind a vendor's library and driver, on the booted appliance: OpenSC's and SoftHSM's word against ours.

The driver is a process of its own that opens the devices with libusb, on the kernel's own USB; the console is given the
library and the group of the driver's users, as README says, and is otherwise confined as always.
"""

import base64
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.simulator.pkcs11_flash import USER_PIN_IN_USE
from appliance.simulator.vendor_library import library
from tests.support.families import LUNA, PKCS11, Kind
from tests.support.guest import vendor
from tests.support.guest.appliance import JOURNAL, STATE, Appliance
from tests.support.guest.ssh import Ssh
from tests.support.person import PROMPT
from tests.support.signature import verifies
from tests.support.vendor import FAILURE, SUCCESS

LIST = "token backup list"
SUCCESSFUL = f"\n'token backup factoryReset' successful.\n{SUCCESS}"
UNKNOWN = "Contact with the token was lost. Its state is unknown.\n"
DECISIVE: dict[Kind, str] = {
    LUNA: "message 20",
    PKCS11: "message 02",
}  # as a cable calls the command with which the reset is complete
HASH = hashlib.sha256(b"a backup").digest()
SIGN = "--sign --mechanism ECDSA --id 01 --input-file hash --output-file signature"
OTHER = "AABB90"  # an OpenPGP card, which needs no library
# What anybody can see of processes; some of them end meanwhile.
PROCESSES = r"cat /proc/[0-9]*/comm /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"
WRITTEN = f"cat {STATE}/*; {JOURNAL} --output=export"
# The owner and group of the node of a device, by its product id; nothing of ours says what kind of device it is.
NODE = (
    "folder=$(dirname $(grep -lx {} /sys/bus/usb/devices/*/idProduct)) && . $folder/uevent && "
    "stat --format=%U:%G:%a /dev/$DEVNAME && udevadm info --query=property $folder | grep ^HSM_ || true"
)
# The console's processes for libraries, a line for each: its status (proc_pid_stat(5)) and the library it has loaded.
CHILDREN = rf"""
for file in $(grep --files-with-matches --no-messages 'hsm[.]pkcs11[.]child' /proc/[0-9]*/cmdline); do
    cd ${{file%/cmdline}} && echo $(cat stat) $(grep --only-matching '{vendor.FOLDER}/.*' maps | sort --unique)
done 2>/dev/null || true
"""


@pytest.fixture(scope="module", autouse=True)
def client(booted: Appliance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The console with the vendor's client."""
    if reason := vendor.why_not():
        pytest.skip(reason)
    with vendor.client(booted, tmp_path_factory.mktemp("vendor")):
        yield


@dataclass(frozen=True, slots=True)
class Told:
    """What other people's programs say of a token."""

    slots: str
    objects: list[str]  # that anybody sees
    softhsm: set[str]
    signs: bool


def module(kind: Kind) -> Path:
    """The library, over there."""
    return library(vendor.FOLDER, kind.simulator)


def opensc(kind: Kind) -> str:
    """OpenSC's program with it."""
    return f"pkcs11-tool --module {module(kind)}"


def keys(objects: str) -> list[str]:
    """The key objects that OpenSC's program lists."""
    return re.findall(r"^(\w+ Key) Object;", objects, re.MULTILINE)


def told(root: Ssh, kind: Kind) -> Told:
    """Ask them, over there; the key 1 is asked for a signature."""
    tool, login = opensc(kind), f"--login --pin {USER_PIN_IN_USE}"
    script = (
        f"cd $(mktemp --directory) && echo {base64.b64encode(HASH).decode()} | base64 --decode >hash\n"
        f"{tool} -L; echo --; {tool} -O; echo --\n"
        f"softhsm2-util --module {module(kind)} --show-slots; echo --\n"
        f"{tool} {login} {SIGN} >&2 && base64 --wrap=0 signature; echo --\n"
        f"{tool} --read-object --type pubkey --id 01 --output-file public >&2 && base64 --wrap=0 public\nrm -r $PWD"
    )
    slots, objects, softhsm, signature, public = root.run(script).split("--\n")
    point = base64.b64decode(public)[-65:]  # at the end of a SubjectPublicKeyInfo
    return Told(
        slots,
        keys(objects),
        {" ".join(line.split()) for line in softhsm.splitlines()},
        bool(signature) and verifies(point, base64.b64decode(signature), HASH),
    )


def reset(kind: Kind) -> str:
    """The command, with its question."""
    return f"token backup factoryReset -serial {kind.serial}"


def looks(appliance: Appliance, kind: Kind) -> str:
    """What the console shows of the token, in the list and alone, once it has answered."""
    person = appliance.log_in()
    return person.list_tokens() + person.run(f"token backup show -serial {kind.serial}")


def state(shown: str, serial: str) -> str:
    """The state of a token in a list; "" when it is not in it."""
    found = re.search(rf"Serial #: +{serial}\n(?:.+\n)*?   State: +(.+)\n", shown)
    return found[1] if found else ""


def test_a_luna_is_reset_after_the_question(appliance: Appliance) -> None:
    """It is listed although no udev rule names it; a key that signed before is gone for other programs, too."""
    person, root = appliance.log_in(), appliance.root
    appliance.plug(appliance.tokens.make(LUNA.serial, keys=1, family="luna"))
    node = root.run(NODE.format(f"{LUNA.simulator.looks.product_id:04x}"))
    shown, before = looks(appliance, LUNA), told(root, LUNA)
    kept = person.answer(reset(LUNA), "quit")
    done = person.answer(reset(LUNA), "proceed")
    afterwards, after = looks(appliance, LUNA), told(root, LUNA)

    assert node == "root:root:664\n"
    assert shown.count("State:                              initialized\n") == 2
    assert shown.count("HSM Model:                          Simulated Luna\n") == 2
    assert shown.count("Firmware:                           1.2.3\n") == 2
    assert "PKCS#11 Slot:                       0 (Luna UHD Slot)\n" in shown
    assert "PKCS#11 Library:                    /opt/vendor/luna.so\n" in shown
    assert before.objects == ["Public Key"]
    assert before.signs
    assert SUCCESSFUL not in kept
    assert SUCCESSFUL in done
    assert afterwards.count("State:                              zeroized\n") == 2
    assert "token state:   uninitialized" in after.slots
    assert "Initialized: no" in after.softhsm
    assert after.objects == []
    assert not after.signs


def test_a_pkcs11_token_is_reset_with_its_so_pin(appliance: Appliance) -> None:
    """A wrong one is refused, and nothing is lost; the right one leaves it blank; neither is told to anybody."""
    person, root = appliance.log_in(), appliance.root
    appliance.plug(appliance.tokens.make(PKCS11.serial, keys=1, family="pkcs11"))
    shown, before = looks(appliance, PKCS11), told(root, PKCS11)
    wrong = person.answer(reset(PKCS11), "proceed", PKCS11.wrong_credential)
    still = told(root, PKCS11)
    cable, let_go = appliance.tokens.cable(PKCS11.serial), threading.Event()
    cable.count_from_here(stop_at=f"answer to {DECISIVE[PKCS11]}", then=let_go.wait, cut=False)
    try:
        person.type(f"{reset(PKCS11)} -force\r")
        right = person.read_until(rf"{PKCS11.asks}:\n> $")
        person.type(f"{PKCS11.credential}\r")
        appliance.until(lambda: cable.transfers[-1:] == [f"answer to {DECISIVE[PKCS11]}"])
        processes = root.run(PROCESSES)
    finally:
        let_go.set()
    right += person.read_until(PROMPT)
    afterwards, after = looks(appliance, PKCS11), told(root, PKCS11)

    assert shown.count("State:                              initialized\n") == 2
    assert "PKCS#11 Slot:                       0 (Simulated Slot)\n" in shown
    assert "PKCS#11 Library:                    /opt/vendor/pkcs11.so\n" in shown
    assert "The token refused the reset.\n" in wrong
    assert PKCS11.refuses in " ".join(wrong.split())
    assert FAILURE in wrong
    for seen in (before, still):
        assert seen.objects == ["Public Key"]
        assert {"Label: in use", "User PIN init.: yes"} <= seen.softhsm
        assert seen.signs
    assert "SO PIN count low" in still.slots
    assert SUCCESSFUL in right
    assert afterwards.count("State:                              zeroized\n") == 2
    assert {"Label: blank", "User PIN init.: no"} <= after.softhsm
    assert after.objects == []
    assert not after.signs
    assert "appliance.hsm.pkcs11.child" in processes
    everything = processes + root.run(WRITTEN) + wrong + right + afterwards
    for pin in (PKCS11.credential, PKCS11.wrong_credential):
        assert pin not in everything
    assert [event for event in appliance.events() if event.startswith("reset")][-4:] == [
        *("reset-intent", "reset-outcome not done"),
        *("reset-intent", "reset-outcome done"),
    ]


@pytest.mark.parametrize("kind", [LUNA, PKCS11], ids=["luna", "pkcs11"])
def test_one_that_is_pulled_in_the_middle_is_unknown(kind: Kind, appliance: Appliance) -> None:
    """It is listed as interrupted until the same command completes the reset, once it is plugged in again."""
    person, tokens = appliance.log_in(), appliance.tokens
    answers = [kind.credential] if kind.credential else []
    appliance.plug(tokens.make(kind.serial, keys=1, family=kind.simulator.name))
    cable = tokens.cable(kind.serial)
    cable.count_from_here(stop_at=f"answer to {DECISIVE[kind]}")
    ended = person.answer(f"{reset(kind)} -force", *answers)
    cable.wait_cut()
    appliance.until(lambda: not appliance.listed())
    absent = person.run(LIST)
    appliance.plug(kind.serial)
    back = person.run(LIST)
    completed = person.answer(f"{reset(kind)} -force", *answers)

    assert UNKNOWN in ended
    assert FAILURE in ended
    assert state(absent, kind.serial) == "not attached"
    for shown in (absent, back):
        assert "Factory Reset:                      INTERRUPTED\n" in shown
    assert SUCCESSFUL in completed
    assert state(person.list_tokens(), kind.serial) == "zeroized"
    assert keys(appliance.root.run(f"{opensc(kind)} -O")) == []
    assert [event for event in appliance.events() if event.startswith("reset")][-4:] == [
        *("reset-intent", "reset-outcome unknown"),
        *("reset-intent", "reset-outcome done"),
    ]


def test_a_library_that_hangs_costs_nobody_else_anything(
    appliance: Appliance, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other tokens are listed and reset while it does; its own is unreachable, until the device is plugged in anew."""
    person, tokens = appliance.log_in(), appliance.tokens
    tokens.make(PKCS11.serial, keys=1, family="pkcs11", faults=[{"do": "hang", "at": "TOKEN INFO", "times": 1}])
    appliance.plug(tokens.make(LUNA.serial, keys=1, family="luna"), tokens.make(OTHER, keys=1))
    cable = tokens.cable(PKCS11.serial)
    cable.count_from_here()
    tokens.plug(PKCS11.serial)
    appliance.until(lambda: "answer to message 01" in cable.transfers)
    began = time.monotonic()
    listed = person.run(LIST)
    took, children = time.monotonic() - began, appliance.root.run(CHILDREN)
    done = person.run(f"token backup factoryReset -serial {OTHER} -force")
    appliance.until(lambda: state(person.run(LIST), PKCS11.serial) == "unreachable")
    gave_up = time.monotonic() - began
    appliance.until(lambda: not appliance.root.run(CHILDREN))
    tokens.pull(PKCS11.serial)
    appliance.until(lambda: not state(person.run(LIST), PKCS11.serial))
    appliance.plug(PKCS11.serial)
    with capsys.disabled():
        print(
            f"\na library that hangs: the list took {took:.1f} s, its token was unreachable after {gave_up:.1f} s",
            end="",
        )

    assert {serial: state(listed, serial) for serial in (PKCS11.serial, LUNA.serial, OTHER)} == {
        PKCS11.serial: "unknown",
        LUNA.serial: "initialized",
        OTHER: "initialized",
    }
    assert SUCCESSFUL in done
    assert sum(str(module(PKCS11)) in child for child in children.splitlines()) == 1, children
    assert state(person.run(LIST), PKCS11.serial) == "initialized"
