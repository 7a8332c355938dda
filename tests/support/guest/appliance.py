# SPDX-License-Identifier: Apache-2.0
"""The appliance as the people around it have it: the terminal, the network, the USB sockets and the power switch."""

import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.support.guest.image import TERMINAL, Image
from tests.support.guest.machine import BOUND, Machine
from tests.support.guest.ssh import CommandFailed, Ssh
from tests.support.guest.tokens import Tokens
from tests.support.person import PROMPT, Person

UNIT = f"appliance-console@{TERMINAL}.service"
STATE = "/var/lib/appliance"
CONFIG = "/etc/appliance/console.toml"
JOURNAL = "journalctl --sync; journalctl --boot --no-pager"  # with what is on its way there
LOGIN = r"\[appliance\] ttyS1 login: $"
_PLUGS = ("plug", "present", "unplug")
_PAUSE = 0.05  # seconds between two looks; what is waited for may need this process, which has the tokens
_EVIDENCE_BOUND = 90.0  # seconds for each piece of it; the appliance may be what has failed

T = TypeVar("T")


class Appliance:
    """One appliance from its first start to the last; it is started again where a test turns it off."""

    def __init__(self, image: Image, folder: Path) -> None:
        self.machine = Machine(image, folder)
        self.root = Ssh(self.machine.ssh_port, image.key, "root", folder)
        self.tokens = Tokens(folder / "tokens", self.root)
        self.first_login = ""  # what was shown
        self.greeting = ""  # the same at the last login
        self._folder = folder
        self._line: socket.socket | None = None
        self._logged_in = False

    def __enter__(self) -> Self:
        with ExitStack() as undo:  # should it not come up
            undo.callback(self.power_off)
            undo.enter_context(self.tokens)
            self.power_on()
            self.first_login = self.log_in_first()
            self.root.run("udevadm settle")
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tokens.__exit__(kind, error, trace)
        self.power_off()

    # The power

    def power_on(self) -> None:
        """Start it, with a terminal at the end of the line; return when it can be reached over the network."""
        self.machine.power_on()
        self.connect_terminal()
        self.person.sees(LOGIN, BOUND)
        self.until(lambda: not self.root.attempt("true").returncode)

    def power_off(self) -> None:
        """Pull the plug."""
        self.root.hang_up()
        self.machine.power_off()
        self._unplug_terminal()
        self._logged_in = False

    # The terminal

    def connect_terminal(self) -> None:
        """Put a terminal at the end of the line, in the place of the one that is there."""
        self._unplug_terminal()
        line = self._line = socket.socket(socket.AF_UNIX)
        line.connect(str(self.machine.terminal))
        self.person = Person(line.fileno(), BOUND)

    def _unplug_terminal(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def log_in(self) -> Person:
        """Have somebody at the prompt, who logs in if nobody has."""
        if self._logged_in:
            self.person.type("\r")
            if re.search(LOGIN, self.person.read_until(f"{PROMPT}|{LOGIN}")):  # nothing was typed for too long
                self.person.type("\r")
                self._logged_in = False
        if not self._logged_in:
            self.greeting = self.person.log_in()
            self._logged_in = True
        return self.person

    def log_in_first(self) -> str:
        """Have somebody log in who has to change the initial password; what was shown."""
        shown = self.person.log_in_first()
        self._logged_in = True
        return shown

    def log_out(self) -> Person:
        """Have somebody at the login prompt."""
        if self._logged_in:
            self.person.type("exit\r")
            self.await_login()
        return self.person

    def await_login(self) -> str:
        """Wait for the login prompt, whatever brings it; what was shown up to it."""
        shown = self.person.read_until(LOGIN)
        self._logged_in = False
        self.person.type("\r")  # it is asked again: whoever waits for it may do so
        return shown

    def restart(self) -> None:
        """Restart the console, and wait for its login prompt."""
        self.root.run(f"systemctl restart {UNIT}")
        self.await_login()

    def recover(self) -> None:
        """Have the login prompt again, whatever a test that failed has left behind."""
        self.root.hang_up()
        if not self.machine.running:
            self.power_on()
        self.connect_terminal()
        # A reset that was left unfinished would be listed for ever.
        self.root.run(
            f"systemctl kill --signal=KILL {UNIT}; systemctl stop {UNIT}; rm -f {STATE}/pending.json; "
            f"systemctl start {UNIT}"
        )
        self.await_login()

    # The service

    @contextmanager
    def service_settings(self, *settings: str) -> Iterator[None]:
        """Have other settings of the console's service for a while."""
        folder = f"/run/systemd/system/{UNIT}.d"
        content = "\n".join(("[Service]", *settings))
        self.root.run(f"mkdir -p {folder} && cat >{folder}/test.conf && systemctl daemon-reload", text=content)
        yield
        self.root.run(f"rm {folder}/test.conf && systemctl daemon-reload")

    @contextmanager
    def configuration(self, table: str, *settings: str) -> Iterator[None]:
        """Have other settings in a table of the configuration, and tables behind it, for a while; it restarts."""
        content = "\\n".join(settings).replace("/", r"\/")
        self.root.run(f"cp {CONFIG} {CONFIG}.kept && sed --in-place 's/^\\[{table}]$/&\\n{content}/' {CONFIG}")
        self.restart()
        yield
        self.root.run(f"mv {CONFIG}.kept {CONFIG}")
        self.restart()

    # The network

    def user(self, name: str) -> Ssh:
        """Another user of the machine, with the key that root has."""
        return Ssh(self.machine.ssh_port, self.machine.image.key, name, self._folder)

    # What there is to know

    def listed(self) -> list[str]:
        """The serial numbers in `token backup list`, on the terminal."""
        return _serials(self._list())

    def _list(self) -> str:
        return self.log_in().run("token backup list")

    def listed_on_the_network(self) -> list[str]:
        """The same as `lunash` shows it to root, whatever the terminal is busy with."""
        return _serials(self.root.run("lunash -c 'token backup list'"))

    def plug(self, *names: str) -> None:
        """Plug tokens in, and wait until the console lists them and knows all of them."""
        attached = self._list().count("HSM Model:")  # a token of an interrupted reset is listed without being attached
        self.tokens.plug(*names)

        def known() -> bool:
            shown = self._list()
            return shown.count("HSM Model:") == attached + len(names) and "unknown" not in shown

        self.until(known)

    def until(self, condition: Callable[[], T]) -> T:
        """Ask until it is so; what was said then."""
        deadline = time.monotonic() + BOUND
        while not (found := condition()):
            assert time.monotonic() < deadline, "it did not come about"
            time.sleep(_PAUSE)
        return found

    def property(self, name: str) -> str:
        """A property of the console's unit (systemctl(1), show)."""
        return self.root.run(f"systemctl show --value --property={name} {UNIT}").strip()

    def audit(self) -> str:
        """The audit trail as it is on the disk, which must be unbroken."""
        self.root.run(f"appliance-console audit verify --state {STATE}")
        return self.root.run(f"cat {STATE}/audit.jsonl")

    def events(self) -> list[str]:
        """What the audit tells, with outcomes, but for plugs: they come when they come."""
        records = [json.loads(line) for line in self.audit().splitlines()]
        told = [(record["event"], record.get("outcome", "")) for record in records if record["event"] not in _PLUGS]
        return [" ".join(words).strip() for words in told]

    def logged(self) -> list[dict[str, Any]]:
        """What the console has logged since the appliance was started."""
        lines = self.root.run(f"{JOURNAL} --identifier=appliance-console --output=cat").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]  # a test's own program has other lines

    def keep_evidence(self, folder: Path) -> None:
        """Put what tells of a failure where it is found: the machine's logs, the journal, what the console keeps."""
        self.machine.keep_logs(folder)
        if not self.machine.running:
            self.power_on()  # its disk has the rest
        files = ("audit.jsonl", "audit.head", "accounts.json", "pending.json")
        commands = {"journal": "journalctl --no-pager"} | {name: f"cat {STATE}/{name}" for name in files}
        for name, command in commands.items():
            try:
                (folder / name).write_text(self.root.run(command, timeout=_EVIDENCE_BOUND))
            except (CommandFailed, OSError, subprocess.TimeoutExpired) as error:
                (folder / name).write_text(f"not to be had: {error}\n")


def _serials(shown: str) -> list[str]:
    """The serial numbers of the attached tokens; one whose interrupted reset is all that is shown is not there."""
    return re.findall(r"Serial #: +(\S+)\n(?! +State: +not attached)", shown)
