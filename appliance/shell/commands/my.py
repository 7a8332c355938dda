# SPDX-License-Identifier: Apache-2.0
"""`my password set`, and the change that the first login demands (Luna SA 5.x first-login dialogue)."""

from appliance.accounts.password import POLICY_TEXT
from appliance.errors import PasswordRefused, StateError
from appliance.shell.grammar import Command, Group
from appliance.shell.invocation import FAILURE, SUCCESS, Invocation, Reply, Services, Terminal
from appliance.shell.text import error

_TRIES = 3


async def change_password(terminal: Terminal, services: Services, name: str) -> bool:
    """Ask for the current password and twice for the new one; whether it was changed.

    Wrong ones count against the account, wherever they are typed: an address is only what a client says.
    """
    await terminal.write(f"Changing password for {name}\n")
    current = await terminal.readline("(current) UNIX password: ", secret=True)
    if await services.authenticator.login(f"password of {name}", name, current) is None:
        await terminal.write("\n" + error("The current password is wrong. The password was not changed."))
        return False
    await terminal.write(f"\nYou can now choose the new password.\n\n{POLICY_TEXT}\n\n")
    for _ in range(_TRIES):
        new = await terminal.readline("Enter new password: ", secret=True)
        if await terminal.readline("Re-type new password: ", secret=True) != new:
            await terminal.write("Sorry, passwords do not match.\n\n")
            continue
        try:
            await services.store.set_password(name, new)
        except PasswordRefused as refused:
            await terminal.write(f"{refused.reason}\n\n")
        except StateError as unsaved:
            await terminal.write(
                "\n" + error(f"The new password could not be saved.\nThe old one is kept. Reason: {unsaved.reason}")
            )
            return False
        else:
            return True
    await terminal.write(error("The password was not changed."))
    return False


async def _set(call: Invocation) -> Reply:
    if not await change_password(call.terminal, call.services, call.account.name):
        return FAILURE
    await call.terminal.write("passwd: all authentication tokens updated successfully.\n\n")
    return SUCCESS


PASSWORD = Group("password", "p", "The password", (Command("set", "s", "Change the password", _set),))
