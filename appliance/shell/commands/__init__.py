# SPDX-License-Identifier: Apache-2.0
"""The command tree: one module per top-level word."""

from appliance.shell.commands import general, hsm, my, token
from appliance.shell.grammar import Group

TREE: Group = Group(
    "",
    "",
    "",
    (
        general.EXIT,
        general.help_command(lambda: TREE),
        hsm.GROUP,
        Group("my", "m", "Commands for the user who is logged in", (my.PASSWORD,)),
        token.GROUP,
    ),
)
