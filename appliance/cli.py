# SPDX-License-Identifier: Apache-2.0
"""The commands `appliance-console` and `lunash`.

Every part is imported by the command that needs it, so that each starts as fast as it can.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from appliance import __version__
from appliance.errors import ApplianceError, ConfigError

_CONFIG = Path("/etc/appliance/console.toml")
_STATE = Path("/var/lib/appliance")
_SOCKET = Path("/run/appliance/lunash.sock")
_USBIP = "127.0.0.1:3240"  # the port that IANA assigned

# Exit statuses, as sysexits(3) has them where it has one.
_OK, _FAILED, _CONFIGURATION, _INTERRUPTED = 0, 1, 78, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `appliance-console`; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except ConfigError as error:
        return _complain(error, _CONFIGURATION)
    except ApplianceError as error:
        return _complain(error, _FAILED)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def lunash() -> int:
    """Run `lunash`, the network side of the console; the exit status is 0 only if the command did what was asked."""
    parser = argparse.ArgumentParser(prog="lunash", description="The appliance's shell, for users on the network.")
    parser.add_argument("--socket", type=Path, default=_SOCKET, metavar="PATH", help="the console daemon's socket")
    parser.add_argument("-c", "--command", metavar="COMMAND", help="run one command and exit")
    try:
        options = parser.parse_args(_attached(sys.argv[1:]))
        from appliance.console.relay import relay, wanted

        return relay(options.socket, wanted(options.command))
    except KeyboardInterrupt:  # before `relay` looks after the signals
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="appliance-console", description="The local console of a network-HSM appliance."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="own the serial port and serve the console")
    run.add_argument("--config", type=Path, default=_CONFIG, metavar="FILE", help=f"default: {_CONFIG}")
    run.add_argument("--port", metavar="PATH", help="the serial port, instead of the configured one")
    run.set_defaults(command=_run)

    demo = commands.add_parser("demo", help="the console with a simulated serial port and simulated HSMs")
    demo.add_argument("--bus", type=Path, metavar="DIR", help="the folder that is the USB bus (default: a new one)")
    demo.add_argument("--state", type=Path, metavar="DIR", help="where the daemon keeps its files (default: a new one)")
    demo.add_argument("--port-only", action="store_true", help="print the serial port's path and serve it")
    demo.add_argument(
        "--usbip",
        nargs="?",
        const=_USBIP,
        metavar="ADDR:PORT",
        help=f"export the simulated HSMs over USB/IP (default: {_USBIP}); there is no authentication: "
        "an address other than loopback exposes them to everybody who reaches it",
    )
    demo.set_defaults(command=_demo)

    check = commands.add_parser("check-config", help="say whether a configuration file is right")
    check.add_argument("--config", type=Path, default=_CONFIG, metavar="FILE", help=f"default: {_CONFIG}")
    check.set_defaults(command=_check_config)

    audit = commands.add_parser("audit", help="the audit trail").add_subparsers(required=True, metavar="COMMAND")
    verify = audit.add_parser("verify", help="find the first altered, missing or reordered record")
    verify.add_argument("--state", type=Path, default=_STATE, metavar="DIR", help=f"default: {_STATE}")
    verify.set_defaults(command=_audit_verify)

    rules = commands.add_parser("udev-rules", help="print the udev rules for the devices that the drivers know")
    rules.set_defaults(command=_udev_rules)

    user = commands.add_parser("ssh-user", help="users on the network").add_subparsers(required=True, metavar="COMMAND")
    add = user.add_parser("add", help="set up a Unix user who reaches lunash through SSH and nothing else")
    add.add_argument("name", metavar="NAME", help="the user's name")
    add.add_argument("--key", type=Path, metavar="FILE", help="the user's public keys, one a line; - is standard input")
    add.set_defaults(command=_ssh_user_add)

    token = commands.add_parser("token", help="simulated tokens").add_subparsers(required=True, metavar="COMMAND")
    new = token.add_parser("new", help="make the file of a simulated token")
    new.add_argument("file", type=Path, metavar="FILE", help="NAME.token, to be moved into the bus folder")
    families = ("openpgp", "smartcard-hsm", "yubihsm", "luna", "pkcs11")
    new.add_argument("--family", default="openpgp", choices=families, help="default: openpgp")
    new.add_argument("--serial", required=True, metavar="N", help="the serial number, as the family has them")
    new.add_argument("--with-keys", type=int, default=0, choices=range(4), metavar="K", help="make K keys, at most 3")
    new.set_defaults(command=_token_new)
    return parser


def _run(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from appliance.config import load
    from appliance.daemon import run

    config = load(options.config)
    if options.port:
        config = replace(config, line=replace(config.line, port=options.port))
    return run(config)


def _demo(options: argparse.Namespace) -> int:
    from appliance.demo import demo

    return demo(options.bus, options.state, port_only=options.port_only, usbip=options.usbip)


def _check_config(options: argparse.Namespace) -> int:
    from appliance.config import load

    load(options.config)
    print(f"{options.config}: the configuration is right.")
    return _OK


def _audit_verify(options: argparse.Namespace) -> int:
    from appliance.audit import LOG_NAME, verify

    path = options.state / LOG_NAME
    verdict = verify(path)
    if verdict.ok:
        print(f"{path}: {verdict.records} records, unbroken.")
        return _OK
    print(f"{path}:{verdict.line}: {verdict.reason}")
    return _FAILED


def _udev_rules(_: argparse.Namespace) -> int:
    from appliance.hsm.udev_rules import render

    print(render(), end="")
    return _OK


def _ssh_user_add(options: argparse.Namespace) -> int:
    from appliance.ssh.user import add

    return add(options.name, options.key, _CONFIG)


def _token_new(options: argparse.Namespace) -> int:
    from appliance.simulator.families import new_token

    new_token(options.file, options.serial, options.with_keys, options.family)
    return _OK


def _attached(words: list[str]) -> list[str]:
    """The words with what follows `-c` attached to it: a command may begin with a dash, or be empty."""
    if "-c" not in words[:-1]:
        return words
    at = words.index("-c")
    return [*words[:at], f"--command={words[at + 1]}", *words[at + 2 :]]


def _complain(error: ApplianceError, status: int) -> int:
    print(f"appliance-console: {error}", file=sys.stderr)
    return status
