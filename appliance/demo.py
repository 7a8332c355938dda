# SPDX-License-Identifier: Apache-2.0
"""The demonstration is the very daemon of `run` with a pty as its serial port and a folder as its USB bus."""

import asyncio
import contextlib
import os
import pwd
import sys
import tempfile
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from appliance.config import (
    SOFTHSM,
    BuiltinSettings,
    Config,
    HsmSettings,
    LibrarySettings,
    LineSettings,
    NetworkSettings,
)
from appliance.daemon import Daemon
from appliance.errors import ApplianceError, StateError
from appliance.log import configure
from appliance.simulator.bus import FolderBus
from appliance.simulator.families import LUNA, PKCS11, Family, new_token
from appliance.simulator.serial_line import SerialLine, Socket
from appliance.simulator.usbip import UsbIpServer, parse_address
from appliance.simulator.vendor_library import HINT, BusWithLibraries, compiler, drivers

_SERIAL = "667788"
_LEAVE = b"\x1d"  # Ctrl-]


class NoTerminal(ApplianceError):
    """The demonstration needs a terminal."""


def demo(bus: Path | None, state: Path | None, *, port_only: bool, usbip: str | None = None) -> int:
    """Run the demonstration; the exit status. Folders that are not given are made, and removed at the end.

    With `usbip`, ADDR:PORT, the bus is exported over USB/IP as well.
    """
    address = parse_address(usbip) if usbip is not None else None
    if not port_only and not os.isatty(sys.stdin.fileno()):
        raise NoTerminal("The standard input is no terminal. Use 'appliance-console demo --port-only'.")
    with ExitStack() as stack:
        if bus is None:
            bus = _temporary_folder(stack, "hsm-bus-")
            new_token(bus / f"{_SERIAL}.token", _SERIAL, 3)
        state = state or _temporary_folder(stack, "hsm-state-")
        for folder in (bus, state):
            _make(folder)
        if not port_only:
            stack.enter_context(_log_to(state / "demo.log"))
        configure("info")
        asyncio.run(_serve(bus.resolve(), state.resolve(), port_only, address))
    return 0


async def _serve(bus: Path, state: Path, port_only: bool, usbip: tuple[str, int] | None) -> None:
    source = FolderBus(bus)
    line = SerialLine(state / "ttyS0")
    async with AsyncExitStack() as stack:
        libraries = stack.enter_context(drivers(source.backend, state))
        daemon = Daemon(_config(state, libraries), source, BusWithLibraries(source.backend, state))
        exported = await stack.enter_async_context(_export(source, usbip)) if usbip else ""
        line.plug()
        stack.callback(line.close)
        if port_only:
            socket = Socket(line)
            socket.start()
            stack.callback(socket.close)
            print(socket.path, flush=True)
            if exported:
                print(exported, flush=True)
        else:
            _explain(bus, state, exported)
            stack.enter_context(_own_terminal(line, daemon.stop))
        await daemon.run()


def _config(state: Path, libraries: Mapping[Family, Path]) -> Config:
    found = {
        family: LibrarySettings(library, ((family.looks.vendor_id, family.looks.product_id),))
        for family, library in libraries.items()
    }
    return Config(
        state=state,
        line=LineSettings(port=str(state / "ttyS0")),
        network=NetworkSettings(socket=state / "lunash.sock", users=_our_user()),
        hsm=HsmSettings(
            luna=found.get(LUNA, LibrarySettings()),
            pkcs11=tuple(found[family] for family in (PKCS11,) if family in found),
            builtin=BuiltinSettings("softhsm" if SOFTHSM.exists() else "none"),
        ),
    )


@contextlib.asynccontextmanager
async def _export(source: FolderBus, address: tuple[str, int]) -> AsyncIterator[str]:
    """Serve the bus over USB/IP; where, for people."""
    server = UsbIpServer(source.plugged)
    host, port = await server.start(*address)
    try:
        yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    finally:
        await server.close()


def _explain(bus: Path, state: Path, exported: str) -> None:
    token = next(iter(sorted(bus.glob("*.token"))), bus / f"{_SERIAL}.token")
    lunash = Path(sys.executable).with_name("lunash")  # absolute: it is typed in another folder
    print(
        "From another terminal, while this one is the serial terminal (Ctrl-] leaves):\n"
        f"  unplug   mv {token} {bus.parent}\n"
        f"  plug in  mv {bus.parent / token.name} {bus}\n"
        f"  network  {lunash} --socket {state / 'lunash.sock'}",
        flush=True,
    )
    if not SOFTHSM.exists():
        print(f"  no built-in HSM: {SOFTHSM} is not installed (Debian package softhsm2)", flush=True)
    if compiler() is None:
        print(f"  no Luna HSMs and PKCS#11 tokens: {HINT}", flush=True)
    if exported:
        host, _, port = exported.rpartition(":")
        print(f"  USB/IP   usbip --tcp-port {port} list -r {host.strip('[]')}", flush=True)


@contextlib.contextmanager
def _own_terminal(line: SerialLine, leave: Callable[[], None]) -> Iterator[None]:
    """The user's terminal becomes the serial terminal, until it is given back at the end."""
    stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
    loop = asyncio.get_running_loop()

    def typed() -> None:
        try:
            data = os.read(stdin, 4096)
        except OSError:  # the terminal was taken away
            data = b""
        line.send(data.partition(_LEAVE)[0])
        if not data or _LEAVE in data:
            loop.remove_reader(stdin)
            leave()

    saved = termios.tcgetattr(stdin)
    tty.setraw(stdin)
    try:
        line.connect(lambda data: os.write(stdout, data))
        loop.add_reader(stdin, typed)
        yield
    finally:
        loop.remove_reader(stdin)
        with contextlib.suppress(termios.error):  # it is gone
            termios.tcsetattr(stdin, termios.TCSAFLUSH, saved)
        print()


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Keep the operational log off the user's terminal, which is the serial terminal now."""
    with path.open("a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
        yield


def _temporary_folder(stack: ExitStack, prefix: str) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))


def _our_user() -> dict[str, str]:
    """Who runs the demonstration, as the door will see him: by the uid, whatever the environment says."""
    try:
        return {pwd.getpwuid(os.getuid()).pw_name: "admin"}
    except KeyError:
        return {}


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(folder, _reason(error)) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StateError(folder, "is not writable")


def _reason(error: OSError) -> str:
    return "is not a folder" if isinstance(error, FileExistsError) else error.strerror or str(error)
