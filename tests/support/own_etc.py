# SPDX-License-Identifier: Apache-2.0
"""A system on which users may come and go: this machine's own, under overlays that end with the process.

`own_system` is the prefix of a command that runs there, `own_server` the appliance with its OpenSSH server.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.sshd import SshServer, held_port

ROOT = Path(__file__).resolve().parent.parent.parent
DROP_IN = Path("/etc/ssh/sshd_config.d/appliance-console.conf")
CONSOLE_TOML = Path("/etc/appliance/console.toml")
SSHD_CONFIG = Path("/etc/ssh/sshd_config")
LUNASH = Path("/usr/bin/lunash")

USER = "admin"  # set up by the command
MEMBER = "member"  # of the group lunash, with a shell that would do everything: sshd alone confines him
FREE = "free"  # nobody confines him: every attempt succeeds, so that its failure for another says something

# /mnt holds what is written; /run and the logs of logins begin empty.
_BEGIN = """
set -e
mount -t tmpfs none /mnt
for place in etc home usr/bin; do
    mkdir -p /mnt/$place/upper /mnt/$place/work
    mount -t overlay none -o lowerdir=/$place,upperdir=/mnt/$place/upper,workdir=/mnt/$place/work /$place
done
mount -t tmpfs -o mode=755 none /run
mount -t tmpfs -o mode=755 none /var/log
export OWN_ETC=true
exec "$@"
"""

# As little as an administrator could forbid: whatever is refused under it, the drop-in refuses.
_SSHD_CONFIG = """\
Include /etc/ssh/sshd_config.d/*.conf
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
UsePAM {pam}
AcceptEnv *
PermitTunnel yes
PermitUserEnvironment yes
X11Forwarding yes
XAuthLocation /bin/true
Subsystem sftp {subsystem}
"""


def own_system() -> list[str]:
    """What to put before a command, and the end of it is the end of the system."""
    return ["unshare", "--mount", "sh", "-c", _BEGIN, "sh"]


def why_not() -> str:
    """Why there can be no such system here; "" when it can."""
    if shutil.which("unshare") is None:
        return "not installed: unshare"
    works = subprocess.run([*own_system(), "true"], capture_output=True, check=False).returncode == 0  # noqa: S603  fixed
    return "" if works else "needs the right to mount in a namespace of its own"


def inside() -> bool:
    """Whether this process runs in one."""
    return os.environ.get("OWN_ETC") == "true"


@contextmanager
def own_server(*, pam: str = "yes", subsystem: str = "internal-sftp") -> Iterator[SshServer]:
    """A running server on a system as the package leaves it, with the three users."""
    folder = Path(tempfile.mkdtemp(prefix="lunash-own-etc-"))
    folder.chmod(0o755)
    try:
        with held_port() as port:
            server = SshServer(folder, port)
            server.make_keys()
            _install(server, pam, subsystem)
            status, _, errors = add(USER, "--key", str(folder / "user_key.pub"))
            assert (status, errors) == (0, "")
            with _unix_user(MEMBER, "lunash", folder), _unix_user(FREE, "nogroup", folder), server.running(SSHD_CONFIG):
                yield server
    finally:
        remove(USER)
        shutil.rmtree(folder)


def _install(server: SshServer, pam: str, subsystem: str) -> None:
    """Put in place what the package does, and a configuration of sshd that allows all it can."""
    for path, source in {DROP_IN: "sshd_config.d/appliance-console.conf", CONSOLE_TOML: "console.toml"}.items():
        path.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "systemd" / source, path)
    subprocess.run(["systemd-sysusers", ROOT / "systemd/sysusers.conf"], check=True)  # noqa: S603, S607  our own /etc
    server.make_shell(LUNASH)
    with Path("/etc/shells").open("a") as shells:
        shells.write(f"{LUNASH}\n")
    config = _SSHD_CONFIG.format(port=server.port, folder=server.folder, pam=pam, subsystem=subsystem)
    SSHD_CONFIG.write_text(config)


@contextmanager
def _unix_user(name: str, group: str, folder: Path) -> Iterator[None]:
    """A user of the ordinary kind, with the same key."""
    home = Path("/home", name)
    command = ["useradd", "--create-home", "--gid", group, "--shell", "/bin/sh", "--password", "*", name]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603  a fixed command, in our own /etc
    (home / ".ssh").mkdir()
    shutil.copy(folder / "user_key.pub", home / ".ssh/authorized_keys")
    yield
    remove(name)


def remove(name: str) -> None:
    """Have neither the user nor his home."""
    command = ["userdel", "--force", name]  # also while a process of a session is just ending
    subprocess.run(command, check=False, capture_output=True)  # noqa: S603  a fixed command, in our own /etc
    shutil.rmtree(Path("/home", name), ignore_errors=True)


def add(*words: str, typed: str = "") -> tuple[int, str, str]:
    """Run `appliance-console ssh-user add`: exit status, output and errors."""
    command = [sys.executable, "-m", "appliance", "ssh-user", "add", *words]
    result = subprocess.run(  # noqa: S603  # our own program
        command, cwd=ROOT, input=typed, capture_output=True, text=True, timeout=60, check=False
    )
    return result.returncode, result.stdout, result.stderr


def sshd_says(user: str) -> dict[str, str]:
    """The settings in force for a user."""
    words = ["-T", "-C", f"user={user},host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22"]
    result = subprocess.run(["/usr/sbin/sshd", *words], check=True, capture_output=True, text=True)  # noqa: S603  fixed
    return dict(line.split(" ", 1) for line in result.stdout.splitlines() if " " in line)


def environments(user: str) -> list[bytes]:
    """The environments of what the user runs, but for sshd's own part of it."""
    uid = pwd.getpwnam(user).pw_uid
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == uid and not (process / "comm").read_text().startswith("sshd"):
                found.append((process / "environ").read_bytes())
        except OSError:  # it has ended
            continue
    assert found
    return found
