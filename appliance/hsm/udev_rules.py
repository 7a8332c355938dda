# SPDX-License-Identifier: Apache-2.0
"""The udev rules follow from the drivers' tables of USB ids; nobody writes them by hand.

``systemd/60-appliance-hsm.rules`` is this text. Its number places it behind ``50-udev-default.rules``, which looks the
device up, and before the rules that other programs bring for the same readers.
"""

from appliance.hsm.drivers import Driver, kinds

GROUP = "appliance-hsm"  # what the daemon's unit has in SupplementaryGroups=

HEADER = f"""\
# SPDX-License-Identifier: Apache-2.0
# Which USB devices may be HSMs, and who may open them. Written by `appliance-console udev-rules`; do not edit.
#
# The daemon opens them through the group {GROUP}. No uaccess: that would open them to whoever sits at the machine.
# := because the rules of smart card daemons, which come later, would give them to another group.

ACTION=="remove", GOTO="appliance_hsm_end"
SUBSYSTEM!="usb", GOTO="appliance_hsm_end"
ENV{{DEVTYPE}}!="usb_device", GOTO="appliance_hsm_end"
"""

FOOTER = f"""
ENV{{HSM_FAMILY}}=="?*", GROUP:="{GROUP}", MODE:="0660"

LABEL="appliance_hsm_end"
"""


def render() -> str:
    """The rules file for every device family whose USB ids this program knows, whatever this machine is set up for."""
    return HEADER + "".join(_section(kind) for kind in kinds() if kind.usb_ids) + FOOTER


def _section(driver: type[Driver]) -> str:
    lines = ["", f"# {driver.title}"]
    for usb_id in driver.usb_ids:
        lines += [
            f"# {usb_id.name}",
            f'ATTR{{idVendor}}=="{usb_id.vendor:04x}", ATTR{{idProduct}}=="{usb_id.product:04x}", '
            f'ENV{{HSM_FAMILY}}="{driver.family}"',
        ]
    return "\n".join(lines) + "\n"
