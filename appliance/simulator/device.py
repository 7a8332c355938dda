# SPDX-License-Identifier: Apache-2.0
"""One simulated USB device, from its plugging in to its unplugging: its family's card, alone or in a CCID reader.

Everything here blocks and is safe to call from any thread; a transfer that fails raises `OSError` with the errno with
which libusb would report it.
"""

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from appliance.simulator import descriptors
from appliance.simulator.ccid_reader import CardMute, CcidReader
from appliance.simulator.descriptors import Level
from appliance.simulator.families import Family
from appliance.simulator.faults import Fault, Misdeed, When
from appliance.simulator.iso7816 import Refused
from appliance.simulator.memory import Flash
from appliance.simulator.t1_card import T1Card
from appliance.simulator.token_file import FileGone, TokenFile
from appliance.simulator.vendor_interface import VendorInterface

_EXTENSION = 0.5  # seconds between the time extensions of a slow answer
_LONGEST_INCOMING = 1 << 17  # bytes kept of one message from the host
_RESTART = 0.2  # seconds from when a device that restarts leaves the bus to when it is back

# Called around each command with the file, the command's number since the plug-in, the command, and the side.
Observer = Callable[[Path, int, bytes, When], None]


class _Silence(Exception):
    """A command is not answered."""


class SimulatedDevice:
    """The device of one token file, plugged in. `flash` is None when the file is damaged: then the card is mute.

    `vanished` is called, from whatever thread, when the device leaves the bus by itself.
    """

    def __init__(
        self,
        file: TokenFile,
        family: Family,
        flash: Flash | None,
        usb_serial: str,
        vanished: Callable[["SimulatedDevice", float | None], None],
        observe: Observer | None = None,
    ) -> None:
        self.file = file
        self.looks = family.looks
        self.usb_serial = usb_serial
        self.holder: object | None = None  # who claimed the interface
        self.configuration = 1  # as the kernel chooses it when a device is plugged in
        self.on_unplug: Callable[[], None] | None = None  # called, from whatever thread, when it has left the bus
        self._vanished = vanished
        self._observe = observe
        self._card = family.card(flash, self._save) if flash else None
        self.level = flash.level if flash else family.level
        self._t1 = T1Card(self) if self.level is Level.TPDU else None
        self._interface = (
            VendorInterface(self)
            if self.level is Level.VENDOR
            else CcidReader(self._t1 or self, extended=self.level is Level.EXTENDED)
        )
        self._commands = 0
        self._changed = threading.Condition(threading.RLock())
        self._gone = self._hung = False
        self._halted: set[int] = set()  # endpoints
        self._incoming = b""
        self._outgoing: deque[tuple[float, bytes]] = deque()  # packets, and when each is ready
        self._delay = 0.0  # seconds that the answer in the making takes
        self._shortened: int | None = None  # bytes that arrive of it

    # The plug

    @property
    def gone(self) -> bool:
        """Whether it has left the bus, or its file is not where it was."""
        return self._gone or not self.file.in_place()

    def unplug(self) -> None:
        """It has left the bus: every transfer ends with ENODEV, also the ones under way."""
        with self._changed:
            self._gone = True
            self._interface.power_off()
            self._changed.notify_all()
            if self.on_unplug is not None:
                self.on_unplug()

    def _demand(self) -> None:
        if self.gone:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    # The interface

    def claim(self, holder: object, timeout: float = 0.0) -> None:
        """Hold the interface alone. EBUSY when another does, and still does after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.gone or self.holder in (None, holder), timeout)
            self._demand()
            busy = self._next_fault(lambda fault: fault.do is Misdeed.BUSY and fault.times != 0)
            if busy or self.holder not in (None, holder):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            self.holder = holder

    def release(self, holder: object) -> None:
        """Hold it no longer."""
        with self._changed:
            if self.holder is holder:
                self.holder = None
                self._changed.notify_all()
                self._restart_if_it_must()

    def reset(self) -> None:
        """A reset of the port: the card loses its power, and what was under way is lost."""
        with self._changed:
            self._demand()
            self._interface.power_off()
            self._hung = False
            self._halted.clear()
            self._incoming = b""
            self._outgoing.clear()

    def halt(self, endpoint: int) -> None:
        """SET_FEATURE(ENDPOINT_HALT) (USB 2.0, 9.4.9)."""
        with self._changed:
            self._demand()
            self._halted.add(endpoint)
            self._changed.notify_all()

    def clear_halt(self, endpoint: int) -> None:
        """CLEAR_FEATURE(ENDPOINT_HALT) (USB 2.0, 9.4.1)."""
        with self._changed:
            self._demand()
            self._halted.discard(endpoint)

    def halted(self, endpoint: int) -> bool:
        """Whether the endpoint answers every transfer with STALL."""
        return endpoint in self._halted

    def abort(self, sequence: int) -> None:
        """The class request ABORT (CCID 1.1, 5.3.1)."""
        with self._changed:
            self._demand()
            if isinstance(self._interface, CcidReader):
                self._interface.abort(sequence)

    # Bulk transfers

    def write(self, data: bytes) -> int:
        """One transfer to the device; a message is whole with its last byte, or with a short packet. EPIPE on a STALL.

        Of a message that is far longer than any that it understands, the device keeps the beginning.
        """
        with self._changed:
            self._demand()
            self._refuse_halted(descriptors.OUT)
            self._incoming = (self._incoming + data)[:_LONGEST_INCOMING]
            whole = self._interface.is_whole(self._incoming)
            if self._incoming and (whole or len(data) % descriptors.PACKET or not data):
                message, self._incoming = self._incoming, b""
                self._answer(message)
            return len(data)

    def read(self, size: int, timeout: float | None, cancelled: threading.Event | None = None) -> bytes:
        """One transfer from the device: up to a short packet, or `size` bytes; `timeout` in seconds, None for ever.

        ETIMEDOUT when nothing came, EPIPE on a STALL, EOVERFLOW when a packet does not fit in what is left of `size`,
        ECANCELED when nothing came before `cancel` was called with this event.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        data = b""
        with self._changed:
            while True:
                self._demand()
                self._refuse_halted(descriptors.IN)
                if cancelled is not None and cancelled.is_set():
                    if data:
                        return data
                    raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
                now = time.monotonic()
                ready = self._outgoing[0][0] if self._outgoing else None
                if ready is not None and ready <= now:
                    packet = self._outgoing.popleft()[1]
                    if len(data) + len(packet) > size:
                        raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
                    data += packet
                    if len(packet) < descriptors.PACKET or len(data) == size:
                        self._restart_if_it_must()
                        return data
                elif deadline is not None and deadline <= now:
                    if data:
                        return data
                    raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                else:
                    ends = [moment - now for moment in (deadline, ready) if moment is not None]
                    self._changed.wait(min(ends, default=None))

    def cancel(self, transfer: threading.Event) -> None:
        """End the `read` with this event, now or when it comes."""
        with self._changed:
            transfer.set()
            self._changed.notify_all()

    def _refuse_halted(self, endpoint: int) -> None:
        if endpoint in self._halted:
            raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))

    def _answer(self, message: bytes) -> None:
        self._delay, self._shortened = 0.0, None
        if self._hung:
            return
        try:
            answers = self._interface.handle(message)
        except _Silence:
            self._changed.notify_all()
            return
        now = time.monotonic()
        if self._delay:
            extensions = int(self._delay / _EXTENSION)
            for number in range(extensions):
                for extension in answers[:-1]:
                    self._send(extension, now + number * _EXTENSION)
        for answer in answers:
            self._send(answer[: self._shortened] if answer is answers[-1] else answer, now + self._delay)
        self._changed.notify_all()

    def _send(self, message: bytes, ready: float) -> None:
        """Cut into packets; one that is full at the end is followed by an empty one (USB 2.0, 5.8.3)."""
        for start in range(0, len(message) + 1, descriptors.PACKET):
            self._outgoing.append((ready, message[start : start + descriptors.PACKET]))

    def _restart_if_it_must(self) -> None:
        """Leave the bus and come back, once the answer is fetched, or nobody is there to fetch it."""
        if self._card is not None and self._card.restarts and not (self._outgoing and self.holder) and not self._gone:
            self.unplug()
            self._vanished(self, _RESTART)

    # The card, with its faults

    def power_on(self) -> bytes:
        """The answer to reset."""
        if self._card is None:
            raise CardMute
        try:
            return self._card.power_on()
        except Refused as refused:
            raise CardMute from refused

    def power_off(self) -> None:
        """Take the card's power away."""
        if self._card is not None:
            self._card.power_off()

    def transmit(self, apdu: bytes) -> bytes:
        """The card's response, or what the faults of the moment make of it."""
        if self._card is None:
            raise CardMute
        self._commands += 1
        number, name = self._commands, self._card.name_of(apdu)
        self._around(number, name, apdu, When.BEFORE)
        response = self._card.transmit(apdu)
        self._around(number, name, apdu, When.AFTER)
        return response

    def _around(self, number: int, name: str, apdu: bytes, when: When) -> None:
        if self._observe:
            self._observe(self.file.path, number, apdu, when)
        fault = self._next_fault(lambda fault: fault.when is when and fault.strikes(number, name))
        if fault is not None:
            self._misbehave(fault)

    def _misbehave(self, fault: Fault) -> None:
        if self._t1 is not None:
            self._t1.misbehave(fault)
        match fault.do:
            case Misdeed.HANG:
                self._hung = True
                raise _Silence
            case Misdeed.STALL:
                self._halted.add(descriptors.IN)
                raise _Silence
            case Misdeed.VANISH:
                self.unplug()
                self._vanished(self, fault.back)
                self._demand()
            case Misdeed.SHORT:
                self._shortened = fault.length
            case Misdeed.SLOW:
                self._delay = fault.seconds
            case Misdeed.SERIAL if self._card is not None:
                self._card.serial = fault.serial.upper()

    def _next_fault(self, wanted: Callable[[Fault], bool]) -> Fault | None:
        """The first fault that is due, counted down in the file if its number of times is limited."""
        if self._card is None:
            return None
        faults: tuple[Fault, ...] = self._card.memory.flash.faults
        for index, fault in enumerate(faults):
            if wanted(fault):
                if fault.times:
                    fewer = (*faults[:index], replace(fault, times=fault.times - 1), *faults[index + 1 :])
                    with suppress(Refused):  # a full disk: then the fault is due once more
                        self._card.memory.set_faults(fewer)
                return fault
        return None

    def _save(self, flash: Flash) -> None:
        """Make a change durable. A device whose file is gone has no power any more."""
        try:
            self.file.save(flash)
        except FileGone:
            self.unplug()
            self._demand()
