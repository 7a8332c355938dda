# SPDX-License-Identifier: Apache-2.0
"""The whole daemon with a library: one that hangs delays nobody and leaves no process, and what is secret stays so."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.person import PASSWORD, Person
from tests.support.process_list import process_list
from tests.support.pty_child import PATIENCE, read_until, running, terminal
from tests.support.vendor_module import SERIAL, SO_PIN, VendorModule, needs_softhsm

pytestmark = needs_softhsm

MOST_LISTS = (
    20  # each waits a moment for the library to say which token it has; only a busy machine takes more than one
)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("fault", ["hang", "crash"])
def test_the_console_does_not_wait(vendor: VendorModule, tmp_path: Path, fault: str, end: signal.Signals) -> None:
    """A person logs in while the library is stuck; when the daemon ends or is killed, none of its processes is left."""
    vendor.tell("fault-C_Initialize", fault)
    with terminal() as (master, port), running(command(port, tmp_path, vendor)) as process:
        read_until(master, b"login: ", process)
        os.write(master, b"admin\r")
        read_until(master, b"assword: ", process)
        os.write(master, b"PASSWORD\r")
        read_until(master, b"required to change your password", process)
        library = library_process(process.pid, vendor)
        process.send_signal(end)
        process.wait(PATIENCE)
        assert all(select.select([watch], [], [], PATIENCE)[0] for watch in library)


def test_an_so_pin_is_nowhere_but_in_the_token(vendor: VendorModule, tmp_path: Path) -> None:
    """A person gives a wrong one, then the right one; neither is on the screen, in the log or in the state folder."""
    wrong = "so-pin-4712"
    with served(vendor, tmp_path, signal.SIGTERM) as (person, _):
        refused = reset(person, wrong)
        done = reset(person, SO_PIN)
    kept = traces(tmp_path)

    assert "The token refused the reset." in refused
    assert "Reason: the SO PIN is wrong (A00000 : CKR_PIN_INCORRECT)" in refused
    assert "'token backup factoryReset' successful." in done
    assert vendor.keys() == 0
    assert "reset-outcome" in kept
    assert [secret for secret in (wrong, SO_PIN, PASSWORD) if secret in refused + done + kept] == []


@pytest.mark.parametrize("fault", ["fault-C_InitToken hang", "after-C_InitToken hang", "fault-C_InitToken crash"])
def test_a_library_that_fails_with_an_so_pin_tells_it_to_nobody(
    vendor: VendorModule, tmp_path: Path, fault: str
) -> None:
    """While its process has the PIN, no list of processes shows it, and a crash brings it neither to screen nor log."""
    vendor.tell(*fault.split())
    with served(vendor, tmp_path, signal.SIGKILL) as (person, daemon):  # it would wait for a library that hangs
        shown = ask_for_reset(person)
        person.type(f"{SO_PIN}\r")
        vendor.reached("C_InitToken")
        seen = process_list(daemon)
        shown += person.read_until("Contact with the token was lost" if "crash" in fault else "being reset")
    kept = traces(tmp_path)

    assert "appliance.hsm.pkcs11.child" in seen or "crash" in fault  # then it may be gone, and the next not there yet
    assert "reset-intent" in kept
    assert [secret for secret in (SO_PIN, PASSWORD) if secret in shown + seen + kept] == []


@contextmanager
def served(vendor: VendorModule, folder: Path, end: signal.Signals) -> Iterator[tuple[Person, int]]:
    """Somebody who is logged in at the daemon, whose token takes an SO PIN, and its process; it ends by that signal."""
    vendor.tell("removable")
    with terminal() as (master, port), (folder / "log").open("wb") as said:
        arguments = command(port, folder, vendor, "pkcs11")
        with subprocess.Popen(arguments, stdout=said, stderr=said) as process:  # noqa: S603  # of ours
            try:
                with Person(os.dup(master)) as person:
                    person.log_in_first()
                    assert any(SERIAL in person.run("token backup list") for _ in range(MOST_LISTS))
                    yield person, process.pid
            finally:
                process.send_signal(end)


def traces(folder: Path) -> str:
    """All that the daemon kept and wrote."""
    files = folder / "log", *(folder / "state").iterdir()
    return "\n".join(path.read_bytes().decode("latin-1") for path in files if path.is_file())


def ask_for_reset(person: Person) -> str:
    """What is shown up to the question for the SO PIN."""
    person.type(f"token backup factoryReset -serial {SERIAL} -force\r")
    return person.read_until("SO PIN of this token:\n> $")


def reset(person: Person, pin: str) -> str:
    """The dialogue, and everything that is shown."""
    return ask_for_reset(person) + person.run(pin)


def command(port: str, folder: Path, vendor: VendorModule, family: str = "luna") -> list[str | Path]:
    """Our daemon, with the vendor's library."""
    return [sys.executable, "-m", "tests.support.library_daemon", port, folder / "state", vendor.library, family]


def library_process(daemon: int, vendor: VendorModule) -> list[int]:
    """Descriptors for the children that the daemon still has, once the library was called in one of them."""
    vendor.reached("C_Initialize")
    children = " ".join(path.read_text() for path in Path(f"/proc/{daemon}/task").glob("*/children")).split()
    found = []
    for child in children:
        with suppress(ProcessLookupError):  # one that has crashed may be gone already
            found.append(os.pidfd_open(int(child)))
    return found
