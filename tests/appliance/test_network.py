# SPDX-License-Identifier: Apache-2.0
"""The network is refused, whoever comes, whatever is typed, set or written; and a user of lunash gets nothing else."""

import json
from collections.abc import Iterator

import pytest

from tests.support.guest.appliance import Appliance
from tests.support.guest.ssh import Ssh
from tests.support.vendor import FAILURE, REFUSAL

SERIAL = "AABB02"
RESET = f"token backup factoryReset -serial {SERIAL} -force"
SOCKET = "/run/appliance/lunash.sock"

# Whatever this machine's user could set to look like the console.
FORGED = 'SSH_CONNECTION="Console" SSH_TTY=/dev/ttyS1 TERM=vt100 LOGNAME=admin USER=admin ORIGIN="local console"'
# Writes to the socket what a program finds that knows nothing, a little, and nearly all of the protocol.
RUBBISH = f"""python3 -c '
import random, socket
noise = random.Random(3)
for number in range(50):
    with socket.socket(socket.AF_UNIX) as door:
        door.connect("{SOCKET}")
        try:
            door.sendall(noise.randbytes(noise.randrange(1, 4000)))
            door.shutdown(socket.SHUT_WR)
            door.recv(4096)
        except OSError:
            pass
'"""


@pytest.fixture(scope="module")
def admin(booted: Appliance) -> Iterator[Ssh]:
    """Somebody at another machine, for whom ``ssh-user add admin`` was run."""
    key = booted.machine.image.key.with_suffix(".pub").read_text()
    booted.root.run("appliance-console ssh-user add admin --key -", text=key)
    user = booted.user("admin")
    yield user
    user.hang_up()
    booted.root.run("home=~admin; while pkill --euid admin; do sleep 0.1; done; userdel admin && rm -r $home")


@pytest.fixture
def token(appliance: Appliance) -> Iterator[str]:
    """A token with keys, plugged in, which still has them afterwards."""
    appliance.plug(appliance.tokens.make(SERIAL, keys=1))
    yield SERIAL
    assert "Keys:                               signature\n" in appliance.log_in().run(
        f"token backup show -serial {SERIAL}"
    )


def test_a_single_command_is_refused(admin: Ssh, token: str) -> None:
    """The vendor's words, to the letter, before any argument is looked at; and ssh does not end with 0."""
    commands = ("token backup factoryReset", RESET, "tok bac fac -s -f --nonsense")
    done = [admin.attempt(command) for command in commands]

    assert [(one.returncode, one.stdout, one.stderr) for one in done] == [(1, REFUSAL, "")] * len(commands)


def test_a_session_is_refused(admin: Ssh, token: str) -> None:
    """So it is in a session on a terminal of OpenSSH's, which is a session all the same."""
    shown = admin.attempt("", "-tt", text=f"token backup list\r{RESET}\rexit\r").stdout.replace("\r", "")

    assert f"Serial #:                           {SERIAL}\n" in shown
    assert REFUSAL in shown


def test_lunash_by_hand_is_the_network(appliance: Appliance, admin: Ssh, token: str) -> None:
    """Root, another member of the group, and a forged environment are refused; a stranger does not reach the daemon."""
    done = [
        appliance.root.attempt(command)
        for command in (
            f"lunash -c '{RESET}'",
            f"env {FORGED} lunash -c '{RESET}'",
            f"runuser -u admin -- env {FORGED} /usr/bin/lunash -c '{RESET}'",
            f"cd / && setsid env {FORGED} lunash -c '{RESET}' </dev/null",
        )
    ]
    stranger = appliance.root.attempt(f"runuser -u nobody -- env {FORGED} lunash -c '{RESET}'")

    assert [(one.returncode, one.stdout) for one in done] == [(1, REFUSAL)] * 4
    assert stranger.returncode == 255
    assert stranger.stderr == "Error:  The console service cannot be reached: Permission denied.\n"


def test_a_member_without_an_account_has_no_session(appliance: Appliance, token: str) -> None:
    """Who may connect, but has no account on the appliance, is told so and gets nothing else."""
    done = appliance.root.attempt(f"runuser -u nobody -g lunash -- lunash -c '{RESET}'")

    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == f"\nError:  User 'nobody' has no account on this appliance.\n{FAILURE}"


def test_rubbish_in_the_socket_changes_nothing(appliance: Appliance, admin: Ssh, token: str) -> None:
    """After it, from root and from a user, the next person is served, and the daemon is the same."""
    process = appliance.property("MainPID")
    appliance.root.run(RUBBISH)
    appliance.root.run(f"runuser -u admin -- {RUBBISH}")

    assert f"Serial #:                           {SERIAL}\n" in admin.run("token backup list")
    assert appliance.property("MainPID") == process


def test_the_audit_knows_who_was_refused(appliance: Appliance, admin: Ssh) -> None:
    """A refusal is on record with the account and the address it came from."""
    admin.attempt(RESET)
    records = [json.loads(line) for line in appliance.audit().splitlines()]
    [*_, last] = [record for record in records if record["event"] == "result"]

    assert (last["actor"], last["outcome"]) == ("admin", "refused")
    assert last["origin"].startswith("10.0.2.2/")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("/usr/lib/openssh/sftp-server", ()),
        ("sftp", ("-s",)),
        ("/bin/sh", ()),
        ("scp -t /tmp", ()),
        ("internal-sftp", ()),
    ],
)
def test_no_other_program_is_to_be_had(admin: Ssh, command: str, options: tuple[str, ...]) -> None:
    """A subsystem, a shell or a file transfer is an unknown command of LunaSH."""
    done = admin.attempt(command, *options)

    assert done.returncode == 1
    assert "Error:" in done.stdout


def test_nothing_is_forwarded(appliance: Appliance, admin: Ssh) -> None:
    """No port of the appliance is within reach of a user of lunash; root reaches it in the same way."""
    forward = ("-W", "127.0.0.1:22")

    assert appliance.root.attempt("", *forward).stdout.startswith("SSH-2.0-")
    assert admin.attempt("", *forward).stdout == ""
