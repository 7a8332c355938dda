# SPDX-License-Identifier: Apache-2.0
"""A built-in HSM of which is said what it is and what becomes of what is asked."""

from dataclasses import dataclass, field

from appliance.errors import ApplianceError
from appliance.hsm.builtin import Person
from appliance.hsm.drivers import Progress
from appliance.hsm.model import BUILTIN, Device, HsmClass, HsmState, Outcome, Probe, Secret
from appliance.hsm.reset import Report


def builtin_device(state: HsmState = HsmState.INITIALIZED, obstacle: str = "", **changes: object) -> Device:
    """The HSM, in this state."""
    blank = state is HsmState.ZEROIZED
    probe = Probe(
        "builtin",
        state,
        "SoftHSM v2",
        "2.6",
        "" if blank else "vault",
        obstacle,
        shortcomings=() if blank else ("it is initialized",),
        told="none" if blank else "16ee9f728a964fdf",
    )
    values: dict[str, object] = {"probe": probe, **changes}
    return Device(BUILTIN, "builtin", HsmClass.BUILTIN, "builtin", **values)  # type: ignore[arg-type]  # a builder


@dataclass
class FakeBuiltin:
    """The part of `BuiltinHsm` that the shell uses."""

    known: Device | None = field(default_factory=builtin_device)
    left: int | ApplianceError = 3
    someone: bool = False  # is logged in
    elsewhere: bool = False  # but in another session
    renewed: Device | ApplianceError | None = None  # what it turns out to be when it is asked
    refreshed: int = 0
    first: bool = False  # whether the last time was to go before all others
    problem: ApplianceError | None = None  # what everything else raises, a logout aside
    report: Report = field(default_factory=lambda: Report(Outcome.DONE, "", "builtin"))
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def device(self) -> Device | None:
        return self.known

    async def refresh(self, *, first: bool = False) -> None:
        self.refreshed += 1
        self.first = first
        if isinstance(self.renewed, ApplianceError):
            raise self.renewed
        if self.renewed:
            self.known = self.renewed

    def logged_in(self, person: Person | None = None) -> bool:
        return self.someone and not (person and self.elsewhere)

    async def attempts_left(self) -> int:
        if isinstance(self.left, ApplianceError):
            raise self.left
        return self.left

    async def log_in(self, secret: Secret, person: Person, shown: int) -> None:
        self._ask("log in", secret.text, person.origin, str(shown))

    async def log_out(self, person: Person) -> bool:
        was, self.someone = self.someone, False
        if was:
            self.asked.append(("log out", person.origin))
        return was

    async def initialize(self, label: str, secret: Secret, person: Person, shown: int | None) -> Report:
        self._ask("initialize", label, secret.text, person.origin, str(shown))
        return self.report

    async def factory_reset(self, person: Person, progress: Progress) -> Report:
        self._ask("reset", person.actor, person.origin)
        return self.report

    def _ask(self, *what: str) -> None:
        self.asked.append(what)
        if self.problem:
            raise self.problem
