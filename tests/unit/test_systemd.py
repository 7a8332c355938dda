# SPDX-License-Identifier: Apache-2.0
"""The protocols of the service manager, with real sockets in its place."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.systemd import listen_fds, notify, watchdog_timeout

ROOT = Path(__file__).parents[2]
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@pytest.fixture(autouse=True)
def no_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may themselves run as a service."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket on which a service manager listens."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(10)
        listener.bind(address if request.param == "path" else "\0" + address)
        monkeypatch.setenv("NOTIFY_SOCKET", address if request.param == "path" else "@" + address)
        yield listener


@pytest.mark.parametrize(
    ("state", "datagram"),
    [
        ({"READY": 1}, b"READY=1\n"),
        ({"READY": 1, "STATUS": "2 devices"}, b"READY=1\nSTATUS=2 devices\n"),
        ({"WATCHDOG": 1}, b"WATCHDOG=1\n"),
        ({"STOPPING": 1, "EXTEND_TIMEOUT_USEC": 120_000_000}, b"STOPPING=1\nEXTEND_TIMEOUT_USEC=120000000\n"),
        ({"STATUS": "a\nREADY=1\r\nb\u2028c"}, b"STATUS=a READY=1 b c\n"),
        ({"STATUS": "caf\u00e9 \udcff"}, b"STATUS=caf\xc3\xa9 \\udcff\n"),
    ],
)
def test_a_state_is_one_datagram(state: dict[str, str | int], datagram: bytes, manager: socket.socket) -> None:
    """All states of one call arrive together, and a value stays within its line."""
    assert notify(**state)

    assert manager.recv(4096) == datagram


def test_without_a_service_manager_nothing_is_sent() -> None:
    """A daemon started by hand tells nobody."""
    assert not notify(READY=1)


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/nowhere/notify", "@", "/" + "x" * 200])
def test_an_address_that_leads_nowhere_costs_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service manager that cannot be reached is no reason to stop."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    assert not notify(READY=1)


def test_without_a_descriptor_left_nothing_is_sent(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has used up its descriptors cannot tell, and goes on."""

    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as used_up:
        used_up.setattr("appliance.systemd.socket.socket", none_left)
        assert not notify(READY=1)

    assert notify(READY=1)
    assert manager.recv(4096) == b"READY=1\n"


def test_a_service_manager_that_does_not_read_blocks_nobody(manager: socket.socket) -> None:
    """When its queue is full, the state is lost and the caller goes on."""
    sent = [notify(WATCHDOG=1) for _ in range(5000)]

    assert sent[0]
    assert not sent[-1]


@pytest.mark.parametrize(
    ("microseconds", "process", "seconds"),
    [
        ("30000000", None, 30.0),
        ("500000", "own", 0.5),
        ("30000000", "1", None),
        ("30000000", "", None),
        ("0", None, None),
        ("-1", None, None),
        ("", None, None),
        ("1e6", None, None),
        ("\u0663", None, None),
        ("9" * 5000, None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_has_its_time(
    microseconds: str | None, process: str | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is that of WATCHDOG_USEC, if it is meant for this process and is a time."""
    if microseconds is not None:
        monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    if process is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if process == "own" else process)

    assert watchdog_timeout() == seconds


INHERITING = """
import os, sys
from appliance.systemd import listen_fds
os.environ["LISTEN_PID"] = str(os.getpid()) if sys.argv[1] == "own" else sys.argv[1]
found = listen_fds()
print([(name, inherited.getsockname(), inherited.fileno(), inherited.get_inheritable()) for name, inherited in found])
print(listen_fds(), [name for name in os.environ if name.startswith("LISTEN_")])
"""


def started(
    first: socket.socket | int, second: socket.socket | int, process: str = "own", **variables: str
) -> list[str]:
    """What a program finds that was started with two descriptors, 3 and 4."""
    first, second = (end if isinstance(end, int) else end.fileno() for end in (first, second))
    shell = f'exec 8<&{first} 9<&{second} 3<&8 4<&9; exec 8<&- 9<&-; exec "$0" -c "$1" "$2"'
    ended = subprocess.run(  # noqa: S603  our own interpreter
        ["/bin/bash", "-c", shell, sys.executable, INHERITING, process],
        cwd=ROOT,
        env={**os.environ, **variables},
        pass_fds=(first, second),
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.splitlines()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "door"))
        listener.listen()
        yield listener


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_listening_sockets_are_inherited(listener: socket.socket) -> None:
    """The sockets come with their names, are not passed on, and are handed out once."""
    path = listener.getsockname()

    found = started(listener, listener, LISTEN_FDS="2", LISTEN_FDNAMES="lunash:other")

    assert found == [repr([("lunash", path, 3, False), ("other", path, 4, False)]), "() []"]


def test_names_may_be_missing(listener: socket.socket) -> None:
    """Without LISTEN_FDNAMES the names are empty."""
    found = started(listener, listener, LISTEN_FDS="2")

    assert found[0] == repr([("", listener.getsockname(), 3, False), ("", listener.getsockname(), 4, False)])


@pytest.mark.parametrize(
    ("process", "number"),
    [
        ("1", "2"),
        ("", "2"),
        ("own", "0"),
        ("own", ""),
        ("own", "-1"),
        ("own", "two"),
        ("own", "65"),
        ("own", "9" * 5000),
    ],
)
def test_what_is_not_meant_for_us_is_left_alone(process: str, number: str, listener: socket.socket) -> None:
    """Variables for another process, or without sense, give no sockets and are removed all the same."""
    assert started(listener, listener, process, LISTEN_FDS=number) == ["[]", "() []"]


def test_only_listening_sockets_are_taken(listener: socket.socket, folder: int) -> None:
    """A file in the place of a socket is left alone, and does not cost the others."""
    found = started(folder, listener, LISTEN_FDS="3", LISTEN_FDNAMES="file:lunash:closed")

    assert found[0] == repr([("lunash", listener.getsockname(), 4, False)])


def test_a_connected_socket_is_not_taken(listener: socket.socket) -> None:
    """A socket that does not listen is none of ours."""
    one, two = socket.socketpair()
    with one, two:
        assert started(one, listener, LISTEN_FDS="2")[0] == repr([("", listener.getsockname(), 4, False)])


def test_without_variables_there_are_no_sockets() -> None:
    """A daemon started by hand makes its own socket."""
    assert listen_fds() == ()
