# SPDX-License-Identifier: Apache-2.0
"""What is plugged in and what comes and goes, as plain values; nothing of udev leaves this module."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from appliance.hsm.model import Attachment


@dataclass(frozen=True, slots=True)
class Plugged:
    """A device was plugged in, or something about it changed."""

    attachment: Attachment


@dataclass(frozen=True, slots=True)
class Unplugged:
    """Whatever was at this place is gone."""

    sys_path: str


@dataclass(frozen=True, slots=True)
class Rescan:
    """All there is now; what is missing from it is gone."""

    attachments: tuple[Attachment, ...]


Event = Plugged | Unplugged | Rescan


class HotplugSource(Protocol):
    """Where plug events come from."""

    async def start(self, deliver: Callable[[Event], None]) -> None:
        """Begin delivering, on the running loop. The first event is the `Rescan` of the first scan."""

    def rescan(self) -> None:
        """Have a `Rescan` delivered soon; may be called at any time."""

    def deaf(self) -> str:
        """Why plug events cannot be heard, one sentence; "" when they can."""

    def close(self) -> None:
        """Deliver nothing more."""
