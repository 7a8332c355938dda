# SPDX-License-Identifier: Apache-2.0
"""The product's USB/IP server in a thread of its own, so that clients that block can be tried against it."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import cast

from appliance.hsm.model import Attachment
from appliance.simulator.device import SimulatedDevice
from appliance.simulator.pyusb_backend import SimulatedBackend
from appliance.simulator.usbip import UsbIpServer as Server

BOUND = 20.0  # seconds to wait for anything

Plugged = Callable[[], Iterable[tuple[Attachment, SimulatedDevice]]]


class UsbIpServer:
    """The server over what a simulated backend, or a function, says is plugged in."""

    def __init__(self, plugged: SimulatedBackend | Plugged) -> None:
        self._plugged = of_backend(plugged) if isinstance(plugged, SimulatedBackend) else plugged
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.address = ("", 0)

    @contextmanager
    def running(self) -> Iterator["UsbIpServer"]:
        """Serve until the block ends."""
        self._thread.start()
        assert self._ready.wait(BOUND)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(BOUND)
            assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = Server(self._plugged)
        self.address = await server.start("127.0.0.1", 0)
        self._ready.set()
        await self._stop.wait()
        await server.close()


def of_backend(backend: SimulatedBackend) -> Plugged:
    """What is plugged in there, as the server wants it."""

    def plugged() -> Iterator[tuple[Attachment, SimulatedDevice]]:
        for place in backend.enumerate_devices():
            device = cast(SimulatedDevice, place.device)
            ids = (device.looks.vendor_id, device.looks.product_id)
            yield Attachment("/devices/simulated/1", place.bus, place.address, 1, *ids, device.usb_serial), device

    return plugged
