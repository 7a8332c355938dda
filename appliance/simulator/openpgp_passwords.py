# SPDX-License-Identifier: Apache-2.0
"""The passwords of an OpenPGP card: PW1 and PW3, which were verified since power-up, and the resetting code.

Sections in parentheses are those of the "OpenPGP Smart Card Application" specification, version 3.4.1.
"""

from dataclasses import replace

from appliance.simulator.iso7816 import (
    BLOCKED,
    SECURITY_STATUS,
    TRIES_LEFT,
    WRONG_DATA,
    WRONG_P1P2,
    Command,
    Refused,
)
from appliance.simulator.memory import Memory, Pin
from appliance.simulator.openpgp_data import LONGEST_PIN, SHORTEST_PIN
from appliance.simulator.openpgp_flash import TRIES, OpenPgpFlash, Password, change_pin

# By P2 of VERIFY: PW1 for a signature, PW1 for everything else, PW3.
_OWNERS = {0x81: Password.USER, 0x82: Password.USER, 0x83: Password.ADMIN}


class Passwords:
    """What VERIFY and its relatives do."""

    def __init__(self, memory: Memory[OpenPgpFlash]) -> None:
        self._memory = memory
        self._verified: set[int] = set()  # 81, 82, 83

    def forget(self, *which: int) -> None:
        """End these authorisations; all of them when none is named."""
        self._verified -= set(which or _OWNERS)

    def demand(self, which: int) -> None:
        """Raises `Refused` unless it was verified."""
        if which not in self._verified:
            raise Refused(SECURITY_STATUS)

    def verify(self, command: Command) -> bytes:
        """VERIFY (7.2.2): without data the state is asked for; P1 of FF ends an authorisation."""
        owner = _OWNERS.get(command.p2)
        if owner is None or command.p1 not in (0, 0xFF):
            raise Refused(WRONG_P1P2)
        if command.p1 == 0xFF:
            self.forget(command.p2)
        elif command.data:
            self._check(owner, command.data)
            self._verified.add(command.p2)
        elif command.p2 not in self._verified:
            raise Refused(TRIES_LEFT | self._memory.flash.pins[owner].tries)
        return b""

    def change_reference_data(self, command: Command) -> bytes:
        """CHANGE REFERENCE DATA (7.2.3): the old password and the new one, side by side."""
        if command.p1 or command.p2 not in (0x81, 0x83):
            raise Refused(WRONG_P1P2)
        self._replace(_OWNERS[command.p2], _OWNERS[command.p2], command.data)
        return b""

    def reset_retry_counter(self, command: Command) -> bytes:
        """RESET RETRY COUNTER (7.2.4): a new PW1, by the resetting code or by PW3."""
        match command.p1, command.p2:
            case 0, 0x81:
                self._replace(Password.RESETTING, Password.USER, command.data)
            case 2, 0x81:
                self.demand(0x83)
                self._set(Password.USER, command.data)
            case _:
                raise Refused(WRONG_P1P2)
        return b""

    def _replace(self, known: Password, new: Password, data: bytes) -> None:
        """Both passwords stand in the data; the card knows the length of the first one."""
        length = self._memory.flash.pins[known].length
        self._check(known, data[:length])
        self._set(new, data[length:])

    def _check(self, name: Password, pin: bytes) -> None:
        """The right PIN restores all tries, a wrong one costs one; either is durable before it is answered."""
        known = self._memory.flash.pins[name]
        if not known.tries:
            raise Refused(BLOCKED)
        if not known.matches(pin):
            change_pin(self._memory, name, replace(known, tries=known.tries - 1))
            self._forget_all_of(name)
            raise Refused(SECURITY_STATUS)
        change_pin(self._memory, name, replace(known, tries=TRIES))

    def _set(self, name: Password, pin: bytes) -> None:
        if not SHORTEST_PIN[name] <= len(pin) <= LONGEST_PIN:
            raise Refused(WRONG_DATA)
        change_pin(self._memory, name, Pin.of(pin, TRIES))
        self._forget_all_of(name)

    def _forget_all_of(self, name: Password) -> None:
        self._verified -= {which for which, owner in _OWNERS.items() if owner is name}
