# SPDX-License-Identifier: Apache-2.0
"""The hand that plugs tokens into the appliance: simulated ones, which its kernel takes over USB/IP for real."""

import asyncio
import shlex
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from appliance.simulator.bus import SUFFIX, FolderBus
from appliance.simulator.descriptors import Level
from appliance.simulator.openpgp_flash import OpenPgpFlash
from appliance.simulator.usbip import UsbIpServer
from appliance.simulator.usbip_protocol import Export
from tests.support.guest.cable import Cable, Cables
from tests.support.guest.machine import BOUND
from tests.support.guest.ssh import Ssh
from tests.support.tokens import make_token, openpgp

_ATTACH = Path(__file__).with_name("attach.py")
_HOST = "10.0.2.2"  # what the guest calls the loopback address of this machine

T = TypeVar("T")


class Tokens:
    """Tokens by name, most often their serial number; each lies at hand, or is plugged in."""

    def __init__(self, folder: Path, appliance: Ssh) -> None:
        """`appliance` is root there: the kernel over there has to be told what is plugged in."""
        self._folder = folder
        self._appliance = appliance
        self._cables = Cables()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._changed = asyncio.Event()  # something on the simulated bus
        self._port = 0
        self._places: dict[str, tuple[str, str]] = {}  # where each was plugged in last: its bus id here, its port there
        folder.mkdir()

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(BOUND)
        self._loop.close()

    def make(
        self,
        name: str,
        *,
        serial: str = "",
        keys: int = 0,
        faults: Sequence[Mapping[str, object]] = (),
        level: Level | None = None,
        family: str = "openpgp",
    ) -> str:
        """Have a new token at hand, in the reader of its family unless `level` says otherwise; its name."""
        new = make_token(self._folder / "new", serial or name, keys, faults, level, family)
        new.rename(self._folder / f"{name}{SUFFIX}")
        self._bus_id(name)  # not before the simulated bus has it
        return name

    def plug(self, *names: str, at_once: bool = False) -> None:
        """Plug tokens in, each when the kernel has begun to look at the one before, or all at once."""
        bus_ids = [*map(self._bus_id, names)]
        ports = self._attach("at-once" if at_once else "one-by-one", *bus_ids)
        self._places |= zip(names, zip(bus_ids, ports, strict=True), strict=True)

    def restarted(self, name: str) -> None:
        """Wait until a token that restarts has left the bus and is at hand again."""
        before, _ = self._places[name]
        self._wait(lambda: self._found(name) not in ("", before))

    def plug_again(self, name: str) -> None:
        """Plug a token in where it was, as one that restarts stays in its socket."""
        bus_id, (_, port) = self._bus_id(name), self._places[name]
        self._attach("again", bus_id, port)
        self._places[name] = bus_id, port

    def attach_command(self, name: str) -> str:
        """What root would type over there to plug a token in."""
        return shlex.join(["usbip", "--tcp-port", str(self._port), "attach", "-r", _HOST, "-b", self._bus_id(name)])

    def cable(self, name: str) -> Cable:
        """The cable of a token."""
        return self._cables[self._bus_id(name)]

    def flash(self, name: str) -> OpenPgpFlash:
        """What a token keeps without power."""
        return openpgp((self._folder / f"{name}{SUFFIX}").read_bytes())

    def pull(self, *names: str) -> None:
        """Pull tokens out; they are at hand again."""
        for name in names:
            self.cable(name).cut()

    def discard(self) -> None:
        """Pull out and throw away every token."""
        for path in self._folder.glob(f"*{SUFFIX}"):
            path.unlink()
        self._wait(lambda: not self._bus.plugged())

    def _attach(self, how: str, *words: str) -> list[str]:
        """Run what plugs in over there; the ports in which it did."""
        command = ["python3", "-", how, _HOST, str(self._port), *words]
        return self._appliance.run(shlex.join(command), text=_ATTACH.read_text()).split()

    def _bus_id(self, name: str) -> str:
        return self._wait(lambda: self._found(name))

    def _found(self, name: str) -> str:
        """The bus id of a token that is at hand or plugged in, else ""; called in the loop's thread."""
        place = f"/{name}{SUFFIX}"
        return next((Export(at).bus_id for at, _ in self._bus.plugged() if at.sys_path.endswith(place)), "")

    async def _start(self) -> None:
        self._bus = FolderBus(self._folder)
        self._server = UsbIpServer(self._bus.plugged)
        await self._bus.start(lambda _: self._changed.set())
        self._port = await self._cables.start(await self._server.start("127.0.0.1", 0))

    async def _stop(self) -> None:
        self._cables.close()
        await self._server.close()
        self._bus.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(BOUND)

    def _wait(self, condition: Callable[[], T]) -> T:
        """What `condition` says once that is true; it is asked in the loop's thread, whenever a token came or went."""

        async def until() -> T:
            async with asyncio.timeout(BOUND):
                while not (found := condition()):
                    self._changed.clear()
                    await self._changed.wait()
                return found

        return self._call(until())
