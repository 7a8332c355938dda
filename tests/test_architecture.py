# SPDX-License-Identifier: Apache-2.0
"""The tree looks like docs/architecture.md: who imports whom, where a library lives, who makes an origin."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.architecture import (
    LONGEST,
    SPDX,
    Module,
    imports,
    made_origins,
    misplaced_libraries,
    too_long,
    untidy,
    wrong_direction,
)

ROOT = Path(__file__).resolve().parent.parent
MODULES = [Module.read(path, ROOT) for path in sorted((ROOT / "appliance").rglob("*.py"))]
TESTS = [Module.read(path, ROOT) for path in sorted((ROOT / "tests").rglob("*.py"))]
KNOWN = {module.name for module in MODULES}

# "Direction of imports" of docs/architecture.md. Left: a module, or a room with everything in it that has no line of
# its own. Right: what it may import of the project.
LEAVES = ("appliance.errors", "appliance.files", "appliance.log")
GROUND = (*LEAVES, "appliance.audit", "appliance.config", "appliance.systemd", "appliance.worker")
SESSION = ("appliance.shell.session", "appliance.shell.invocation")  # all that the console knows of the shell
CCID = tuple(f"appliance.hsm.{name}" for name in ("atr", "t1", "t1_block", "ccid_messages", "ccid_levels"))
DIRECTION: Mapping[str, tuple[str, ...]] = {
    "appliance": (),
    "appliance.__main__": ("appliance.cli",),
    "appliance.cli": ("appliance",),
    "appliance.demo": ("appliance",),  # the other composition root: the daemon over the simulator
    "appliance.daemon": (*GROUND, "appliance.console", "appliance.shell", "appliance.accounts", "appliance.hsm"),
    "appliance.console": (*GROUND, "appliance.console", "appliance.accounts", *SESSION),
    "appliance.shell": (*GROUND, "appliance.shell", "appliance.accounts", "appliance.hsm"),
    "appliance.accounts": (*GROUND, "appliance.accounts"),
    "appliance.ssh": (
        *LEAVES,
        "appliance.config",
        "appliance.programs",
        "appliance.ssh",
    ),  # sets up users for sshd; only cli calls it
    "appliance.hsm": (*GROUND, "appliance.hsm"),
    "appliance.hsm.model": (),
    "appliance.hsm.holder": (*LEAVES, "appliance.hsm.model"),
    "appliance.hsm.usb": (*LEAVES, "appliance.hsm.model", "appliance.hsm.holder"),
    "appliance.hsm.atr": LEAVES,
    "appliance.hsm.t1_block": LEAVES,
    "appliance.hsm.t1": (*LEAVES, "appliance.hsm.t1_block"),
    "appliance.hsm.ccid_messages": (*LEAVES, "appliance.hsm.usb"),
    "appliance.hsm.ccid_levels": (*LEAVES, *CCID),
    "appliance.hsm.ccid": (*LEAVES, "appliance.hsm.model", "appliance.hsm.usb", *CCID),
    "appliance.hsm.hotplug": (*LEAVES, "appliance.hsm.model", "appliance.worker"),
    "appliance.hsm.drivers": (
        *LEAVES,
        "appliance.hsm.model",
        "appliance.hsm.usb",
        "appliance.hsm.ccid",
        "appliance.hsm.pkcs11",
        "appliance.hsm.drivers",
        "appliance.config",
        "appliance.programs",
    ),
    "appliance.hsm.pkcs11": (*LEAVES, "appliance.hsm.model", "appliance.hsm.pkcs11"),
    "appliance.hsm.pkcs11.binding": (),  # the child process loads it, and nothing else that it need not
    "appliance.simulator": (*LEAVES, "appliance.simulator", "appliance.hsm", "appliance.worker"),
    "appliance.simulator.vendor_library": (*LEAVES, "appliance.programs", "appliance.simulator", "appliance.hsm"),
    "appliance.audit": (*LEAVES, "appliance.chain", "appliance.journald"),
    "appliance.chain": LEAVES,
    "appliance.config": (*LEAVES, "appliance.config_values"),
    "appliance.config_values": (),
    "appliance.systemd": LEAVES,
    "appliance.worker": LEAVES,
    "appliance.files": ("appliance.errors",),
    "appliance.programs": ("appliance.errors",),
    "appliance.log": ("appliance.errors", "appliance.journald"),
    "appliance.journald": (),
    "appliance.errors": (),
}

# Each foreign library lives in one module, so that a reviewer can name in advance where its effects are.
HOMES: Mapping[str, tuple[str, ...]] = {
    # Python's own, but what is called through it can take the process with it.
    "ctypes": ("appliance.hsm.pkcs11.binding", "appliance.simulator.inotify", "appliance.simulator.token_file"),
    "serial": ("appliance.console.line",),
    "pyudev": ("appliance.hsm.hotplug",),
    "usb": ("appliance.hsm.usb", "appliance.simulator.pyusb_backend"),
    "structlog": ("appliance.log",),
    "cryptography": (
        "appliance.simulator.ec_keys",
        "appliance.simulator.rsa_keys",
        "appliance.simulator.wrapped_keys",
        "appliance.simulator.yubihsm_channel",
    ),
    "yubihsm": ("appliance.hsm.drivers.yubihsm2",),
}

MAKERS = {"LOCAL_CONSOLE": "appliance.console.getty", "NETWORK": "appliance.console.door"}
JUDGES = {"appliance.shell.session"}


def each(modules: list[Module]) -> pytest.MarkDecorator:
    """One test for each module, named after it."""
    return pytest.mark.parametrize("module", modules, ids=lambda module: module.name)


@each(MODULES)
def test_imports_point_down_only(module: Module) -> None:
    """A module imports only what the table allows to its room."""
    assert wrong_direction(module, DIRECTION, KNOWN) == []


@each(MODULES)
def test_each_foreign_library_lives_in_its_module(module: Module) -> None:
    """A library that is not Python's own is imported in its home and nowhere else."""
    assert misplaced_libraries(module, HOMES, KNOWN) == []


