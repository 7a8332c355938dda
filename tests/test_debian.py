# SPDX-License-Identifier: Apache-2.0
"""The Debian package: what is in it, and what it does to a machine from the installation to the purge."""

import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import appliance
from tests.support.checkout import ROOT
from tests.support.debian_machine import Machine
from tests.support.debian_package import BUILD, altered, build, run

pytestmark = pytest.mark.skipif(
    not all(shutil.which(program) for program in ("dpkg-buildpackage", "dh", "lintian")),
    reason="needs Debian's tools for building packages",
)

UNITS = ("appliance-console@.service", "appliance-console@.socket")
PYTHON = "usr/lib/python3/dist-packages"
STATE = "var/lib/appliance"
LINKS = {
    "etc/systemd/system/getty.target.wants/appliance-console@ttyS1.service",
    "etc/systemd/system/sockets.target.wants/appliance-console@ttyS1.socket",
}
SSHD_RUNS = "systemctl is-active --quiet ssh.service"  # the question


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built once."""
    return build(tmp_path_factory.mktemp("package"))


# --- what it is ---


def test_lintian_finds_nothing(package: Path) -> None:
    """No error and no warning but those that are overridden."""
    assert run("lintian", "--allow-root", "--display-info", package) == ""


def test_every_override_has_its_reason() -> None:
    """Who silences lintian says why, in the line before."""
    lines = (ROOT / "debian/appliance-console.lintian-overrides").read_text(encoding="utf-8").splitlines()
    overrides = [number for number, line in enumerate(lines) if not line.startswith("#")]

    assert overrides
    assert [lines[number] for number in overrides if not number or not lines[number - 1].startswith("# ")] == []


def test_the_same_source_makes_the_same_package(package: Path, tmp_path: Path) -> None:
    """Another folder, another zone and another umask change not a byte."""
    again = build(tmp_path, umask=0o077, TZ="Asia/Tokyo", LC_ALL="C")

    assert again.name == package.name
    assert again.read_bytes() == package.read_bytes()


def test_it_has_the_version_of_the_program(package: Path) -> None:
    """The changelog of the package and the program name one version."""
    assert run("dpkg-deb", "--field", package, "Version").strip() == appliance.__version__
    assert package.name == f"appliance-console_{appliance.__version__}_all.deb"


def test_it_depends_on_packages_of_debian_only(package: Path) -> None:
    """Every library comes from the distribution, and libusb and udev are there for those that load them."""
    depends = run("dpkg-deb", "--field", package, "Depends").strip()

    assert {re.sub(r" \(.*?\)|:any", "", one) for one in depends.split(", ")} == {
        "libusb-1.0-0",
        "python3",
        "python3-pyudev",
        "python3-serial",
        "python3-structlog",
        "python3-usb",
        "systemd | systemd-standalone-sysusers | systemd-sysusers",
        "udev",
    }


def test_its_dependencies_can_be_installed(package: Path) -> None:
    """apt finds all of them in the distribution."""
    assert "Inst appliance-console " in run("apt-get", "install", "--simulate", "--no-install-recommends", package)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        *((f"lib/systemd/system/{unit}", f"systemd/{unit}") for unit in UNITS),
        ("lib/udev/rules.d/60-appliance-hsm.rules", "systemd/60-appliance-hsm.rules"),
        ("usr/lib/sysusers.d/appliance-console.conf", "systemd/sysusers.conf"),
        ("usr/lib/systemd/catalog/appliance-console.catalog", "systemd/appliance-console.catalog"),
        ("etc/appliance/console.toml", "systemd/console.toml"),
        ("etc/ssh/sshd_config.d/appliance-console.conf", "systemd/sshd_config.d/appliance-console.conf"),
        ("usr/share/bash-completion/completions/appliance-console", "debian/completion/appliance-console"),
        ("usr/share/bash-completion/completions/lunash", "debian/completion/lunash"),
        *(
            (f"{PYTHON}/appliance/simulator/pkcs11_module/{name}", f"appliance/simulator/pkcs11_module/{name}")
            for name in ("messages.c", "module.c", "module.h", "sessions.c")
        ),
    ],
)
def test_a_file_is_where_debian_looks_for_it(package: Path, tmp_path: Path, path: str, source: str) -> None:
    """Units, rules, users, catalog, configuration, completions, what is compiled: all come as in the project."""
    run("dpkg-deb", "--extract", package, tmp_path)

    assert (tmp_path / path).read_bytes() == (ROOT / source).read_bytes()


def test_it_brings_manuals_and_commands(package: Path) -> None:
    """Both commands are there, and every manual page of the project; dpkg asks before it replaces what is edited."""
    names = {line.split()[5].removeprefix("./") for line in run("dpkg-deb", "--contents", package).splitlines()}
    pages = {f"usr/share/man/man{page.suffix[1:]}/{page.name}.gz" for page in (ROOT / "docs/man").iterdir()}

    assert {"usr/bin/appliance-console", "usr/bin/lunash"} | pages <= names
    edited = {name for name in names if name.startswith("etc/") and not name.endswith("/")}
    assert edited == {"etc/appliance/console.toml", "etc/ssh/sshd_config.d/appliance-console.conf"}
    assert set(run("dpkg-deb", "--info", package, "conffiles").split()) == {f"/{name}" for name in edited}


@pytest.mark.parametrize("command", ["appliance-console", "lunash"])
def test_nobody_decides_what_a_command_imports(package: Path, tmp_path: Path, command: str) -> None:
    """A command begins with Debian's Python, isolated from the environment and from the user's own folder."""
    run("dpkg-deb", "--extract", package, tmp_path)

    assert (tmp_path / "usr/bin" / command).read_text().splitlines()[0] == "#! /usr/bin/python3 -I"


def test_the_readme_says_how_it_is_built() -> None:
    """What builds it here is what a reader is told to type."""
    assert f"\n    {' '.join(BUILD)}\n" in (ROOT / "README.md").read_text(encoding="utf-8")


# --- what it does ---


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine without the package."""
    with Machine.start(tmp_path) as machine:
        yield machine


