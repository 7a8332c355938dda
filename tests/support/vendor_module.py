# SPDX-License-Identifier: Apache-2.0
"""SoftHSM, and a module like a Luna client's on top of it: compiled here, with one token and faults on demand."""

import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
SOURCE = Path(__file__).with_name("vendor_module.c")
SO_PIN, USER_PIN = "so-pin-4711", "user-pin-0815"
SERIAL = "0007550054"
BOUND = 20.0  # seconds to wait for anything
NEEDED = ("gcc", "softhsm2-util", "pkcs11-tool")

needs_softhsm = pytest.mark.skipif(
    not (SOFTHSM.exists() and all(map(shutil.which, NEEDED))), reason=f"not installed: SoftHSM 2, {', '.join(NEEDED)}"
)


@dataclass(frozen=True)
class VendorModule:
    """The module, what it is told, and the token that it shows."""

    library: Path
    folder: Path

    def tell(self, name: str, value: str = "") -> None:
        """What it shall do or be, as vendor_module.c has it."""
        (self.folder / name).write_text(value)

    def untell(self, name: str) -> None:
        """It shall not."""
        (self.folder / name).unlink()

    def calls(self, function: str) -> int:
        """How often a function was called."""
        try:
            return (self.folder / "calls").read_text().split("\n").count(function)
        except FileNotFoundError:
            return 0

    def reached(self, function: str) -> None:
        """Wait until the library is in a function."""
        self.until(lambda: self.calls(function) > 0)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the library, in its process, brings about."""
        deadline = time.monotonic() + BOUND
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail("the library does not do what was waited for")
            time.sleep(0.01)

    def keys(self) -> int:
        """How many keys SoftHSM's token holds, as somebody else's program sees it with the user's PIN."""
        return tool("--login", "--pin", USER_PIN, "--list-objects").count("Secret Key Object")


def tool(*arguments: str) -> str:
    """What pkcs11-tool says of SoftHSM's token, whether it is content or not."""
    command = ["pkcs11-tool", "--module", str(SOFTHSM), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # of this file
    return result.stdout + result.stderr


def children() -> list[str]:
    """The processes that this one has started, in whichever thread, and that are not gone."""
    found: list[str] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended since
            found += path.read_text().split()
    return sorted(found)


def compiled(folder: Path) -> Path:
    """The module as the compiler makes it."""
    library = folder / "vendor_module.so"
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", f'-DSOFTHSM="{SOFTHSM}"']
    subprocess.run([*command, "-o", library, SOURCE], check=True)  # noqa: S603  # the compiler, on a file of ours
    return library


def softhsm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have SoftHSM keep its tokens in the folder, one of them with a key in it."""
    tokens = folder / "tokens"
    tokens.mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
    pins = ["--so-pin", SO_PIN, "--pin", USER_PIN]
    command = ["softhsm2-util", "--init-token", "--free", "--label", "vault", *pins]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603  # of this file
    tool("--login", "--pin", USER_PIN, "--keygen", "--key-type", "AES:32", "--label", "kek")


def vendor_module(library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> VendorModule:
    """The module over a fresh SoftHSM."""
    softhsm(folder, monkeypatch)
    module = VendorModule(library, folder / "vendor")
    module.folder.mkdir()
    monkeypatch.setenv("VENDOR_MODULE", str(module.folder))
    module.tell("serial", SERIAL)
    module.tell("so-pin", SO_PIN)
    return module
