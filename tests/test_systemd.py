# SPDX-License-Identifier: Apache-2.0
"""The units are understood by systemd, confine the daemon, and say what its design needs."""

import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.config import Config
from tests.support.confinement import settings

SYSTEMD = Path(__file__).resolve().parent.parent / "systemd"
SERVICE = SYSTEMD / "appliance-console@.service"
SOCKET = SYSTEMD / "appliance-console@.socket"
DISTRIBUTION = Path("/usr/lib/systemd/system")  # the units that ours are ordered with
EXPOSURE = 15  # tenths: the score may be 1.5 at most

needs_systemd_analyze = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze; it needs no running systemd for what is asked here."""
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(  # noqa: S603  # systemd-analyze on files of ours
        command, capture_output=True, text=True, timeout=60, check=False
    )


def verify(root: Path, *, replace: tuple[str, str] = ("", "")) -> subprocess.CompletedProcess[str]:
    """Verify both units as installed on a Debian system below `root`, with one replacement in their text."""
    shutil.copytree(DISTRIBUTION, root / "usr/lib/systemd/system", symlinks=True)
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in (SERVICE, SOCKET):
        (units / unit.name).write_text(unit.read_text(encoding="utf-8").replace(*replace), encoding="utf-8")
    for program in ("appliance-console", "chown", "chmod"):
        path = root / "usr/bin" / program
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o755)
    return analyze(
        "verify", "--man=no", f"--root={root}", "appliance-console@ttyS0.service", "appliance-console@ttyS0.socket"
    )


def security(unit: Path, threshold: int) -> int:
    """The exit status of the exposure check: 0 if the score in tenths is at most `threshold`."""
    return analyze("security", "--offline=true", f"--threshold={threshold}", unit).returncode


@needs_systemd_analyze
def test_systemd_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    """`systemd-analyze verify` is silent about the service and the socket."""
    result = verify(tmp_path)

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@needs_systemd_analyze
@pytest.mark.parametrize(
    "replace",
    [
        ("KillMode=mixed", "KillMod=mixed"),
        ("/usr/bin/appliance-console", "/usr/bin/no-such-console"),
        ("ListenStream=/run/appliance/lunash.sock", "ListenStream=lunash.sock"),
        ("SystemCallFilter=@system-service", "SystemCallFilter=@no-such-set"),
    ],
)
def test_verify_sees_a_fault(tmp_path: Path, replace: tuple[str, str]) -> None:
    """A misspelt key, a missing program, a wrong socket address and an unknown set of system calls are seen."""
    result = verify(tmp_path, replace=replace)

    assert result.returncode or result.stderr


@needs_systemd_analyze
def test_the_exposure_is_low() -> None:
    """The score of `systemd-analyze security` is 1.5 at most."""
    assert security(SERVICE, EXPOSURE) == 0


@needs_systemd_analyze
@pytest.mark.parametrize("gone", ["CapabilityBoundingSet=", "User=appliance", "SystemCallFilter=@system-service"])
def test_the_exposure_check_sees_a_weaker_unit(tmp_path: Path, gone: str) -> None:
    """Without one of the strong settings the score is above the limit."""
    weaker = tmp_path / SERVICE.name
    lines = SERVICE.read_text(encoding="utf-8").splitlines()
    assert gone in lines
    weaker.write_text("\n".join(line for line in lines if line != gone), encoding="utf-8")

    assert security(weaker, EXPOSURE) != 0


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("Type", ["notify"]),
        ("NotifyAccess", ["main"]),
        ("WatchdogSec", ["30"]),
        ("Restart", ["always"]),
        ("RestartSec", ["1"]),
        ("StartLimitIntervalSec", ["0"]),
        ("BindsTo", ["dev-%i.device"]),
        ("Conflicts", ["serial-getty@%i.service rescue.service"]),
        ("IgnoreOnIsolate", ["yes"]),
        ("User", ["appliance"]),
        ("StateDirectory", ["appliance"]),
        ("StateDirectoryMode", ["0700"]),
        ("StandardError", ["journal"]),
        ("TTYPath", ["/dev/%I"]),
        ("TTYVHangup", ["yes"]),
        ("MemoryDenyWriteExecute", ["yes"]),
        ("DeviceAllow", ["/dev/%I rw", "char-usb_device rw"]),
        ("ExecStart", ["/usr/bin/appliance-console run --config /etc/appliance/console.toml --port /dev/%I"]),
    ],
)
def test_the_service_says_what_the_design_needs(key: str, values: list[str]) -> None:
    """Readiness and watchdog, never giving up, one port, no getty beside it, no privilege."""
    assert settings(SERVICE)[key] == values


@pytest.mark.parametrize("key", ["PrivateNetwork", "PrivateDevices", "PrivateUsers", "NoExecPaths", "RuntimeDirectory"])
def test_what_would_cripple_the_daemon_stays_off(key: str) -> None:
    """No plug events, no port, no libudev, no socket: these settings would cost one of them."""
    assert key not in settings(SERVICE)


def test_a_running_reset_is_not_cut_short() -> None:
    """Stopping waits longer than a reset may take by default, and ends the daemon, not its helpers."""
    assert int(settings(SERVICE)["TimeoutStopSec"][0]) > Config().hsm.operation_timeout
    assert settings(SERVICE)["KillMode"] == ["mixed"]


def test_the_socket_is_where_the_daemon_and_lunash_expect_it() -> None:
    """One path and one group, in the unit, the configuration and for the members of the group only."""
    network = Config().network
    unit = settings(SOCKET)
    assert unit["ListenStream"] == [str(network.socket)]
    assert unit["SocketGroup"] == [network.group]
    assert unit["SocketMode"] == ["0660"]


def test_the_socket_reaches_the_service_of_its_instance() -> None:
    """systemd pairs units by their name: the same template, no Service=, no Accept=."""
    assert SERVICE.stem == SOCKET.stem
    assert not settings(SOCKET).keys() & {"Service", "Accept"}
    assert "appliance-console@%i.socket" in settings(SERVICE)["Wants"]


def test_the_door_ends_with_the_console_that_is_disabled() -> None:
    """A socket that stayed after `systemctl disable --now` of the service would start it at the next connection."""
    assert settings(SOCKET)["StopWhenUnneeded"] == ["yes"]


@needs_systemd_analyze
def test_enabling_the_console_enables_its_door(tmp_path: Path) -> None:
    """`systemctl enable` of one instance makes it wanted at boot, together with the socket of the same instance."""
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in (SERVICE, SOCKET):
        shutil.copy(unit, units)
    command = ["systemctl", f"--root={tmp_path}", "enable", "appliance-console@ttyS1.service"]
    subprocess.run(command, check=True, timeout=60)  # noqa: S603  # it writes below tmp_path only

    assert {str(link.relative_to(units)) for link in units.glob("*.wants/*")} == {
        "getty.target.wants/appliance-console@ttyS1.service",
        "sockets.target.wants/appliance-console@ttyS1.socket",
    }