@pytest.fixture
def installed(machine: Machine, package: Path) -> Machine:
    """A machine with the package, a console on ttyS1 that served, and an edited configuration."""
    machine.install(package)
    machine.run("systemctl", "enable", "appliance-console@ttyS1")
    state = machine.root / STATE
    state.mkdir(mode=0o700)
    machine.run("chown", "appliance:appliance", f"/{STATE}")
    machine.run("runuser", "-u", "appliance", "--", "python3", "-c", _SERVED)
    with (machine.root / "etc/appliance/console.toml").open("a") as file:
        file.write("[line]\nspeed = 9600\n")
    return machine


_SERVED = f"""
from pathlib import Path
from appliance.accounts.store import AccountStore
from appliance.audit import AuditLog
state = Path("/{STATE}")
AccountStore.open(state / "accounts.json")
audit = AuditLog.open(state / "audit.jsonl")
audit.append("start", actor="system", origin="system")
audit.append("stop", actor="system", origin="system")
audit.close()
"""


def test_installed_it_waits_to_be_enabled(machine: Machine, package: Path) -> None:
    """The commands work, the users are there, the catalog is known; no console is started or enabled, and no sshd."""
    machine.install(package, booted=True)

    assert machine.run("appliance-console", "--version").strip() == f"appliance-console {appliance.__version__}"
    assert "the configuration is right" in machine.run("appliance-console", "check-config")
    assert "/usr/bin/lunash\n" in (machine.root / "etc/shells").read_text()
    assert machine.run("id", "-Gn", "appliance").split() == ["appliance", "appliance-hsm"]
    assert machine.run("getent", "group", "lunash")
    assert "appliance-console: The factory reset" in machine.run("journalctl", "--list-catalog")
    assert not {name for name in machine.added() if name.startswith("etc/systemd")}
    assert machine.calls() == [
        "udevadm control --reload",
        "udevadm trigger --subsystem-match=usb --action=change",
        "systemctl --system daemon-reload",
        SSHD_RUNS,
    ]


