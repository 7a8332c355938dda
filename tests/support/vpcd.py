# SPDX-License-Identifier: Apache-2.0
"""Other people's smart card programs reach a simulated card through pcscd's virtual reader (vsmartcard-vpcd).

That reader listens on all interfaces, so pcscd and everything that talks to it live in a network namespace of their
own, where there is nothing but loopback. The virtual card connects to the reader: 2 bytes of length, then the bytes;
a single byte is a command to the card's power supply.
"""

import ctypes
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from appliance.simulator.memory import dump
from appliance.simulator.smartcard_hsm_card import SmartcardHsmCard
from appliance.simulator.smartcard_hsm_flash import SmartcardHsmFlash
from tests.support.token_bus import TokenBus

PORT = 0x8C7B  # /etc/reader.conf.d/vpcd; the second slot listens on the next one
POWER_OFF, POWER_ON, GET_ATR = 0, 1, 4

PROGRAMS = (
    "pcscd",
    "unshare",
    "nsenter",
    "ip",
    "gpg",
    "gpg-connect-agent",
    "opensc-tool",
    "openpgp-tool",
    "pkcs11-tool",
    "pkcs15-tool",
    "sc-hsm-tool",
)
FILES = ("/etc/reader.conf.d/vpcd", "/usr/lib/gnupg/scdaemon")
BOUND = 30.0  # seconds to wait for anything


class Card(Protocol):
    """The card in the virtual reader."""

    def power_on(self) -> bytes: ...
    def power_off(self) -> None: ...
    def transmit(self, apdu: bytes) -> bytes: ...


def missing() -> str:
    """What this machine lacks for it, one sentence; "" when nothing is."""
    if os.geteuid():
        return "needs root, for a network namespace"
    programs = [program for program in PROGRAMS if shutil.which(program) is None]
    absent = [*programs, *(path for path in FILES if not Path(path).exists())]
    return f"not installed: {', '.join(absent)}" if absent else ""


def serve(card: Card, connection: socket.socket, powered: Callable[[], None]) -> None:
    """Be the card until the reader goes away; `powered` is called when it gives power."""
    answer_to_reset = b""
    with connection, suppress(ConnectionError), connection.makefile("rb") as stream:
        while header := stream.read(2):
            message = stream.read(int.from_bytes(header, "big"))
            match message:
                case b"\0":  # power off
                    card.power_off()
                case b"\1" | b"\2":  # power on, reset
                    answer_to_reset = card.power_on()
                    powered()
                case b"\4":  # the reader asks for the ATR also before it gives power
                    answer_to_reset = answer_to_reset or card.power_on()
                    send(connection, answer_to_reset)
                case _:
                    send(connection, card.transmit(message))


def send(connection: socket.socket, data: bytes) -> None:
    """One message, either way."""
    connection.sendall(len(data).to_bytes(2, "big") + data)


def card_of(bus: TokenBus) -> SmartcardHsmCard:
    """The card of a SmartCard-HSM token, taken out of its stick; it keeps what it keeps in the same file."""

    def save(flash: SmartcardHsmFlash) -> None:
        bus.path.write_bytes(dump(flash))

    return SmartcardHsmCard(bus.flash, save)


class Desk:
    """A pcscd of its own with one card in its virtual reader, and programs that run beside it."""

    def __init__(self, namespace: int, folder: Path) -> None:
        self._namespace = namespace
        self._environment = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "HOME": str(folder),
            "GNUPGHOME": str(folder / "gnupg"),
        }

    def run(self, *command: str, typed: str = "", status: int | None = 0, bound: float = BOUND) -> str:
        """What the program printed, errors included; its exit status must be `status`, None for any.

        It is waited for `bound` seconds.
        """
        done = subprocess.run(  # noqa: S603 (the programs under test, found by name)
            [*_inside(self._namespace), *command],
            input=typed,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=bound,
            check=False,
        )
        assert status in (None, done.returncode), f"{command}: status {done.returncode}\n{done.stdout}"
        return done.stdout

    def close(self) -> None:
        """End what the programs left running."""
        self.run("gpgconf", "--kill", "all", status=None)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder for a desk, with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="desk-") as name:
        gnupg = Path(name) / "gnupg"
        gnupg.mkdir(mode=0o700)
        (gnupg / "scdaemon.conf").write_text("disable-ccid\n")
        yield Path(name)


@contextmanager
def desk(card: Card, folder: Path) -> Iterator[Desk]:
    """A desk with this card, its files in `folder`, whose path must be short: it holds sockets."""
    with ExitStack() as stack:
        daemon = stack.enter_context(_pcscd(folder))
        powered = threading.Event()
        connection = _connect(daemon.pid)
        thread = threading.Thread(target=serve, args=(card, connection, powered.set))
        thread.start()
        stack.callback(thread.join, BOUND)
        stack.callback(connection.shutdown, socket.SHUT_RDWR)
        assert powered.wait(BOUND), "pcscd does not see the card"
        result = Desk(daemon.pid, folder)
        stack.callback(result.close)
        yield result


@contextmanager
def _pcscd(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """pcscd in namespaces of its own: network, and mounts, for its socket stands at a fixed place under /run."""
    readers = folder / "readers"
    readers.mkdir(exist_ok=True)
    shutil.copy(FILES[0], readers)
    begin = f"ip link set lo up && mount -t tmpfs tmpfs /run && exec pcscd --foreground --config {readers}"
    with (folder / "pcscd.log").open("wb") as log:
        process = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", begin], stdout=log, stderr=log)  # noqa: S603, S607 (words of our own)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(BOUND)


def _connect(namespace: int) -> socket.socket:
    """A connection to the virtual reader, made by a thread that goes into its network namespace for that."""
    with ThreadPoolExecutor(1) as inside:
        return inside.submit(_connect_here, namespace).result(BOUND)


def _connect_here(namespace: int) -> socket.socket:
    libc = ctypes.CDLL(None, use_errno=True)
    end = time.monotonic() + BOUND
    while True:  # until pcscd is in its namespace, and listens there
        with Path(f"/proc/{namespace}/ns/net").open("rb") as file:
            if libc.setns(file.fileno(), 0) < 0:
                raise OSError(ctypes.get_errno(), "setns")
        try:
            return socket.create_connection(("127.0.0.1", PORT), BOUND)
        except OSError as error:  # refused; or unreachable, while loopback is not up
            if time.monotonic() > end:
                raise TimeoutError("pcscd does not listen") from error
            time.sleep(0.05)


def _inside(namespace: int) -> Sequence[str]:
    return ("nsenter", f"--target={namespace}", "--net", "--mount")
