# SPDX-License-Identifier: Apache-2.0
"""A device family and a hot-plug source that do exactly what a test tells them to."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

from appliance.errors import DeviceGone, DeviceRefused, NotThisFamily, SecretRefused
from appliance.hsm.drivers import Connection, Driver, Progress, UsbId
from appliance.hsm.hotplug import Event, Plugged, Rescan, Unplugged
from appliance.hsm.model import Attachment, Credential, HsmState, Probe, Secret

VENDOR = 0xF055
PRODUCT = 0x0001

PATIENCE = 30.0  # seconds; no wait of a test lasts longer

Hook = Callable[[], None]


def attachment(port: str = "1-1", address: int = 5, usb_serial: str = "A1", **other: int) -> Attachment:
    """The plug-in of a device of the fake family at a port."""
    return Attachment(
        sys_path=f"/sys/devices/usb1/{port}",
        bus=1,
        address=address,
        initialized=other.get("initialized", 1000 + address),
        vendor_id=other.get("vendor", VENDOR),
        product_id=PRODUCT,
        usb_serial=usb_serial,
    )


@dataclass
class FakeToken:
    """One device: what it holds, what it is told to do at each step, and the steps that it went through."""

    serial: str = "A1"
    state: HsmState = HsmState.INITIALIZED
    label: str = ""
    obstacle: str = ""
    alias: str = ""  # told once it is zeroized
    tries: int = 3
    secret: str = ""  # what it wants to be given before it resets itself; "" for nothing
    stranger: bool = False
    hooks: dict[str, Hook] = field(default_factory=dict)  # by the name of the step, or "step n" for its n-th time
    always: Hook = lambda: None
    steps: list[str] = field(default_factory=list)
    memory: Path | None = None  # outlives the process

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory.exists():
            self.state = HsmState(self.memory.read_text())

    def reach(self, step: str) -> None:
        """A step begins; the hook may raise, wait or kill."""
        self.steps.append(step)
        self.always()
        for name in (step, f"{step} {self.steps.count(step)}"):
            if name in self.hooks:
                self.hooks[name]()

    def become(self, state: HsmState) -> None:
        """Change what the device holds, for good."""
        self.state = state
        if self.memory is not None:
            self.memory.write_text(state)

    def fail(self, step: str, error: Exception) -> None:
        """Have a step raise."""

        def hook() -> None:
            raise error

        self.hooks[step] = hook

    @property
    def touched(self) -> bool:
        """Whether a destructive step was reached."""
        return not {"block", "terminate", "activate"}.isdisjoint(self.steps)


class FakeConnection(Connection):
    """An open connection to a `FakeToken`; its reset has the shape of the OpenPGP card's."""

    def __init__(self, token: FakeToken) -> None:
        self._token = token

    def probe(self) -> Probe:
        """What the token is; a terminated one cannot tell its serial number."""
        token = self._token
        token.reach("probe")
        if token.stranger:
            raise NotThisFamily("it is something else")
        return Probe(
            serial=None if token.state is HsmState.TERMINATED else token.serial,
            state=token.state,
            model="Fake",
            firmware="1.0",
            label=token.label,
            credential=Credential("SO PIN", "[0-9]{4}", "The SO PIN has 4 digits.", token.tries)
            if token.secret
            else None,
            obstacle=token.obstacle,
            details=(("Tries left", str(token.tries)),),
            alias=token.alias if token.state is HsmState.ZEROIZED else "",
            shortcomings=() if token.state is HsmState.ZEROIZED else ("there are keys",),
        )

    def factory_reset(self, progress: Progress, secret: Secret | None = None) -> None:
        """Block and terminate unless that was done, then activate."""
        token = self._token
        if token.secret and (secret is None or secret.text != token.secret):
            token.tries -= 1
            raise SecretRefused("the SO PIN is wrong", 0x6985)
        if token.state is not HsmState.TERMINATED:
            progress("blocking")
            token.reach("block")
            token.reach("terminate")
            token.become(HsmState.TERMINATED)
        progress("activating")
        token.reach("activate")
        token.become(HsmState.ZEROIZED)


class FakeDriver(Driver):
    """The family of the fake tokens, which it finds under their attachments."""

    family = "fake"
    title = "Fake token"
    usb_ids = (UsbId(VENDOR, PRODUCT, "Fake"),)

    def __init__(self) -> None:
        self.tokens: dict[Attachment, FakeToken] = {}

    def normalise(self, serial: str) -> str:
        """Blanks and case do not matter."""
        return serial.strip().upper()

    def serial_from_usb(self, attachment: Attachment) -> str:
        """USB tells it."""
        return self.normalise(attachment.usb_serial)

    @contextmanager
    def open(self, attachment: Attachment) -> Iterator[Connection]:
        """Open the token that is at exactly this attachment."""
        token = self.tokens.get(attachment)
        if token is None:
            raise DeviceGone("it was unplugged")
        token.reach("open")
        try:
            yield FakeConnection(token)
        finally:
            token.reach("close")


class RestartingDriver(FakeDriver):
    """The family of tokens that leave the bus in their reset; where one is then, is put into `back`."""

    restarts = True

    def __init__(self) -> None:
        super().__init__()
        self.back: Queue[Attachment] = Queue()

    def reopen(self, attachment: Attachment) -> AbstractContextManager[Connection]:
        """Wait for it."""
        return self.open(self.back.get(timeout=PATIENCE))


class OtherDriver(FakeDriver):
    """A second family that the same USB id nominates."""

    family = "other"
    title = "Other token"


class FakeSource:
    """A `HotplugSource` whose events a test sends by hand."""

    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver
        self._deliver: Callable[[Event], None] | None = None
        self.closed = False

    async def start(self, deliver: Callable[[Event], None]) -> None:
        """Deliver the first scan."""
        self._deliver = deliver
        self.rescan()

    def rescan(self) -> None:
        """Deliver all there is."""
        self.send(Rescan(tuple(self._driver.tokens)))

    def deaf(self) -> str:
        """It hears."""
        return ""

    def close(self) -> None:
        """Deliver nothing more."""
        self.closed = True

    def send(self, event: Event) -> None:
        """Deliver one event now."""
        if self._deliver is not None and not self.closed:
            self._deliver(event)

    def plug(self, place: Attachment, token: FakeToken | None = None) -> FakeToken:
        """Plug a token in."""
        token = token or FakeToken(place.usb_serial)
        self._driver.tokens[place] = token
        self.send(Plugged(place))
        return token

    def unplug(self, place: Attachment) -> None:
        """Pull a token out."""
        del self._driver.tokens[place]
        self.send(Unplugged(place.sys_path))


def refused() -> DeviceRefused:
    """What a driver raises when the device said no."""
    return DeviceRefused("conditions of use not satisfied", 0x6985)
