# SPDX-License-Identifier: Apache-2.0
"""How many wrong logins the built-in HSM has seen in a row stands on disk before each of them is made.

So a power cut, a crash or a kill in the middle of one gives nobody a try for free.
"""

import json
from pathlib import Path

from appliance.errors import StateError
from appliance.files import write_atomically

LARGEST_FILE = 1 << 10  # bytes


class Attempts:
    """The failed logins in the file `path`. Every method blocks, and raises `StateError`."""

    most = 3  # of the vendor's HSMs, and not adjustable

    def __init__(self, path: Path) -> None:
        self._path = path

    def left(self) -> int:
        """How many wrong logins it takes until the HSM is zeroized; 0: it is due.

        A file that cannot be believed is an error, and neither a fresh start nor a reason to destroy anything.
        """
        try:
            with self._path.open("rb") as file:
                match json.loads(file.read(LARGEST_FILE)):
                    case {"failed": int(failed), **rest} if 0 <= failed <= self.most and not rest:
                        return self.most - failed
        except FileNotFoundError:
            return self.most
        except OSError as error:
            raise StateError(self._path, f"cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError):
            pass
        raise StateError(self._path, "is damaged")

    def spend(self) -> None:
        """One less, durable on return."""
        left = self.left()
        if not left:
            raise StateError(self._path, "no attempt is left")
        self.set(left - 1)

    def set(self, left: int) -> None:
        """So many are left, durable on return."""
        write_atomically(self._path, json.dumps({"failed": self.most - left}).encode() + b"\n", 0o600)