def test_enabling_is_all_that_remains(machine: Machine, package: Path) -> None:
    """The installed units are right, with their programs and manuals, and one command makes one console wanted."""
    machine.install(package)

    units = [f"appliance-console@ttyS1.{kind}" for kind in ("service", "socket")]
    assert machine.run("systemd-analyze", "--no-pager", "verify", *units) == ""
    machine.run("systemctl", "enable", "appliance-console@ttyS1")
    assert {name for name in machine.added() if name.startswith("etc/systemd")} == LINKS


def test_an_upgrade_restarts_the_console(
    installed: Machine, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The new version serves, sshd reads its rules; what was edited, enabled and recorded stays as it is."""
    folder = tmp_path_factory.mktemp("later")
    later = altered(package, folder, "9.9", "etc/appliance/console.toml", "# A new default.\n")
    before = {name: (installed.root / name).read_bytes() for name in kept(installed)}
    (installed.root / "run/ssh.service").touch()

    installed.install(later, booted=True)

    assert installed.run("dpkg-query", "-W", "-f", "${Version}", "appliance-console") == "9.9"
    assert {name: (installed.root / name).read_bytes() for name in before} == before
    assert installed.added() >= LINKS
    assert installed.calls()[-4:] == [
        "systemctl --system daemon-reload",
        "deb-systemd-invoke try-restart appliance-console@*.service",
        SSHD_RUNS,
        "deb-systemd-invoke reload ssh.service",
    ]


def test_removed_it_keeps_what_somebody_made(installed: Machine) -> None:
    """The consoles are stopped, the program is gone; configuration, accounts and audit stay."""
    before = kept(installed)

    installed.dpkg("--remove", "appliance-console", booted=True)

    assert installed.calls() == [
        "deb-systemd-invoke stop appliance-console@*.service appliance-console@*.socket",
        "systemctl --system daemon-reload",
    ]
    assert kept(installed) == before
    assert f"{STATE}/audit.jsonl" in before
    assert installed.call("which", "appliance-console", "lunash").stdout == ""
    assert "/usr/bin/lunash\n" not in (installed.root / "etc/shells").read_text()
    assert "appliance-console:" not in installed.run("journalctl", "--list-catalog")


@pytest.mark.parametrize("removed_before", [True, False])
def test_purged_it_leaves_the_audit(installed: Machine, package: Path, removed_before: bool) -> None:
    """The audit is put aside for the daemon's user alone; nothing else is left, nor wanted at boot."""
    (installed.root / "etc/appliance/console.toml.mine").touch()
    (installed.root / STATE / "audit.torn-20260130T120000Z").touch()
    if removed_before:
        installed.dpkg("--remove", "appliance-console")

    said = installed.dpkg("--purge", "appliance-console")

    (aside,) = (installed.root / STATE).iterdir()
    assert re.fullmatch(r"audit\.purged-\d{8}T\d{6}Z", aside.name)
    assert f"The audit trail is kept in /{STATE}/{aside.name}.\n" in said
    assert {path.name for path in aside.iterdir()} == {"audit.head", "audit.jsonl", "audit.torn-20260130T120000Z"}
    assert stat.S_IMODE(aside.stat().st_mode) == 0o700
    assert {name for name in installed.added() if not f"{name}/".startswith(f"{STATE}/")} == set()
    installed.install(package)
    verified = installed.run("appliance-console", "audit", "verify", "--state", f"/{STATE}/{aside.name}")
    assert verified.endswith("2 records, unbroken.\n")


def test_the_audit_is_purged_when_that_is_asked_for(installed: Machine) -> None:
    """With APPLIANCE_PURGE_AUDIT=yes nothing at all is left, whatever earlier purges kept."""
    (installed.root / STATE / "audit.purged-20260130T120000Z").mkdir()

    installed.dpkg("--purge", "appliance-console", APPLIANCE_PURGE_AUDIT="yes")

    assert installed.added() == set()


def test_a_machine_without_a_console_is_purged(machine: Machine, package: Path) -> None:
    """A package that was never used leaves nothing, and says nothing of an audit."""
    machine.install(package)

    assert "audit" not in machine.dpkg("--purge", "appliance-console")
    assert machine.added() == set()


def kept(machine: Machine) -> set[str]:
    """The files that the person and the daemon made."""
    return {
        name
        for name in machine.added()
        if name.startswith(("etc/appliance/", f"{STATE}/")) and (machine.root / name).is_file()
    }
