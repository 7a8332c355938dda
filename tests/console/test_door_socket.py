# SPDX-License-Identifier: Apache-2.0
"""The network door's socket is made safely, or was made by the service manager."""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.accounts.store import AccountStore
from appliance.console.door import Door, listen
from appliance.errors import ApplianceError, StateError
from tests.support.door_client import DoorClient
from tests.support.door_house import NOBODY_UID, House

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="to connect as another user takes root")


@pytest.fixture
def house() -> Iterator[House]:
    with House.build() as house:
        yield house


def test_socket_is_for_the_group_only(tmp_path: Path) -> None:
    """The socket that `listen` makes is open to its owner and its group, whatever the umask was, and it listens."""
    before = os.umask(0)
    try:
        with listen(tmp_path / "door", "no-such-group") as sock:
            assert stat.S_IMODE((tmp_path / "door").stat().st_mode) == 0o660
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert os.umask(0) == 0
    finally:
        os.umask(before)


@as_root
def test_socket_belongs_to_its_group(tmp_path: Path) -> None:
    """The socket is given to the group of that name, if there is one."""
    with listen(tmp_path / "door", "nogroup"):
        assert (tmp_path / "door").stat().st_gid == NOBODY_UID


@as_root
async def test_others_cannot_connect(house: House) -> None:
    """A user who is neither the owner nor in the group does not get as far as the door."""
    with listen(house.path, "no-such-group"), pytest.raises(PermissionError):
        async with DoorClient.connect(house.path, uid=NOBODY_UID):
            pass


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """A socket that a killed daemon left behind does not keep the next one from listening."""
    listen(tmp_path / "door", "").close()
    with listen(tmp_path / "door", ""), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "door"))


def test_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    """A second daemon does not take the first one's door away."""
    with listen(tmp_path / "door", ""), socket.socket(socket.AF_UNIX) as client:
        with pytest.raises(StateError, match="in use by another process"):
            listen(tmp_path / "door", "")
        client.connect(str(tmp_path / "door"))


def make_file(path: Path) -> None:
    path.write_text("mine")


def make_link_to_file(path: Path) -> None:
    make_file(path.with_name("target"))
    path.symlink_to(path.with_name("target"))


def make_link_to_socket(path: Path) -> None:
    listen(path.with_name("target"), "").close()
    path.symlink_to(path.with_name("target"))


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("target"))


@pytest.mark.parametrize("make", [make_file, make_link_to_file, make_link_to_socket, make_dangling_link, Path.mkdir])
def test_other_things_are_left_alone(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """Where something else stands, a link above all, nothing is made, changed or followed."""
    make(tmp_path / "door")
    before = {path.name: path.lstat() for path in tmp_path.iterdir()}
    with pytest.raises(StateError, match="is not a socket"):
        listen(tmp_path / "door", "")
    assert {path.name: path.lstat() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["missing/door", "x" * 120])
def test_place_that_cannot_be_listened_on(tmp_path: Path, name: str) -> None:
    """A folder that is missing or a path that is too long is an error with the path and the reason."""
    with pytest.raises(StateError, match=r"door|xxx"):
        listen(tmp_path / name, "")


Maker = Callable[[], socket.socket]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: socket.socket(socket.AF_INET), id="TCP"),
        pytest.param(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), id="datagrams"),
        pytest.param(lambda: socket.socket(socket.AF_UNIX), id="not bound"),
    ],
)
async def test_door_needs_a_listening_unix_socket(house: House, make: Maker) -> None:
    """Whatever else the service manager hands over is refused with a sentence, and nothing listens."""
    store = AccountStore(house.state / "accounts.json", house.accounts)
    door = Door(store, house.session, house.audit, users={}, idle_timeout=1)
    with make() as sock, pytest.raises(ApplianceError, match="network door"):
        await door.start(sock)
    await door.close()
