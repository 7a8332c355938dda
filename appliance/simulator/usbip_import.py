# SPDX-License-Identifier: Apache-2.0
"""One imported device serves the transfers of one client, until the client leaves or the device is unplugged.

Each endpoint works off its transfers in their order, one at a time, in a thread: a device that hangs holds up no other
device and no other endpoint, and uses three threads at most.
"""

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from appliance.errors import DeviceError
from appliance.simulator import descriptors
from appliance.simulator import usbip_protocol as protocol
from appliance.simulator.control_endpoint import control
from appliance.simulator.device import SimulatedDevice
from appliance.simulator.usbip_protocol import Export, Malformed, Result, Submit, Unlink
from appliance.worker import in_thread

MOST_PENDING: Final = 256  # transfers of one client that wait

_BUSY_TIMEOUT = 2.0  # seconds to wait for a device whose last user may just be letting go of it
_GRACE = 1.0  # seconds for the last answers of a device that is gone
_NO_THREAD = 0.1  # seconds until it is tried again to begin one
_CONTROL = 0x00  # endpoint 0, in both directions


@dataclass(slots=True)
class _Transfer:
    """A transfer that is not answered yet."""

    submit: Submit
    data: bytes
    running: bool = False
    unlink: int | None = None  # the number of the command that takes it back
    cancelled: threading.Event = field(default_factory=threading.Event)


