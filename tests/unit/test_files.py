# SPDX-License-Identifier: Apache-2.0
"""Atomic, durable replacement of a file."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import StateError
from appliance.files import lock_folder, write_atomically


def failing(number: int) -> Callable[..., Any]:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    """The file holds the new data with the permissions asked for, and nothing else is left."""
    path = tmp_path / "state.json"

    write_atomically(path, b"one", 0o600)
    write_atomically(path, b"two", 0o640)

    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_the_umask_does_not_count(tmp_path: Path) -> None:
    """The permissions are those asked for, neither more nor fewer."""
    before = os.umask(0o777)
    try:
        write_atomically(tmp_path / "state.json", b"", 0o600)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600


def test_file_and_folder_are_synced_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data is durable before it gets its name, and the name before the return."""
    steps: list[str] = []
    sync, rename = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)

    write_atomically(tmp_path / "state.json", b"data", 0o600)

    assert steps == ["file", "rename", "folder"]


@pytest.mark.parametrize(("place", "number"), [("fsync", errno.ENOSPC), ("fchmod", errno.EPERM), ("open", errno.EROFS)])
def test_a_failure_leaves_the_old_file(
    place: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it cannot be written, the old file is in force, nothing is left over, and the reason is said."""
    path = tmp_path / "state.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, place, failing(number))

    with pytest.raises(StateError) as raised:
        write_atomically(path, b"new", 0o600)

    monkeypatch.undo()
    assert raised.value.path == path
    assert raised.value.reason == f"cannot be written: {os.strerror(number)}"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_power_cut_left_is_replaced(tmp_path: Path) -> None:
    """A temporary file of an earlier run, or a link planted in its place, is not written through."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / ".state.json.new").symlink_to(victim)

    write_atomically(tmp_path / "state.json", b"data", 0o600)

    assert victim.read_bytes() == b"untouched"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["state.json", "victim"]


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    """A state folder that does not exist is an error of ours."""
    with pytest.raises(StateError, match="No such file or directory"):
        write_atomically(tmp_path / "missing" / "state.json", b"", 0o600)


def test_a_folder_is_taken_once(tmp_path: Path) -> None:
    """A folder that is taken cannot be taken again, until it is let go; nothing is written for that."""
    first = lock_folder(tmp_path)
    with pytest.raises(StateError, match="in use by another daemon"):
        lock_folder(tmp_path)
    os.close(first)
    os.close(lock_folder(tmp_path))

    assert not list(tmp_path.iterdir())
