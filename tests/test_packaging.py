# SPDX-License-Identifier: Apache-2.0
"""What is installed beside the program: udev rules, users, the example configuration."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.config import SECTIONS, TOP_LEVEL, Config, load
from appliance.hsm.drivers import kinds
from appliance.hsm.udev_rules import render

SYSTEMD = Path(__file__).resolve().parent.parent / "systemd"
RULES = SYSTEMD / "60-appliance-hsm.rules"
SYSUSERS = SYSTEMD / "sysusers.conf"
EXAMPLE = SYSTEMD / "console.toml"


# --- udev rules ---

MATCHES = {"ACTION", "SUBSYSTEM", "ATTR{idVendor}", "ATTR{idProduct}", "ENV{DEVTYPE}", "ENV{HSM_FAMILY}"}
ASSIGNMENTS = {"ENV{HSM_FAMILY}", "GROUP", "MODE", "GOTO", "LABEL"}
TERM = re.compile(r'(?P<key>[A-Z]+(?:\{\w+\})?)(?P<operator>==|!=|:=|=)"(?P<value>[^"\\]*)"')

Term = tuple[str, str, str]


def parsed(text: str) -> list[list[Term]]:
    """The rules as lists of key, operator and value; udev(7), "RULES FILES". A line not understood is an error."""
    rules = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            terms = [TERM.fullmatch(term) for term in line.split(", ")]
            assert all(terms), line
            rules.append([(term["key"], term["operator"], term["value"]) for term in terms if term])
    return rules


def decide(rules: list[list[Term]], device: Mapping[str, str]) -> dict[str, str]:
    """What the rules assign to a device, the way udev goes through them: in order, GOTO forward to its LABEL."""
    given, target = dict(device), ""
    for rule in rules:
        label = next((value for key, _, value in rule if key == "LABEL"), "")
        if target and label != target:
            continue
        target = ""
        if all(
            matches(given.get(key, ""), operator, value) for key, operator, value in rule if operator in ("==", "!=")
        ):
            given |= {key: value for key, operator, value in rule if operator in ("=", ":=") and key != "GOTO"}
            target = next((value for key, _, value in rule if key == "GOTO"), "")
    assert not target, "GOTO without its LABEL"
    return {key: given[key] for key in ("ENV{HSM_FAMILY}", "GROUP", "MODE") if key in given}


def matches(actual: str, operator: str, pattern: str) -> bool:
    """One comparison; ``?*`` is the only pattern in use."""
    return (bool(actual) if pattern == "?*" else actual == pattern) is (operator == "==")


def usb_device(vendor: int, product: int, **changes: str) -> dict[str, str]:
    """What udev knows of a USB device that is being added."""
    known = {
        "ACTION": "add",
        "SUBSYSTEM": "usb",
        "ENV{DEVTYPE}": "usb_device",
        "ATTR{idVendor}": f"{vendor:04x}",
        "ATTR{idProduct}": f"{product:04x}",
    }
    return known | changes


def usb_ids() -> list[tuple[str, int, int]]:
    """Every USB id of every family."""
    return [(driver.family, known.vendor, known.product) for driver in kinds() for known in driver.usb_ids]


def test_the_rules_file_is_what_the_drivers_say() -> None:
    """The file and `appliance-console udev-rules` are the same, byte for byte."""
    assert render() == RULES.read_text(encoding="utf-8")


def test_the_rules_use_known_keys_only() -> None:
    """Every term is a match or an assignment that is meant; a misspelt key would never match and never be missed."""
    for key, operator, _ in (term for rule in parsed(render()) for term in rule):
        assert key in (MATCHES if operator in ("==", "!=") else ASSIGNMENTS)


@pytest.mark.parametrize(("family", "vendor", "product"), usb_ids())
@pytest.mark.parametrize("action", ["add", "change", "bind"])
def test_a_known_device_is_given_to_the_daemon(family: str, vendor: int, product: int, action: str) -> None:
    """Its group may open it, nobody else may, and the family stands in the database."""
    assert decide(parsed(render()), usb_device(vendor, product, ACTION=action)) == {
        "ENV{HSM_FAMILY}": family,
        "GROUP": "appliance-hsm",
        "MODE": "0660",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"ACTION": "remove"},
        {"SUBSYSTEM": "block"},
        {"ENV{DEVTYPE}": "usb_interface"},
        {"ATTR{idVendor}": "1d6b"},
        {"ATTR{idProduct}": "ffff"},
    ],
)
def test_every_other_device_is_left_alone(changes: dict[str, str]) -> None:
    """A device that is going, or is no USB device, or is of no known family is not touched."""
    _, vendor, product = usb_ids()[0]

    assert decide(parsed(render()), usb_device(vendor, product, **changes)) == {}


def test_a_usb_id_stands_in_one_family_only() -> None:
    """No line of the rules overrules another."""
    ids = [(vendor, product) for _, vendor, product in usb_ids()]

    assert len(set(ids)) == len(ids)


# --- users ---


@pytest.mark.skipif(not shutil.which("systemd-sysusers"), reason="systemd-sysusers is not installed")
def test_sysusers_makes_the_user_and_the_groups(tmp_path: Path) -> None:
    """On an empty system there are afterwards the daemon's user, who cannot log in, and both groups."""
    (tmp_path / "etc").mkdir()
    command = ["systemd-sysusers", f"--root={tmp_path}", str(SYSUSERS)]
    subprocess.run(command, check=True, timeout=60)  # noqa: S603  # it writes below tmp_path only

    users = _table(tmp_path / "etc/passwd")
    groups = _table(tmp_path / "etc/group")
    assert users.keys() == {"appliance"}
    assert users["appliance"][4:] == ["/var/lib/appliance", "/usr/sbin/nologin"]
    assert {name: members for name, (_, _, members) in groups.items()} == {
        "appliance": "",
        "appliance-hsm": "appliance",
        "lunash": "",
    }
    (tmp_path / "etc/shadow").chmod(0o600)  # 0000, for root only
    assert _table(tmp_path / "etc/shadow")["appliance"][0].startswith("!")


