# SPDX-License-Identifier: Apache-2.0
"""One attempt to log in to the built-in HSM: how many were wrong in a row stands on disk before each of them is made.

So a power cut, a crash or a kill in the middle of one gives nobody a try for free. The count belongs to one HSM: what
was tried at another, or at this one before it was set up anew, is none of its.
"""

import json
from collections.abc import Callable
from pathlib import Path

from appliance.errors import DeviceError, DeviceRefused, SecretRefused, StateError
from appliance.files import sync_folder, write_atomically
from appliance.hsm.drivers import Connection
from appliance.hsm.model import HsmState, Probe
from appliance.log import get_logger

_log = get_logger(__name__)

LARGEST_FILE = 1 << 10  # bytes
CHANGED = "it is not what it was any more"


class NoAttemptLeft(DeviceError):
    """No password is tried any more. Only a person's reset helps: that the last ones were wrong nobody has said."""

    def __init__(self) -> None:
        super().__init__("no login attempt is left; 'hsm factoryReset' resets it")


class AttemptsDropped(DeviceError):
    """Fewer attempts are left than the person was shown; the password was not tried."""

    def __init__(self) -> None:
        super().__init__("another login has failed meanwhile")


class Attempts:
    """The failed logins in the file `path`. Every method blocks, and raises `StateError`.

    `hsm` is what tells one HSM from another.
    """

    most = 3  # of the vendor's HSMs, and not adjustable

    def __init__(self, path: Path) -> None:
        self._path = path

    def left(self, hsm: str) -> int:
        """How many wrong logins it takes until no other is taken.

        A file that cannot be believed is an error, and neither a fresh start nor a reason to destroy anything.
        """
        try:
            with self._path.open("rb") as file:
                match json.loads(file.read(LARGEST_FILE)):
                    case {"hsm": str(counted), "failed": int(failed), **rest} if 0 <= failed <= self.most and not rest:
                        return self.most - failed if counted == hsm else self.most
        except FileNotFoundError:
            return self.most
        except OSError as error:
            raise StateError(self._path, f"cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError):
            pass
        raise StateError(self._path, "is damaged")

    def spend(self, hsm: str) -> None:
        """One less, durable on return."""
        left = self.left(hsm)
        if not left:
            raise StateError(self._path, "no attempt is left")
        self.set(hsm, left - 1)

    def set(self, hsm: str, left: int) -> None:
        """So many are left, durable on return."""
        write_atomically(self._path, json.dumps({"hsm": hsm, "failed": self.most - left}).encode() + b"\n", 0o600)

    def forget(self) -> None:
        """Nothing has been tried: the HSM is blank, and whoever sets it up begins anew."""
        try:
            self._path.unlink(missing_ok=True)
            sync_folder(self._path.parent)
        except OSError as error:
            raise StateError(self._path, f"cannot be removed: {error.strerror or error}") from error


class Attempt:
    """One password that is given to the HSM by a person who knows of `shown` attempts."""

    def __init__(self, attempts: Attempts, shown: int) -> None:
        self._attempts = attempts
        self._shown = shown
        self.last = False  # it was made, and no other is left when it was wrong

    def make(
        self, connection: Connection, begin: Callable[[], None], call: Callable[[Callable[[], None]], None]
    ) -> None:
        """Let `call` give the password; it spends an attempt, which a right one gives back.

        So does a clear answer that says nothing of the password. Blocks. Raises `NoAttemptLeft` and `AttemptsDropped`,
        and then the password was not tried; `SecretRefused`, or whatever else it comes to, such as a time-out: then
        nobody knows, and the attempt is spent.
        """
        probe = connection.probe()
        if probe.state is HsmState.ZEROIZED:
            raise DeviceError(CHANGED)
        remaining = left(self._attempts, probe)
        hsm = _name(probe)
        counted = self._attempts.left(hsm)
        if not remaining:
            raise NoAttemptLeft
        if remaining < self._shown:
            raise AttemptsDropped

        def before() -> None:
            begin()
            self._attempts.spend(hsm)
            self.last = remaining == 1

        try:
            call(before)
        except SecretRefused:
            raise
        except DeviceRefused:
            self._give_back(hsm, counted)
            raise
        self._give_back(hsm, self._attempts.most)

    def _give_back(self, hsm: str, number: int) -> None:
        try:
            self._attempts.set(hsm, number)
        except StateError as problem:  # it has been spent, then, which only makes them fewer
            _log.error("attempt could not be given back", reason=str(problem))


def left(attempts: Attempts, probe: Probe) -> int:
    """How many attempts there are at the HSM that said this of itself. Blocks; raises `StateError`."""
    return min(attempts.left(_name(probe)), 1 if probe.final_try else attempts.most)


def _name(probe: Probe) -> str:
    """What tells one HSM from another; a token of SoftHSM's has no number of its own but the one it tells."""
    return f"{probe.serial} {probe.told}".strip()
