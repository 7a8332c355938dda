# SPDX-License-Identifier: Apache-2.0
"""The appliance as hardware: QEMU without KVM, two serial ports, a network card, and the power switch."""

import json
import shutil
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.guest.image import CONSOLE, Image

BOUND = 600.0  # seconds; for a start of the machine on a host that is busy

# `max` breaks mount namespaces in the guest under software emulation.
_CPU = "Nehalem"
# Debian's libccid lets card readers fall asleep after two seconds, and vhci_hcd cannot wake up several of them: it has
# one timer for all its ports, and the device that loses is enumerated anew.
_AWAKE = "usbcore.autosuspend=-1"
_COMMAND_LINE = f"root=/dev/vda rw quiet console={CONSOLE} systemd.show_status=yes {_AWAKE}"


@dataclass(slots=True)
class Machine:
    """One appliance. What was written to its disk stays when the power fails; `folder` holds the disk and the logs."""

    image: Image
    folder: Path
    ssh_port: int = field(default_factory=lambda: _free_port())
    _qemu: subprocess.Popen[bytes] | None = None

    @property
    def terminal(self) -> Path:
        """The Unix socket at the other end of the terminal's cable."""
        return self.folder / "terminal"

    @property
    def console_log(self) -> Path:
        """What the kernel and systemd said on their own port, over all starts."""
        return self.folder / "console.log"

    @property
    def _qemu_log(self) -> Path:
        return self.folder / "qemu.log"

    def power_on(self) -> None:
        """Begin to start; the disk is as it was left."""
        disk = self.folder / "disk.qcow2"
        if not disk.exists():
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(self.image.disk), "-F", "raw", str(disk)]
            subprocess.run(command, check=True, timeout=BOUND)  # noqa: S603  QEMU's own program on our files
        with self._qemu_log.open("ab") as log:
            self._qemu = subprocess.Popen(  # noqa: S603  the same
                self._command(disk), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._listening()

    def power_off(self) -> None:
        """The power fails, now: nothing is told to the guest, nothing that it did not flush needs to be on the disk."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait(BOUND)
            self._qemu = None

    @property
    def running(self) -> bool:
        """Whether it has power and has not turned itself off."""
        return self._qemu is not None and self._qemu.poll() is None

    def keep_logs(self, folder: Path) -> None:
        """Put what it said on the kernel's console, and what QEMU said, into this folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for log in (self.console_log, self._qemu_log):
            if log.exists():
                shutil.copy(log, folder)

    def send_break(self) -> None:
        """A BREAK on the terminal's line. A character that is on its way in the same instant may be lost."""
        self._qmp("chardev-send-break", id="terminal")

    def _command(self, disk: Path) -> list[str]:
        image = self.image
        return [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-accel", "tcg,thread=multi", "-cpu", _CPU, "-smp", "2", "-m", "1024"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", _COMMAND_LINE),
            *("-drive", f"file={disk},if=virtio,format=qcow2"),
            *("-chardev", f"file,id=console,path={self.console_log},append=on", "-serial", "chardev:console"),
            *("-chardev", f"socket,id=terminal,path={self.terminal},server=on,wait=off"),
            *("-serial", "chardev:terminal", "-qmp", f"unix:{self.folder / 'qmp'},server=on,wait=off"),
            # The guest reaches the loopback address of this machine as 10.0.2.2, and nothing else that matters.
            *("-netdev", f"user,id=network,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"),
            *("-device", "virtio-net-pci,netdev=network"),
        ]

    def _listening(self) -> None:
        """QEMU has made its sockets; the first answer over QMP says so."""
        assert self._qemu is not None
        while self._qemu.poll() is None:
            with suppress(FileNotFoundError, ConnectionRefusedError):
                self._qmp("query-status")
                return
            with suppress(subprocess.TimeoutExpired):
                self._qemu.wait(0.05)
        raise AssertionError(self._qemu_log.read_text())

    def _qmp(self, command: str, **arguments: str) -> Any:
        """One command of the QEMU Machine Protocol, and what it returned."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(BOUND)
            connection.connect(str(self.folder / "qmp"))
            with connection.makefile("rw", encoding="utf-8") as stream:
                for message in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                    stream.write(json.dumps(message))
                    stream.flush()
                    while "return" not in (answer := json.loads(stream.readline())):
                        assert "error" not in answer, answer
        return answer["return"]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
