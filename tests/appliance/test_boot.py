# SPDX-License-Identifier: Apache-2.0
"""The installed package on a booted Debian: what runs, what is said of it, and what it does not disturb."""

from tests.support.guest.appliance import JOURNAL, UNIT, Appliance
from tests.support.guest.image import CONSOLE, TERMINAL


def test_the_terminal_shows_the_login(appliance: Appliance) -> None:
    """The first thing on the serial terminal is the banner and the login; nothing of the boot is before it."""
    shown = appliance.first_login

    assert shown.startswith("\nNetwork HSM appliance console ")
    assert "\nAuthorized Use Only\n\n[appliance] ttyS1 login: admin\nPassword: " in shown


def test_systemd_says_what_runs(appliance: Appliance) -> None:
    """The unit is active, `systemctl status` shows the daemon's own line, and no unit of the system has failed."""
    assert appliance.property("ActiveState") == "active"
    status = f"Console on /dev/{TERMINAL}. Backup tokens: 0. PKI tokens: 0. Interrupted resets: 0."
    assert f'Status: "{status}"' in appliance.root.run(f"systemctl status {UNIT}")
    assert appliance.root.run("systemctl --failed --plain --no-legend") == ""


def test_the_installed_unit_is_little_exposed(appliance: Appliance) -> None:
    """`systemd-analyze security` on the running unit says 1.5 at most."""
    appliance.root.run(f"systemd-analyze security --threshold=15 {UNIT}")


def test_the_journal_explains_what_it_has(appliance: Appliance) -> None:
    """`journalctl -x` shows what the start of the console means, from the installed catalog, and its fields."""
    shown = appliance.root.run(f"{JOURNAL} --catalog --unit={UNIT} HSM_RECORD=start")

    assert "Subject: The console daemon has started" in shown


def test_no_getty_is_on_the_line(appliance: Appliance) -> None:
    """The daemon alone has the port open, and no getty is started or waits for it."""
    holders = appliance.root.run(f"fuser /dev/{TERMINAL} 2>/dev/null").split()

    assert holders == [appliance.property("MainPID")]
    assert appliance.root.attempt(f"systemctl is-active serial-getty@{TERMINAL}.service").stdout == "inactive\n"


def test_the_kernels_console_is_another_line(appliance: Appliance) -> None:
    """With ``console=`` on the other port, that port has Debian's getty and the terminal is left in peace."""
    appliance.root.run("echo '<1>a message of the kernel' >/dev/kmsg")  # an alert is shown even by a quiet kernel
    appliance.until(lambda: "a message of the kernel" in appliance.machine.console_log.read_text(errors="replace"))

    assert appliance.root.run(f"systemctl is-active serial-getty@{CONSOLE}.service") == "active\n"
    assert "lunash:>" in appliance.log_in().run("help")
    assert "a message of the kernel" not in appliance.person.run("help")
