# SPDX-License-Identifier: Apache-2.0
"""The libraries of simulated tokens are compiled when one is looked for, and nothing depends on a compiler but they."""

import ctypes
import subprocess
from pathlib import Path

import pytest

from appliance.hsm.usb import UsbBus
from appliance.programs import NotDone
from appliance.simulator import vendor_library
from appliance.simulator.descriptors import VENDOR_CLASS
from appliance.simulator.families import LUNA, OPENPGP, PKCS11, Family
from appliance.simulator.pyusb_backend import SimulatedBackend
from appliance.simulator.vendor_library import (
    COMPILER,
    SOURCES,
    BusWithLibraries,
    compile_library,
    compiler,
    drivers,
    library,
    socket,
)
from tests.support.token_bus import TokenBus

needs_compiler = pytest.mark.skipif(compiler() is None, reason="not installed: cc")
NOTHING = SimulatedBackend(list)


def look(bus: UsbBus, *families: Family) -> int:
    """How many devices of the families there are."""
    return len(bus.addresses([(family.looks.vendor_id, family.looks.product_id) for family in families]))


def program(folder: Path, script: str) -> str:
    """A compiler of ours, which counts how often it is called."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\necho called >>{folder}/calls\n{script}\n")
    path.chmod(0o755)
    return str(path)


def calls(folder: Path) -> int:
    """How often."""
    path = folder / "calls"
    return len(path.read_text().splitlines()) if path.exists() else 0


@needs_compiler
def test_they_are_there_once_such_a_device_is_looked_for(tmp_path: Path) -> None:
    """Not before, not for devices of other families, and whether there is one or not; each is a PKCS#11 library."""
    bus = BusWithLibraries(NOTHING, tmp_path)
    look(bus, OPENPGP)
    assert list(tmp_path.iterdir()) == []
    look(bus, LUNA)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["luna.so", "pkcs11.so"]
    for family in (LUNA, PKCS11):
        assert ctypes.CDLL(str(library(tmp_path, family))).C_GetFunctionList


def test_it_finds_what_a_bus_finds(tmp_path: Path) -> None:
    """The devices with the ids, and those with an interface of a class."""
    token = TokenBus(tmp_path, "A4711", 0, PKCS11)
    here = token.plug()
    bus = BusWithLibraries(token.backend, tmp_path)

    assert bus.addresses([(0x1209, 0x0002)]) == {(here.bus, here.address)}
    assert bus.addresses([], VENDOR_CLASS) == {(here.bus, here.address)}
    assert look(bus, LUNA) == 0


def test_a_broken_compiler_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it said is logged; nothing is left of what it began, and the devices are found."""
    broken = program(tmp_path, "echo 'no room on this machine' >&2; exit 1")
    monkeypatch.setattr(vendor_library, "compiler", lambda: broken)
    token = TokenBus(tmp_path, "496771", 0, LUNA)
    token.plug()
    bus = BusWithLibraries(token.backend, tmp_path)

    assert [look(bus, LUNA), look(bus, LUNA, PKCS11)] == [1, 1]
    assert calls(tmp_path) == 1
    assert list(tmp_path.glob("*.so")) == []


@needs_compiler
def test_it_compiles_without_a_warning(tmp_path: Path) -> None:
    """Of any kind that compilers commonly have."""
    warnings = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wcast-align", "-Wstrict-prototypes", "-Werror"]
    command = [COMPILER, "-shared", "-fPIC", "-O2", *warnings, "-o", str(tmp_path / "luna.so"), *map(str, SOURCES)]
    subprocess.run(command, check=True)  # noqa: S603  # the compiler, on files of ours


@needs_compiler
def test_what_the_compiler_says_is_told(tmp_path: Path) -> None:
    """In one sentence."""
    with pytest.raises(NotDone, match="compiler failed: no room on this machine"):
        compile_library(program(tmp_path, "echo 'no room on this machine' >&2; exit 1"), tmp_path / "luna.so")


def test_without_a_compiler_no_family_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is begun at all."""
    monkeypatch.setattr(vendor_library, "compiler", lambda: None)
    with drivers(NOTHING, tmp_path) as served:
        assert served == {}
        assert look(BusWithLibraries(NOTHING, tmp_path), LUNA) == 0
        assert list(tmp_path.iterdir()) == []


@needs_compiler
def test_both_families_are_served(tmp_path: Path) -> None:
    """Each at a socket beside its library, until the end."""
    with drivers(NOTHING, tmp_path) as served:
        assert served == {family: library(tmp_path, family) for family in (LUNA, PKCS11)}
        assert all(socket(tmp_path, family).is_socket() for family in served)
    assert list(tmp_path.iterdir()) == []


@needs_compiler
def test_where_no_socket_can_be_no_family_is_served(tmp_path: Path) -> None:
    """As in a folder with a path that is too long; that prevents nothing else."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    with drivers(NOTHING, folder) as served:
        assert served == {}
