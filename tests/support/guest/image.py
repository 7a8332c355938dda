# SPDX-License-Identifier: Apache-2.0
"""The guest's disk: a minimal Debian 12 by mmdebstrap with our package installed in it as an integrator would.

Beside it is Yubico's package, which Debian has not: that of the environment in which the tests run.

Both are kept below .tests/appliance under a hash of what they were made from, and made anew when that changed.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackagePath, distribution
from pathlib import Path

from tests.support import debian_package
from tests.support.checkout import ROOT, tracked_files
from tests.support.debian_package import ENVIRONMENT, build, run

CACHE = ROOT / ".tests" / "appliance"

CONSOLE = "ttyS0"  # where the kernel says what it does
TERMINAL = "ttyS1"  # the physical serial terminal

_PROGRAMS = ("mmdebstrap", "dpkg-buildpackage", "mke2fs", "qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen")
_PACKAGES = (
    *("linux-image-amd64", "systemd-sysv", "udev", "kmod", "dbus", "openssh-server", "psmisc"),
    # What our package depends on; the Python packages are Debian's.
    *("libusb-1.0-0", "python3-pyudev", "python3-serial", "python3-structlog", "python3-usb"),
    "python3-cryptography",  # what Yubico's package needs of Debian's
    "usbip",  # the hand that plugs
    *("gnupg", "scdaemon", "opensc", "pcscd", "libccid", "softhsm2"),  # other people's clients of the devices
)
_SOURCES = ("/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources")  # where this machine has Debian from
# The root file system is all that the first stage of the boot has to find.
_MODULES = r"virtio_pci\nvirtio_blk\next4\n"
_UNWANTED = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*", "/lib/modules/*/kernel/drivers/gpu/*")
_LOCAL_PACKAGES = "usr/local/lib/python3.11/dist-packages"  # where Debian's pip installs to, as root
_DISK = "2G"
_NETWORK = "[Match]\nName=en*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
_TIMERS = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer")


def why_not() -> str:
    """Why no guest can be made here; "" when it can."""
    if os.geteuid() != 0:
        return "the guest's disk is made by root"
    missing = [name for name in _PROGRAMS if not shutil.which(name, path=ENVIRONMENT["PATH"])]
    return f"not installed: {', '.join(missing)}" if missing else ""


@dataclass(frozen=True, slots=True)
class Image:
    """Something to boot, the key that logs in as root, and our package as it is installed there."""

    disk: Path
    kernel: Path
    initrd: Path
    key: Path
    package: Path


def image() -> Image:
    """The image of the project as it is now; it is built if it is not there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    base = _kept("base", hashlib.sha256(repr(_bootstrap("")).encode()).hexdigest()[:16], _build_base)
    yubicos = [Path(str(file.locate())) for file in _yubicos_package()]
    made_from = _hash_of([base, Path(__file__), Path(debian_package.__file__), *_sources_of_package(), *yubicos])
    folder = _kept("disk", made_from, lambda folder: _build_disk(folder, base))
    return Image(folder / "disk", folder / "vmlinuz", folder / "initrd", folder / "key", folder / "package.deb")


def _kept(kind: str, made_from: str, make: Callable[[Path], None]) -> Path:
    """The folder of this kind; an older one goes, and one that is half built is none."""
    wanted = CACHE / f"{kind}-{made_from}"
    if not wanted.exists():
        for old in CACHE.glob(f"{kind}-*"):
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="building-") as scratch:
            built = Path(scratch) / "built"
            built.mkdir()
            make(built)
            built.rename(wanted)
    return wanted


def _hash_of(files: Sequence[Path]) -> str:
    """A hash of the places and the contents of files; of a folder, which was named by such a hash, the place."""
    digest = hashlib.sha256()
    for path in files:
        content = b"" if path.is_dir() else path.read_bytes()
        digest.update(b"%s %d\n" % (os.path.relpath(path, ROOT).encode(), len(content)) + content)
    return digest.hexdigest()[:16]


def _sources_of_package() -> list[Path]:
    """The files of the project that the package is made of."""
    return [path for path in tracked_files() if path.relative_to(ROOT).parts[0] not in ("tests", ".ci")]


def _yubicos_package() -> list[PackagePath]:
    """The files of Yubico's package, without what Python made of them."""
    return [file for file in distribution("yubihsm").files or () if file.suffix != ".pyc"]


def _build_base(folder: Path) -> None:
    """Debian without anything of ours, as a tar file."""
    run(*_bootstrap(str(folder / "debian.tar")))


def _bootstrap(target: str) -> list[str]:
    """The command that makes it."""
    setup = (
        'mkdir -p "$1/etc/initramfs-tools/conf.d"; echo MODULES=list > "$1/etc/initramfs-tools/conf.d/guest"; '
        f"printf '{_MODULES}' > \"$1/etc/initramfs-tools/modules\""
    )
    return [
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar", f"--essential-hook={setup}"),
        *(f"--include={','.join(_PACKAGES)}", *(f"--dpkgopt=path-exclude={path}" for path in _UNWANTED)),
        *("bookworm", target, *(path for path in _SOURCES if Path(path).exists())),
    ]


def _build_disk(folder: Path, base: Path) -> None:
    """The base with our package in it, on a file system."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="root-") as scratch:
        root, key = Path(scratch), folder / "key"
        run("tar", "--extract", "--file", str(base / "debian.tar"), "--directory", scratch)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "guest", "-f", str(key))
        built = build(root / "root/package")
        package = built.rename(root / "root" / built.name)  # it stays, for those who install it once more
        shutil.copy(package, folder / "package.deb")
        shutil.rmtree(built.parent)
        _install(root, package)
        _install_yubicos_package(root)
        _configure(root, key.with_suffix(".pub").read_text())
        for wanted, found in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
            shutil.copy(next((root / "boot").glob(found)), folder / wanted)
        disk = str(folder / "disk")
        run("truncate", f"--size={_DISK}", disk)
        run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1", "-d", scratch, disk)


def _install(root: Path, package: Path) -> None:
    """Install as README says, less the start of services: there is no systemd here to start them."""
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    run("chroot", str(root), "dpkg", "--install", f"/{package.relative_to(root)}")
    policy.unlink()


def _install_yubicos_package(root: Path) -> None:
    """Install as README says, less the network: what pip would fetch and compile is put where pip would put it."""
    for file in _yubicos_package():
        target = root / _LOCAL_PACKAGES / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.locate(), target)
    run("chroot", str(root), "python3", "-m", "compileall", "-q", f"/{_LOCAL_PACKAGES}")


def _configure(root: Path, key: str) -> None:
    """What an integrator does, and what lets the tests in."""
    for name, content in (
        ("etc/hostname", "appliance\n"),
        ("etc/hosts", "127.0.0.1 localhost appliance\n"),
        ("etc/fstab", "/dev/vda / ext4 defaults 0 1\n"),
        ("etc/modules-load.d/usbip.conf", "vhci_hcd\n"),
        ("etc/systemd/network/guest.network", _NETWORK),
        ("root/.ssh/authorized_keys", key),
    ):
        (root / name).parent.mkdir(mode=0o700 if ".ssh" in name else 0o755, parents=True, exist_ok=True)
        (root / name).write_text(content)
    systemctl = ("chroot", str(root), "systemctl", "--quiet")
    run(*systemctl, "enable", "systemd-networkd", f"appliance-console@{TERMINAL}")
    run(*systemctl, "mask", *_TIMERS)