class Import:
    """One client's hold of one device. `claim` comes first, then `serve`, which ends with letting go."""

    def __init__(
        self,
        export: Export,
        device: SimulatedDevice,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._export = export
        self._device = device
        self._reader = reader
        self._writer = writer
        self._gone = asyncio.Event()
        self._pending: dict[int, _Transfer] = {}  # by the number of the command
        self._cancelling: set[asyncio.Task[None]] = set()
        self._queues: dict[int, asyncio.Queue[_Transfer | None]] = {
            endpoint: asyncio.Queue() for endpoint in (_CONTROL, descriptors.OUT, descriptors.IN)
        }

    async def claim(self) -> None:
        """Take the device, as it is after a reset. Raises `OSError`: ENODEV; EBUSY when another has and keeps it."""
        loop = asyncio.get_running_loop()

        def unplugged() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._gone.set)

        def claim() -> None:
            self._device.claim(self, _BUSY_TIMEOUT)
            self._device.on_unplug = unplugged
            if self._device.gone:
                unplugged()
            with suppress(OSError):  # of a device that is gone
                self._device.reset()

        await in_thread(claim, f"usbip {self._export.bus_id}")

    async def serve(self) -> None:
        """Answer commands. Raises `Malformed` for what is none, and what a stream raises when the client leaves."""
        workers = [asyncio.create_task(self._work(queue)) for queue in self._queues.values()]
        listening = asyncio.create_task(self._listen())
        unplugged = asyncio.create_task(self._gone.wait())
        await asyncio.wait((listening, unplugged), return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        unplugged.cancel()
        if not self._gone.is_set():
            self._drop_all()
        for queue in self._queues.values():
            queue.put_nowait(None)
        await asyncio.wait(workers, timeout=_GRACE)
        self._pending.clear()
        self._writer.close()  # which is the unplugging for the client
        await asyncio.gather(*workers)  # nothing of this client may reach the device after the next one has it
        await self._to_the_end(self._let_go)
        (end,) = await asyncio.gather(listening, return_exceptions=True)
        if isinstance(end, Exception):
            raise end

    def _let_go(self) -> None:
        self._device.on_unplug = None
        with suppress(OSError):  # of a device that is gone
            self._device.reset()
        self._device.configuration = 1
        self._device.release(self)

    # Commands

    async def _listen(self) -> None:
        while True:
            command = protocol.command(await self._reader.readexactly(protocol.COMMAND.size))
            if command.device != self._export.number:
                raise Malformed(f"a command for device {command.device:08x}")
            match command:
                case Submit():
                    data = b"" if command.inbound else await self._reader.readexactly(command.length)
                    self._submit(command, data)
                case Unlink():
                    self._unlink(command)
            await self._writer.drain()

    def _submit(self, submit: Submit, data: bytes) -> None:
        if submit.number in self._pending:
            raise Malformed(f"a second transfer with the number {submit.number}")
        queue = self._queues.get(submit.endpoint if submit.endpoint & 0x7F else _CONTROL)
        if queue is None:
            self._answer(submit, Result(-errno.ENOENT))
        elif len(self._pending) >= MOST_PENDING:
            self._answer(submit, Result(-errno.ENOMEM))
        else:
            transfer = _Transfer(submit, data)
            self._pending[submit.number] = transfer
            queue.put_nowait(transfer)

    def _unlink(self, unlink: Unlink) -> None:
        transfer = self._pending.get(unlink.target)
        if transfer is None or transfer.unlink is not None:
            self._writer.write(protocol.unlinked(unlink.number, 0))
        elif transfer.running:
            transfer.unlink = unlink.number
            self._cancel(transfer)
        else:
            del self._pending[unlink.target]
            self._writer.write(protocol.unlinked(unlink.number, -errno.ECONNRESET))

    def _cancel(self, transfer: _Transfer) -> None:
        """In a thread, because the device may be working."""
        task = asyncio.create_task(self._to_the_end(partial(self._device.cancel, transfer.cancelled)))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _to_the_end(self, call: Callable[[], None]) -> None:
        """Have what must be done with the device done, as soon as the system has a thread for it."""
        while True:
            with suppress(DeviceError):
                return await in_thread(call, f"usbip {self._export.bus_id}")
            await asyncio.sleep(_NO_THREAD)

    def _drop_all(self) -> None:
        for transfer in self._pending.values():
            if transfer.running:
                self._cancel(transfer)
        self._pending.clear()

    def _answer(self, submit: Submit, result: Result) -> None:
        self._writer.write(protocol.submitted(submit.number, result))

    # Transfers

    async def _work(self, queue: asyncio.Queue[_Transfer | None]) -> None:
        """Work off one endpoint's transfers; those that were taken back while they waited are pending no more."""
        while (transfer := await queue.get()) is not None:
            if self._pending.get(transfer.submit.number) is transfer:
                await self._carry_out(transfer)

    async def _carry_out(self, transfer: _Transfer) -> None:
        transfer.running = True
        try:
            result = await in_thread(partial(self._transfer, transfer), f"usbip {self._export.bus_id}")
        except OSError as error:
            result = Result(-(error.errno or errno.EIO))
        except DeviceError:  # no thread to be had
            result = Result(-errno.ENOMEM)
        if self._pending.pop(transfer.submit.number, None) is None:
            return  # nobody waits for it
        if transfer.unlink is None:
            self._answer(transfer.submit, result)
        elif result.status == -errno.ECANCELED:
            self._writer.write(protocol.unlinked(transfer.unlink, -errno.ECONNRESET))
        else:
            self._answer(transfer.submit, result)
            self._writer.write(protocol.unlinked(transfer.unlink, 0))

    def _transfer(self, transfer: _Transfer) -> Result:
        submit = transfer.submit
        match submit.endpoint:
            case descriptors.OUT:
                return self._write(submit, transfer.data)
            case descriptors.IN:
                return _received(submit, self._device.read(submit.length, None, transfer.cancelled))
            case _:
                return self._control(submit)

    def _write(self, submit: Submit, data: bytes) -> Result:
        self._device.write(data)
        if submit.zero_packet and data and len(data) % descriptors.PACKET == 0:
            self._device.write(b"")
        return Result(0, len(data))

    def _control(self, submit: Submit) -> Result:
        """One control transfer; of those to the device, none that is known has data."""
        if self._device.gone:
            return Result(-errno.ENODEV)
        setup = submit.setup
        if setup.length and not (setup.inbound and submit.inbound):
            return Result(-errno.EPIPE)
        answer = control(self._device, setup.kind, setup.request, setup.value, setup.index)
        if answer is None:
            return Result(-errno.EPIPE)
        return _received(submit, answer[: min(setup.length, submit.length)])


def _received(submit: Submit, data: bytes) -> Result:
    short = submit.short_not_ok and len(data) < submit.length
    return Result(-errno.EREMOTEIO if short else 0, len(data), data)
