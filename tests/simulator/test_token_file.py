# SPDX-License-Identifier: Apache-2.0
"""A token file is replaced as a whole while it is where it was, and never made anew."""

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.errors import ApplianceError, StateError
from appliance.simulator import token_file
from appliance.simulator.families import new_token
from appliance.simulator.openpgp_flash import OpenPgpFlash, Slot
from appliance.simulator.token_file import FileGone, TokenFile
from tests.support.simulated import SERIAL
from tests.support.tokens import openpgp


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A token file."""
    path = tmp_path / "a.token"
    new_token(path, SERIAL)
    return path


def opened(path: Path) -> tuple[TokenFile, OpenPgpFlash]:
    """The file as a device has it."""
    file = TokenFile(path)
    return file, openpgp(file.read())


@pytest.mark.parametrize(
    ("serial", "kept"), [("667788", "00667788"), ("0", "00000000"), ("deadbeef", "DEADBEEF"), ("00000001", "00000001")]
)
def test_a_new_token_has_its_serial_number(tmp_path: Path, serial: str, kept: str) -> None:
    """Up to eight hexadecimal digits, filled up on the left."""
    new_token(tmp_path / "a.token", serial)

    assert openpgp((tmp_path / "a.token").read_bytes()).serial == kept


@pytest.mark.parametrize("serial", ["", "123456789", "66778G", "0x12", " 1", "1 ", "-1", "٣", "66_77"])
def test_nothing_else_is_a_serial_number(tmp_path: Path, serial: str) -> None:
    """One sentence says what is wanted, and no file is made."""
    with pytest.raises(ApplianceError, match=r"^The serial number must be one to eight hexadecimal digits, such as"):
        new_token(tmp_path / "a.token", serial)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", range(4))
def test_a_new_token_has_the_keys_asked_for(tmp_path: Path, count: int) -> None:
    """In the order of the card's slots, each with its fingerprint."""
    new_token(tmp_path / "a.token", SERIAL, count)

    flash = openpgp((tmp_path / "a.token").read_bytes())
    assert list(flash.keys) == list(Slot)[:count]
    assert len(flash.objects) == 2 * count


@pytest.mark.parametrize("count", [-1, 4])
def test_there_is_no_fourth_key(tmp_path: Path, count: int) -> None:
    """And none fewer than none."""
    with pytest.raises(ApplianceError, match="3 keys at most"):
        new_token(tmp_path / "a.token", SERIAL, count)

    assert list(tmp_path.iterdir()) == []


def test_no_file_is_overwritten(path: Path) -> None:
    """The old token is as it was, and nothing is left beside it."""
    before = path.read_bytes()

    with pytest.raises(StateError, match="File exists"):
        new_token(path, "00000001")

    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_token_cannot_be_made_in_no_folder(tmp_path: Path) -> None:
    """The error says where and why."""
    with pytest.raises(StateError, match="No such file or directory"):
        new_token(tmp_path / "missing" / "a.token", SERIAL)


def test_only_its_owner_reads_a_token(path: Path) -> None:
    """The KEK stands in it; also after it was replaced."""
    file, flash = opened(path)
    file.save(replace(flash, signatures=1))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_change_is_there_on_return(path: Path) -> None:
    """The file is replaced, time and again, and nothing is left beside it."""
    file, flash = opened(path)

    for count in range(1, 4):
        file.save(replace(flash, signatures=count))
        assert openpgp(path.read_bytes()).signatures == count
        assert file.in_place()
    assert file.replaced == 3
    assert list(path.parent.iterdir()) == [path]


def test_readers_see_the_old_or_the_new(path: Path) -> None:
    """Who has the file open keeps what it was."""
    file, flash = opened(path)
    with path.open("rb") as before:
        file.save(replace(flash, signatures=1))

        assert openpgp(before.read()).signatures == 0


def moved(path: Path) -> None:
    """Pull the plug."""
    path.rename(path.with_name("elsewhere"))


def removed(path: Path) -> None:
    """Pull the plug for good."""
    path.unlink()


def swapped(path: Path) -> None:
    """Another device in the same port."""
    new_token(path.with_name("b"), "00000001")
    path.with_name("b").replace(path)


def edited(path: Path) -> None:
    """Open the device and change its flash."""
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize("disturb", [moved, removed, swapped, edited])
def test_a_device_whose_file_is_not_in_place_is_unplugged(path: Path, disturb: Callable[[Path], None]) -> None:
    """Nothing is written, and above all no file is made where there is none."""
    file, flash = opened(path)
    disturb(path)
    before = {entry: entry.read_bytes() for entry in path.parent.iterdir()}

    with pytest.raises(FileGone):
        file.save(replace(flash, signatures=1))

    assert not file.in_place()
    assert {entry: entry.read_bytes() for entry in path.parent.iterdir()} == before


@pytest.mark.parametrize("disturb", [moved, removed, swapped])
def test_a_plug_pulled_in_the_very_moment_of_writing_is_pulled(
    path: Path, disturb: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the look at the file and its replacement no file is made, and no other device is overwritten."""
    file, flash = opened(path)
    rename = token_file._rename
    after: list[dict[Path, bytes]] = []

    def late(old: Path, new: Path, flag: int) -> bool:
        monkeypatch.setattr(token_file, "_rename", rename)
        disturb(path)
        after.append({entry: entry.read_bytes() for entry in path.parent.iterdir() if entry != old})
        return rename(old, new, flag)

    monkeypatch.setattr(token_file, "_rename", late)
    with pytest.raises(FileGone):
        file.save(replace(flash, signatures=1))

    assert {entry: entry.read_bytes() for entry in path.parent.iterdir()} == after[0]


@pytest.mark.parametrize("failing", ["fsync", "open"])
def test_a_disk_that_fails_changes_nothing(path: Path, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old contents are in force, and the error says why."""
    file, flash = opened(path)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(StateError, match="No space left on device"):
            file.save(replace(flash, signatures=1))

    assert path.read_bytes() == before
    assert file.in_place()
    assert list(path.parent.iterdir()) == [path]


def test_a_file_system_without_exchange_will_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where renameat2(2) has no flags the file is replaced in the ordinary way, and still never made anew."""

    class OldLibrary:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def renameat2(self, *_: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", OldLibrary)
    file, flash = opened(path)

    file.save(replace(flash, signatures=1))
    assert openpgp(path.read_bytes()).signatures == 1
    assert file.in_place()
    new_token(path.with_name("c.token"), "00000003")
    with pytest.raises(StateError, match="File exists"):
        new_token(path, "00000001")
    swapped(path)
    with pytest.raises(FileGone):
        file.save(flash)
    assert openpgp(path.read_bytes()).serial == "00000001"
    path.unlink()
    with pytest.raises(FileGone):
        file.save(flash)
    assert not path.exists()


def test_what_a_crash_left_over_is_removed(path: Path) -> None:
    """A temporary file may hold a KEK that is destroyed; it goes when the device is plugged in."""
    leftover = path.with_name(".a.token.new")
    leftover.write_text("old")

    opened(path)

    assert not leftover.exists()


def large(path: Path) -> None:
    """More than any token has."""
    os.truncate(path, 2 << 20)


def linked(path: Path) -> None:
    """A symbolic link to something else."""
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(("disturb", "reason"), [(large, "too large"), (linked, "cannot be read"), (removed, "cannot")])
def test_what_is_no_token_is_not_read(path: Path, disturb: Callable[[Path], None], reason: str) -> None:
    """Neither endless nor something else's."""
    disturb(path)

    with pytest.raises(StateError, match=reason):
        TokenFile(path).read()