@each(MODULES)
def test_only_its_door_makes_an_origin(module: Module) -> None:
    """The local console is what getty.py says, the network what door.py says; session.py judges, the rest cannot."""
    assert made_origins(module, MAKERS, JUDGES) == []


def test_the_doors_make_the_origins() -> None:
    """The rule above speaks of modules that exist and of members that they do use."""
    sources = {module.name: module.source for module in MODULES}

    assert all(f"Origin.{member}" in sources[maker] for member, maker in MAKERS.items())
    assert all("is Origin.LOCAL_CONSOLE" in sources[judge] for judge in JUDGES)


@each([*MODULES, *TESTS])
def test_every_file_is_tidy(module: Module) -> None:
    """Every file has the licence line and a first sentence."""
    assert untidy(module) == []


@each(MODULES)
def test_no_module_is_too_long(module: Module) -> None:
    """A module fits a reader's head."""
    assert too_long(module) == []


def test_every_home_exists() -> None:
    """The tables name no module that is gone."""
    named = {home for homes in HOMES.values() for home in homes} | DIRECTION.keys() | JUDGES | set(MAKERS.values())

    assert named - KNOWN == set()


# The checkers themselves: each must see what it is for.

TABLE = {"p": (), "p.low": (), "p.high": ("p.low", "p.high"), "p.high.part": ("p.low.one",)}
NAMES = {"p", "p.low", "p.low.one", "p.low.two", "p.high", "p.high.part", "p.high.other"}


@pytest.mark.parametrize(
    ("name", "source", "is_package", "expected"),
    [
        ("p.a", "import os, p.low.one", False, ["os", "p.low.one"]),
        ("p.a", "from p.low import one, thing", False, ["p.low.one", "p.low"]),
        ("p.high.part", "from . import other", False, ["p.high.other"]),
        ("p.high.part", "from ..low import one", False, ["p.low.one"]),
        ("p.high", "from . import part", True, ["p.high.part"]),
        ("p.a", "def f():\n    import p.low", False, ["p.low"]),
        ("p.a", "if TYPE_CHECKING:\n    import p.low", False, ["p.low"]),
    ],
)
def test_imports_are_found_in_every_form(name: str, source: str, is_package: bool, expected: list[str]) -> None:
    """Absolute, relative, inside a function, for types only: an import is an import."""
    assert [target for _, target in imports(Module(name, source, is_package), NAMES)] == expected