def _table(path: Path) -> dict[str, list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: rest for name, *rest in (line.split(":") for line in lines)}


# --- the example configuration ---


def uncommented() -> str:
    """The example with every setting in force: settings are ``#key = value``, prose is ``# text``."""
    return re.sub(r"^#(?=\w+ = )", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def settings(value: Any, place: str = "") -> Iterator[str]:
    """The place of every key that `appliance/config.py` knows, from its dataclasses."""
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            yield from settings(inner, f"{place}{field.name}.")
        else:
            yield place + field.name


def places(table: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """The place of every key in a TOML document; a table that is no section is a value."""
    for key, value in table.items():
        if place + key in SECTIONS:
            yield from places(value, f"{place}{key}.")
        else:
            yield place + key


def test_the_example_is_the_default() -> None:
    """As it is installed, the example changes nothing."""
    assert load(EXAMPLE) == Config()


def test_the_defaults_it_tells_are_the_defaults(tmp_path: Path) -> None:
    """Every value that stands in a comment is what the daemon takes without it."""
    path = tmp_path / "console.toml"
    path.write_text(uncommented(), encoding="utf-8")

    assert load(path) == Config()


def test_the_example_tells_every_key() -> None:
    """No key is missing and none is invented; what the reader accepts and what it fills are the same."""
    told = sorted(places(tomllib.loads(uncommented())))
    accepted = {f"{section}.{key}" for section, (_, readers) in SECTIONS.items() for key in readers}

    assert told == sorted(settings(Config()))
    assert told == sorted((accepted | TOP_LEVEL.keys()) - SECTIONS.keys())


def test_every_key_comes_with_prose() -> None:
    """A setting stands right below the paragraph that explains it."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"#\w+ = ", line)]

    assert keys
    assert [lines[number] for number in keys if not lines[number - 1].startswith("# ")] == []
