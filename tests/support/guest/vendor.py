# SPDX-License-Identifier: Apache-2.0
"""The vendor's client on the appliance: PKCS#11 libraries and a driver, given to the console as README says."""

import base64
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from appliance.simulator.families import LUNA, PKCS11, Family
from appliance.simulator.vendor_library import FAMILIES, compile_library, compiler, library
from tests.support.guest.appliance import Appliance
from tests.support.guest.ssh import Ssh

FOLDER = Path("/opt/vendor")  # over there
GROUP = "hsmusers"
DRIVER = "vendor-driver.service"
_PROGRAM = Path(__file__).with_name("vendor_driver.py")
_START = ("systemd-run", "--quiet", "--collect", "--service-type=notify", f"--unit={DRIVER}", "--")


def why_not() -> str:
    """Why there can be no libraries; "" when there can."""
    return "" if compiler() else "not installed: cc"


@contextmanager
def client(appliance: Appliance, scratch: Path) -> Iterator[None]:
    """Have the client installed, its driver running, and the console with both; `scratch` is a folder for compiling."""
    root = appliance.root
    with ExitStack() as undo:
        undo.callback(_uninstall, root)
        _install(root, scratch / "library.so")
        group = undo.enter_context(ExitStack())
        group.enter_context(appliance.service_settings(f"SupplementaryGroups={GROUP}"))
        with appliance.configuration("hsm.luna", *_settings(LUNA), "[[hsm.pkcs11]]", *_settings(PKCS11)):
            yield
            group.close()  # the restart that follows is for both


def _settings(family: Family) -> tuple[str, str]:
    return f'usb_ids = ["{_usb_id(family)}"]', f'library = "{library(FOLDER, family)}"'


def _usb_id(family: Family) -> str:
    """As lsusb shows it."""
    return f"{family.looks.vendor_id:04x}:{family.looks.product_id:04x}"


def _install(root: Ssh, compiled: Path) -> None:
    """Compiled here: it is the same Debian over there."""
    program = compiler()
    assert program
    compile_library(program, compiled)
    paths = [str(library(FOLDER, family)) for family in FAMILIES]
    root.run(
        f"groupadd --system {GROUP} && mkdir {FOLDER} && base64 --decode | tee {shlex.join(paths)} >/dev/null",
        text=base64.b64encode(compiled.read_bytes()).decode(),
    )
    driver = f"{FOLDER}/driver.py"
    start = shlex.join([*_START, "python3", driver, str(FOLDER), GROUP])
    root.run(f"cat >{driver} && {start}", text=_PROGRAM.read_text())


def _uninstall(root: Ssh) -> None:
    """However far the installation came."""
    root.run(f"systemctl stop {DRIVER}; rm -rf {FOLDER}; groupdel {GROUP}")
