# SPDX-License-Identifier: Apache-2.0
"""The PKCS#11 libraries of simulated devices, for the demonstration: compiled when such a device is first asked for."""

import shutil
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from appliance.errors import StateError
from appliance.hsm.usb import UsbBus
from appliance.log import get_logger
from appliance.programs import NotDone, run
from appliance.simulator.families import LUNA, PKCS11, Family
from appliance.simulator.vendor_driver import VendorDriver

SOURCES = sorted(Path(__file__).with_name("pkcs11_module").glob("*.c"))
COMPILER = "cc"
HINT = f"no '{COMPILER}' is installed (Debian packages gcc and libc6-dev)"
FAMILIES = (LUNA, PKCS11)

_log = get_logger(__name__)


def compiler() -> str | None:
    """The C compiler of this machine, which makes the libraries; None when it has none."""
    return shutil.which(COMPILER)


def library(folder: Path, family: Family) -> Path:
    """Where the library of a family is, once it is compiled; its driver listens beside it."""
    return folder / f"{family.name}.so"


def socket(folder: Path, family: Family) -> Path:
    """Where that is."""
    return library(folder, family).with_suffix(".sock")


def compile_library(program: str, path: Path) -> None:
    """Make the library of any of the families: which it is of is said by its name alone. Raises `NotDone`."""
    run(program, "-shared", "-fPIC", "-fvisibility=hidden", "-o", str(path), *map(str, SOURCES))


class BusWithLibraries(UsbBus):
    """A bus on which devices of these families are not looked for before their libraries are compiled."""

    def __init__(self, backend: object, folder: Path) -> None:
        super().__init__(backend)
        self._folder = folder
        self._compiling = threading.Lock()
        self._tried = False

    def addresses(
        self, usb_ids: Collection[tuple[int, int]], interface_class: int | None = None
    ) -> frozenset[tuple[int, int]]:
        """As `UsbBus` has it."""
        if any(_usb_id(family) in usb_ids for family in FAMILIES):
            self._compile()
        return super().addresses(usb_ids, interface_class)

    def _compile(self) -> None:
        with self._compiling:
            program, self._tried, tried = compiler(), True, self._tried
            if program is None or tried:
                return
            try:
                self._make(program)
            except (NotDone, OSError) as problem:
                _log.warning("library of simulated tokens not compiled", reason=str(problem))

    def _make(self, program: str) -> None:
        """One for all, in a moment: whoever asks for devices waits, and a list of tokens waits for him but shortly."""
        made = self._folder / "library.new"
        compile_library(program, made)
        for family in FAMILIES:
            path = library(self._folder, family)
            path.unlink(missing_ok=True)  # an old one may be at work in some process
            shutil.copy(made, path)
        made.unlink()


@contextmanager
def drivers(backend: object, folder: Path) -> Iterator[Mapping[Family, Path]]:
    """Serve the libraries in `folder` with the devices that the backend reaches; the library of each family served."""
    served: dict[Family, Path] = {}
    if compiler() is None:
        _log.warning("no C compiler for the libraries of simulated tokens", hint=HINT)
        yield served
        return
    with ExitStack() as stack:
        for family in FAMILIES:
            try:
                stack.enter_context(VendorDriver(UsbBus(backend), family, socket(folder, family)))
            except StateError as problem:
                _log.warning("simulated tokens cannot be reached", family=family.name, reason=str(problem))
                continue
            served[family] = library(folder, family)
        yield served


def _usb_id(family: Family) -> tuple[int, int]:
    return family.looks.vendor_id, family.looks.product_id
