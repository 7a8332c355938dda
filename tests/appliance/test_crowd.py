# SPDX-License-Identifier: Apache-2.0
"""A hundred devices at once, and two that have one serial number."""

import json
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.guest.appliance import Appliance

CROWD = 100
TWIN = "DDDDDD"
RESET = f"token backup factoryReset -serial {TWIN} -force"
SEVERAL = "Error:  More than one attached token has this serial number.\n"


def listed_until(appliance: Appliance, enough: Callable[[Sequence[str]], bool]) -> list[tuple[float, float]]:
    """List the tokens until it is enough; how long `help` and the list took each time, in seconds."""
    took = []

    def answered() -> bool:
        person = appliance.log_in()
        begin = time.monotonic()
        person.run("help")
        helped = time.monotonic()
        serials = appliance.listed()
        took.append((helped - begin, time.monotonic() - helped))
        return enough(serials)

    appliance.until(answered)
    return took


def states(appliance: Appliance) -> list[str]:
    """The states in the list, each once."""
    return sorted(set(re.findall(r" State: +(\S+)", appliance.log_in().run("token backup list"))))


def noted(appliance: Appliance, event: str, names: Sequence[str]) -> list[str]:
    """The serial numbers of the crowd in the audit's records of this kind, in order."""
    records = map(json.loads, appliance.audit().splitlines())
    return sorted(record["serial"] for record in records if record["event"] == event and record["serial"] in names)


def test_a_hundred_devices_come_and_go(appliance: Appliance, capsys: pytest.CaptureFixture[str]) -> None:
    """All at once: none is lost, none is left over, each says what it is, and what is typed meanwhile is answered."""
    names = [appliance.tokens.make(f"D{number:05X}") for number in range(CROWD)]

    with ThreadPoolExecutor(1) as hand:
        plugging = hand.submit(appliance.tokens.plug, *names, at_once=True)
        coming = listed_until(appliance, lambda serials: sorted(serials) == names)
        plugging.result()
    appliance.until(lambda: states(appliance) == ["zeroized"])
    appliance.tokens.pull(*names)
    going = listed_until(appliance, lambda serials: not serials)

    plugged = noted(appliance, "plug", names)
    assert sorted(set(plugged)) == names
    assert noted(appliance, "unplug", names) == plugged  # the kernel may enumerate one of such a crowd twice
    with capsys.disabled():
        for title, took in (("come", coming), ("go", going)):
            helped, listed = (max(times) for times in zip(*took, strict=True))
            print(
                f"\n{CROWD} devices {title}: {len(took)} times asked,"
                f" `help` answered in {helped:.2f} s at worst, a list in {listed:.2f} s",
                end="",
            )


def test_of_two_with_one_serial_none_is_reset(appliance: Appliance) -> None:
    """Both are listed, and refused; once one is pulled the other is reset, and the pulled one is as it was."""
    twins = [appliance.tokens.make(f"twin{number}", serial=TWIN, keys=1) for number in (1, 2)]
    appliance.plug(*twins)

    assert appliance.listed() == [TWIN, TWIN]
    assert SEVERAL in appliance.person.run(RESET)
    assert [len(appliance.tokens.flash(twin).keys) for twin in twins] == [1, 1]

    appliance.tokens.pull(twins[0])
    appliance.until(lambda: appliance.listed() == [TWIN])
    assert "successful.\n" in appliance.person.run(RESET)
    assert [len(appliance.tokens.flash(twin).keys) for twin in twins] == [1, 0]