@pytest.mark.parametrize(
    ("name", "source", "allowed"),
    [
        ("p.high.other", "import p.low.two", True),
        ("p.high.other", "import p.high.part", True),
        ("p.high.other", "from p import __version__", True),
        ("p.high.other", "import json", True),
        ("p.high.part", "from p.low import one", True),
        ("p.high.part", "from p.low import two", False),
        ("p.high.part", "import p.high.other", False),
        ("p.low.one", "from p.high import part", False),
        ("p.low.one", "def late():\n    from p import high", False),
        ("p.stray", "", False),
    ],
)
def test_an_import_against_the_direction_is_seen(name: str, source: str, allowed: bool) -> None:
    """The most specific line of the table decides; a module without a line is refused."""
    assert (wrong_direction(Module(name, source), TABLE, NAMES) == []) is allowed


@pytest.mark.parametrize(
    ("name", "source", "allowed"),
    [
        ("p.port", "import serial", True),
        ("p.port", "import serial.tools", True),
        ("p.other", "import serial", False),
        ("p.other", "from serial.tools import list_ports", False),
        ("p.other", "def late():\n    import serial", False),
        ("p.other", "import requests", False),
        ("p.other", "import json, p.port", True),
        ("p.other", "import ctypes", False),
    ],
)
def test_a_library_outside_its_home_is_seen(name: str, source: str, allowed: bool) -> None:
    """A library is at home in its module only, and one that nobody named is at home nowhere."""
    assert (misplaced_libraries(Module(name, source), {"serial": ("p.port",), "ctypes": ()}, set()) == []) is allowed


@pytest.mark.parametrize(
    ("name", "source", "allowed"),
    [
        ("door", "origin = Origin.LOCAL_CONSOLE", True),
        ("judge", "if origin is Origin.LOCAL_CONSOLE: pass", True),
        ("judge", "if origin is not session.Origin.LOCAL_CONSOLE: pass", True),
        ("judge", "class Origin(Enum):\n    LOCAL_CONSOLE = 'local console'", True),
        ("other", "def f(origin: Origin, make: Callable[[Origin], None]) -> Origin: ...", True),
        ("other", "from session import Origin", True),
        ("judge", "origin = Origin.LOCAL_CONSOLE", False),
        ("judge", "if origin == Origin.LOCAL_CONSOLE: pass", False),
        ("judge", "if origin is not None and f(Origin.LOCAL_CONSOLE): pass", False),
        ("other", "if origin is Origin.LOCAL_CONSOLE: pass", False),
        ("other", "run(Origin.LOCAL_CONSOLE)", False),
        ("other", "run(session.Origin.LOCAL_CONSOLE)", False),
        ("other", "origin = Origin('local console')", False),
        ("other", "origin = session.Origin('local console')", False),
        ("other", "origin = Origin['LOCAL' + '_CONSOLE']", False),
        ("other", "origin = getattr(Origin, word)", False),
        ("other", "origin = getattr(x, 'LOCAL_CONSOLE')", False),
        ("other", "origin, *_ = [o for o in Origin]", False),
        ("other", "for origin in Origin: pass", False),
        ("other", "both = [*Origin]", False),
        ("other", "O = Origin", False),
        ("other", "from session import Origin as O", False),
    ],
)
def test_an_origin_made_elsewhere_is_seen(name: str, source: str, allowed: bool) -> None:
    """Whatever makes the local console of something else is refused outside its door."""
    assert (made_origins(Module(name, source), {"LOCAL_CONSOLE": "door"}, {"judge"}) == []) is allowed


@pytest.mark.parametrize(
    ("source", "is_package", "tidy"),
    [
        (f'{SPDX}"""It holds."""\n', False, True),
        (f'{SPDX}"""It holds.\n\nMore of it\n"""\n', False, True),
        (SPDX, True, True),
        (SPDX, False, False),
        (f"{SPDX}value = 1\n", True, False),
        (f'{SPDX}"""A title"""\n', False, False),
        ('"""It holds."""\n', False, False),
    ],
)
def test_an_untidy_file_is_seen(source: str, is_package: bool, tidy: bool) -> None:
    """A missing licence line and a missing sentence are each refused."""
    assert (untidy(Module("p.file", source, is_package)) == []) is tidy


@pytest.mark.parametrize(("lines", "fits"), [(LONGEST, True), (LONGEST + 1, False)])
def test_a_long_module_is_seen(lines: int, fits: bool) -> None:
    """One line too many is too many."""
    assert (too_long(Module("p.file", "\n" * lines)) == []) is fits
