# SPDX-License-Identifier: Apache-2.0
"""How many wrong logins the built-in HSM has seen in a row stands on disk before each of them is made.

So a power cut, a crash or a kill in the middle of one gives nobody a try for free. The count belongs to one HSM: what
was tried at another, or at this one before it was set up anew, is none of its.
"""

import json
from pathlib import Path

from appliance.errors import StateError
from appliance.files import sync_folder, write_atomically

LARGEST_FILE = 1 << 10  # bytes


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
