# SPDX-License-Identifier: Apache-2.0
"""The commands of a simulated SmartCard-HSM for backups of its keys: shares of the DKEK go in, wrapped keys in and out.

A device that was initialised without a DKEK knows none of these commands. That is what OpenSC's sc-hsm-tool and the
maker's own scripts take status 6D00 for.
"""

from collections.abc import Callable
from dataclasses import replace

from appliance.simulator.iso7816 import (
    CONDITIONS,
    FILE_EXISTS,
    FILE_NOT_FOUND,
    NO_SUCH_INS,
    WRONG_DATA,
    WRONG_LENGTH,
    WRONG_P1P2,
    Command,
    Refused,
)
from appliance.simulator.memory import Memory
from appliance.simulator.smartcard_hsm_dkek import SIZE, Dkek
from appliance.simulator.smartcard_hsm_flash import SmartcardHsmFlash, sealed_as

_WRAP, _UNWRAP = 0x92, 0x93  # P2


class KeyBackup:
    """These commands, on the card's memory; `demand_user` raises `Refused` while the user PIN has not been verified."""

    def __init__(self, memory: Memory[SmartcardHsmFlash], demand_user: Callable[[], None]) -> None:
        self._memory = memory
        self._demand_user = demand_user

    def manage(self, command: Command) -> bytes:
        """MANAGE KEY DOMAIN: a share of the DKEK is imported, or nothing; how many are missing, the key check value."""
        dkek = self._dkek
        command.demand_no_parameters()
        if command.data:
            if len(command.data) != SIZE:
                raise Refused(WRONG_LENGTH)
            if not dkek.missing:
                raise Refused(CONDITIONS)
            dkek = self._with_share(dkek, command.data)
        return dkek.status()

    def wrap(self, command: Command) -> bytes:
        """WRAP KEY: the key of the number in P1."""
        dkek = self._whole(command, _WRAP)
        flash = self._memory.flash
        key = flash.keys.get(command.p1)
        if key is None:
            raise Refused(FILE_NOT_FOUND)
        from appliance.simulator import wrapped_keys

        try:
            return wrapped_keys.wrap(dkek.key(flash.kek), flash.kek, sealed_as(command.p1), key)
        except ValueError as error:
            raise Refused(WRONG_DATA) from error

    def unwrap(self, command: Command) -> bytes:
        """UNWRAP KEY: it gets the number in P1, which must be free; what the host knows of it, the host writes."""
        dkek = self._whole(command, _UNWRAP)
        flash = self._memory.flash
        if command.p1 in flash.keys:
            raise Refused(FILE_EXISTS)
        from appliance.simulator import wrapped_keys

        try:
            key = wrapped_keys.unwrap(dkek.key(flash.kek), flash.kek, sealed_as(command.p1), command.data)
        except ValueError as error:
            raise Refused(WRONG_DATA) from error
        self._memory.change(flash.with_key(command.p1, key))
        return b""

    @property
    def _dkek(self) -> Dkek:
        dkek = self._memory.flash.dkek
        if dkek is None:
            raise Refused(NO_SUCH_INS)
        return dkek

    def _whole(self, command: Command, parameter: int) -> Dkek:
        """The DKEK, for a command that needs all of it, and the user."""
        dkek = self._dkek
        if not command.p1 or command.p2 != parameter:
            raise Refused(WRONG_P1P2)
        self._demand_user()
        if dkek.missing:
            raise Refused(CONDITIONS)
        return dkek

    def _with_share(self, dkek: Dkek, share: bytes) -> Dkek:
        try:
            joined = dkek.with_share(self._memory.flash.kek, share)
        except ValueError as error:
            raise Refused(WRONG_DATA) from error
        self._memory.change(replace(self._memory.flash, dkek=joined))
        return joined
