# SPDX-License-Identifier: Apache-2.0
"""A real OpenSSH server on loopback whose users have `lunash` as their shell, and the real client."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import appliance

# No PAM and no passwords: a key is all there is. Whatever a client wants to set is accepted, so that the tests show
# what lunash makes of it and not what sshd keeps away.
_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
AllowUsers {users}
AcceptEnv *
PrintMotd no
PrintLastLog no
"""
_SHELL = """\
#!{python} -IS
import sys
sys.path.insert(0, {folder!r})
sys.argv[0] = "lunash"
sys.argv[1:1] = ["--socket", {socket!r}]
from appliance.cli import lunash
sys.exit(lunash())
"""


_PROGRAMS = ("sshd", "ssh", "ssh-keygen", "useradd", "userdel", "groupadd", "groupdel")


def why_not() -> str:
    """Why no server can be started here; "" when it can."""
    if os.geteuid() != 0:
        return "an OpenSSH server with users of its own needs root"
    missing = [name for name in _PROGRAMS if not _find(name)]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "" if _python() else "no Python that every user of this machine can run"


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running server; its folder holds keys, the shell and, once a door is made there, the socket."""

    folder: Path
    port: int

    @classmethod
    @contextmanager
    def start(cls, *users: str, group: str) -> Iterator[Self]:
        """Run a server for the Unix users `users` in the group `group`; all are made now and removed at the end."""
        folder = Path(tempfile.mkdtemp(prefix="lunash-sshd-"))
        try:
            folder.chmod(0o755)
            with held_port() as port:
                server = cls(folder, port)
                server.make_keys()
                (folder / "user_key.pub").rename(folder / "authorized_keys")
                server.make_shell(folder / "shell")
                config = _CONFIG.format(port=port, folder=folder, users=" ".join(users))
                _write(folder / "config", config, 0o600)
                with _unix_users(users, group, folder / "shell"), server.running(folder / "config"):
                    yield server
        finally:
            shutil.rmtree(folder)

    @property
    def socket(self) -> Path:
        """Where the shell looks for the door."""
        return self.folder / "door" / "lunash.sock"

    def ssh(self, user: str, *arguments: str) -> list[str]:
        """The command line of the client; `arguments` are options and the remote command."""
        return [*self.client("ssh"), f"{user}@127.0.0.1", *arguments]

    def client(self, program: str) -> list[str]:
        """The beginning of a command line: ssh, sftp or scp with the options that lead here."""
        options = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "IdentityFile": f"{self.folder}/user_key",
            "LogLevel": "ERROR",
            "Port": str(self.port),
            "UserKnownHostsFile": f"{self.folder}/known_hosts",
        }
        return [_find(program), "-F", "none", *(f"-o{name}={value}" for name, value in options.items())]

    def make_keys(self) -> None:
        """Make the keys of the host and of the users."""
        for name in ("host_key", "user_key"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(self.folder / name))
        host = (self.folder / "host_key.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host}")

    def make_shell(self, path: Path) -> None:
        """Make `lunash` at `path`, and the folder of the socket."""
        # A copy of the package and the bare interpreter: users cannot read everybody's checkout.
        package = Path(appliance.__path__[0])
        shutil.copytree(package, self.folder / "appliance", ignore=shutil.ignore_patterns("__pycache__"))
        shell = _SHELL.format(python=_python(), folder=str(self.folder), socket=str(self.socket))
        _write(path, shell, 0o755)
        self.socket.parent.mkdir(mode=0o755)

    @contextmanager
    def running(self, config: Path) -> Iterator[None]:
        """Run the server as the file `config` says."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd(8): where it confines its unprivileged part
        command = [_find("sshd"), "-D", "-e", "-f", str(config)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603  a fixed command
            assert process.stderr is not None
            try:
                said = []
                for line in process.stderr:
                    said.append(line)
                    if "Server listening" in line:
                        break
                else:
                    raise RuntimeError(f"sshd has ended: {''.join(said)}")
                yield
            finally:
                process.terminate()


@contextmanager
def _unix_users(names: Sequence[str], group: str, shell: Path) -> Iterator[None]:
    # A password of "*" is none, but no lock either: sshd without PAM refuses locked users.
    options = ("--no-create-home", "--home-dir", "/", "--shell", str(shell), "--gid", group, "--password", "*")
    with ExitStack() as made:
        _run("groupadd", group)
        made.callback(_run, "groupdel", group)
        for name in names:
            _run("useradd", *options, name)
            made.callback(_run, "userdel", name)
        yield


def _run(name: str, *arguments: str) -> None:
    subprocess.run([_find(name), *arguments], check=True, capture_output=True)  # noqa: S603  fixed commands


def _find(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""


def _python() -> str:
    """An interpreter that every user can run: this one, or the distribution's; "" when there is none."""
    for candidate in (Path(sys.executable).resolve(), Path("/usr/bin/python3")):
        try:
            command = [str(candidate), "-ISc", "import sys; sys.exit(sys.version_info < (3, 11))"]
            if subprocess.run(command, user="nobody", check=False).returncode == 0:  # noqa: S603  a fixed command
                return command[0]
        except OSError:
            continue
    return ""


def _write(path: Path, text: str, mode: int) -> None:
    path.write_text(text)
    path.chmod(mode)


@contextmanager
def held_port() -> Iterator[int]:
    """A port for a server that binds as OpenSSH and asyncio do; whoever asks for any port gets another meanwhile."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # and never listens: so two may be bound
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
