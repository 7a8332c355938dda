# SPDX-License-Identifier: Apache-2.0
"""An appliance to play with boots, says how to reach it, and runs until Ctrl-C: ``python -m tests.support.guest``."""

import shlex
import signal
import tempfile
from pathlib import Path

from tests.support.guest.appliance import UNIT
from tests.support.guest.image import image
from tests.support.guest.machine import Machine
from tests.support.guest.ssh import Ssh
from tests.support.guest.tokens import Tokens

SERIAL = "667788"
END = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Boot with a new disk and one token at hand; everything is gone afterwards."""
    signal.pthread_sigmask(signal.SIG_BLOCK, END)
    with tempfile.TemporaryDirectory(prefix="appliance-") as name:
        folder = Path(name)
        machine = Machine(image(), folder)
        root = Ssh(machine.ssh_port, machine.image.key, "root", folder)
        with Tokens(folder / "tokens", root) as tokens:
            tokens.make(SERIAL, keys=3)
            machine.power_on()
            shell = folder / "root"
            shell.write_text(f'#!/bin/sh\nexec {shlex.join(root.command())} "$@"\n')
            shell.chmod(0o755)
            print(
                f"The appliance boots (Ctrl-C ends it); the kernel's console is logged to {machine.console_log}\n\n"
                f"  terminal    socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:{machine.terminal}   (Ctrl-] leaves)\n"
                f"  root        {shell}\n"
                f"  plug in     {shell} {tokens.attach_command(SERIAL)}\n"
                f"  unplug      {shell} usbip detach --port 0\n"
                f"  journal     {shell} journalctl --follow --unit {UNIT}\n"
                f"  more tokens appliance-console token new new --serial N && mv new {folder / 'tokens'}/N.token;"
                " the bus ids count up from 1-2",
                flush=True,
            )
            signal.sigwait(END)
            root.hang_up()
            machine.power_off()


if __name__ == "__main__":
    main()
