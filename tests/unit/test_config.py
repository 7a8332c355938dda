# SPDX-License-Identifier: Apache-2.0
"""The configuration: defaults, every key, and the place of every mistake."""

import dataclasses
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import config
from appliance.config import (
    BuiltinSettings,
    Config,
    HsmSettings,
    LibrarySettings,
    LineSettings,
    LogSettings,
    NetworkSettings,
    YubiHsmSettings,
    load,
)
from appliance.errors import ConfigError

ROOT = Path(__file__).parents[2]

COMPLETE = """
state = "/srv/state"
hostname = "hsm-1.example"
banner = "Vault 7"

[line]
port = "/dev/ttyUSB3"
speed = 9600
flow = "rtscts"
carrier = "require"
login_timeout = 60
idle_timeout = 0.5

[network]
enabled = false
socket = "/srv/lunash.sock"
group = "operators"
idle_timeout = 86400

[network.users]
alice = "admin"
"bob.b" = "monitor"

[hsm]
pki_serials = ["475290", "0001"]
operation_timeout = 300
probe_timeout = 5

[hsm.luna]
library = "/opt/luna/libCryptoki2_64.so"
usb_ids = ["1A2b:0001", "1a2b:0002"]

[hsm.yubihsm]
authentication_key = 7

[hsm.builtin]
kind = "luna"
library = "/opt/luna/libCryptoki2_64.so"
serial = "0007550054"

[[hsm.pkcs11]]
library = "/opt/a.so"
usb_ids = ["1a2b:0003"]

[[hsm.pkcs11]]
library = "/opt/b.so"
usb_ids = ["1a2b:0004"]

[log]
level = "debug"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "console.toml"
    path.write_text(text)
    return path


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    """Every key may be left out."""
    assert load(written(tmp_path, "")) == Config()


def test_the_defaults_are_as_documented() -> None:
    """The defaults are those that the example file states."""
    assert Config() == Config(
        state=Path("/var/lib/appliance"),
        banner="Network HSM appliance console 0.1.0",
        line=LineSettings("/dev/ttyS0", 115200, "xonxoff", "ignore", 120.0, 600.0),
        network=NetworkSettings(True, Path("/run/appliance/lunash.sock"), "lunash", 1800.0, {}),
        hsm=HsmSettings(
            (), 120.0, 30.0, LibrarySettings(None, ()), YubiHsmSettings(1), (), BuiltinSettings("none", None, "")
        ),
        log=LogSettings("info"),
    )


def test_every_key_is_read(tmp_path: Path) -> None:
    """A file with all keys sets all values."""
    assert load(written(tmp_path, COMPLETE)) == Config(
        state=Path("/srv/state"),
        hostname="hsm-1.example",
        banner="Vault 7",
        line=LineSettings("/dev/ttyUSB3", 9600, "rtscts", "require", 60.0, 0.5),
        network=NetworkSettings(
            False, Path("/srv/lunash.sock"), "operators", 86400.0, {"alice": "admin", "bob.b": "monitor"}
        ),
        hsm=HsmSettings(
            ("475290", "0001"),
            300.0,
            5.0,
            LibrarySettings(Path("/opt/luna/libCryptoki2_64.so"), ((0x1A2B, 1), (0x1A2B, 2))),
            YubiHsmSettings(7),
            (LibrarySettings(Path("/opt/a.so"), ((0x1A2B, 3),)), LibrarySettings(Path("/opt/b.so"), ((0x1A2B, 4),))),
            BuiltinSettings("luna", Path("/opt/luna/libCryptoki2_64.so"), "0007550054"),
        ),
        log=LogSettings("debug"),
    )


def test_every_field_has_its_key() -> None:
    """No value of the configuration is beyond the reach of the file."""
    for section, (kind, readers) in config.SECTIONS.items():
        assert [field.name for field in dataclasses.fields(kind)] == list(readers), section
    assert [field.name for field in dataclasses.fields(Config)] == list(config.TOP_LEVEL)


def test_the_example_states_the_defaults(tmp_path: Path) -> None:
    """The example configuration changes nothing, as it stands and with every key uncommented."""
    example = (ROOT / "systemd" / "console.toml").read_text()
    uncommented, keys = re.subn(r"(?m)^#(?=[a-z0-9_]+ = )", "", example)

    assert load(written(tmp_path, example)) == Config()
    assert load(written(tmp_path, uncommented)) == Config()
    assert keys == 3 + 6 + 5 + 4 + 2 + 1 + 3 + 1


@pytest.mark.parametrize(
    ("machine", "shown"),
    [("hsm-1", "hsm-1"), ("hsm.example.org", "hsm.example.org"), ("a\x1b[2Jb c", "a2Jbc"), ("()", "localhost")],
)
def test_the_host_name_is_the_machines(
    machine: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a name in the file, the machine's is taken, without what a terminal would interpret."""
    monkeypatch.setattr("socket.gethostname", lambda: machine)

    assert load(written(tmp_path, "")).hostname == shown
    assert load(written(tmp_path, 'hostname = ""')).hostname == shown


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("sped = 9600", "sped", "unknown key"),
        ("[lines]", "lines", "unknown key"),
        ("[line]\nsped = 9600", "line.sped", "unknown key"),
        ('[line]\n"sp\\u001beed" = 9600', "line.'sp\\x1beed'", "unknown key"),
        ("line = 1", "line", "must be a table"),
        ("[[line]]", "line", "must be a table"),
        ("state = 1", "state", "must be a string"),
        ('state = "state"', "state", "must be an absolute path"),
        ('state = "/a\\nb"', "state", "must be an absolute path"),
        ('hostname = "a b"', "hostname", "must be at most 64 letters, digits, '.', '_' and '-'"),
        ('hostname = "a\\n"', "hostname", "must be at most 64 letters, digits, '.', '_' and '-'"),
        ('banner = "a\\nb"', "banner", "must be one line of at most 200 printable characters"),
        ("[line]\nport = 0", "line.port", "must be a string"),
        ('[line]\nport = "ttyS0"', "line.port", "must be an absolute path"),
        ("[line]\nspeed = 9601", "line.speed", f"must be one of {', '.join(map(str, config.SPEEDS))}"),
        ("[line]\nspeed = true", "line.speed", f"must be one of {', '.join(map(str, config.SPEEDS))}"),
        ("[line]\nspeed = 9600.0", "line.speed", f"must be one of {', '.join(map(str, config.SPEEDS))}"),
        ('[line]\nspeed = "9600"', "line.speed", f"must be one of {', '.join(map(str, config.SPEEDS))}"),
        ('[line]\nflow = "XonXoff"', "line.flow", "must be one of none, xonxoff, rtscts"),
        ("[line]\ncarrier = true", "line.carrier", "must be a string"),
        ("[line]\nlogin_timeout = true", "line.login_timeout", "must be a number of seconds"),
        ('[line]\nlogin_timeout = "1"', "line.login_timeout", "must be a number of seconds"),
        ("[line]\nlogin_timeout = 0", "line.login_timeout", "must be more than 0 and at most 86400 seconds"),
        ("[line]\nlogin_timeout = -1", "line.login_timeout", "must be more than 0 and at most 86400 seconds"),
        ("[line]\nidle_timeout = nan", "line.idle_timeout", "must be more than 0 and at most 86400 seconds"),
        ("[line]\nidle_timeout = inf", "line.idle_timeout", "must be more than 0 and at most 86400 seconds"),
        ("[line]\nidle_timeout = 86401", "line.idle_timeout", "must be more than 0 and at most 86400 seconds"),
        ("[network]\nenabled = 1", "network.enabled", "must be true or false"),
        (f'[network]\nsocket = "/{"x" * 107}"', "network.socket", "must be at most 107 bytes long"),
        ('[network]\ngroup = ""', "network.group", "must be a name of at most 32 letters, digits, '.', '_' and '-'"),
        ("[network]\nusers = []", "network.users", "must be a table"),
        ("[network.users]\nbob = 1", "network.users", "bob: a user and its account must both be names"),
        ('[network.users]\n"b b" = "admin"', "network.users", "'b b': a user and its account must both be names"),
        ('[hsm]\npki_serials = "1"', "hsm.pki_serials", 'must be an array of strings, such as ["667788"]'),
        ("[hsm]\npki_serials = [1]", "hsm.pki_serials", 'must be an array of strings, such as ["667788"]'),
        ('[hsm]\npki_serials = ["1", "1"]', "hsm.pki_serials", "1 is listed twice"),
        (
            '[hsm]\npki_serials = [""]',
            "hsm.pki_serials",
            "each must be a serial number of 1 to 64 printable ASCII characters without blanks",
        ),
        ("[hsm.pkcs11]", "hsm.pkcs11", "must be an array of tables"),
        ('[hsm.builtin]\nkind = "soft"', "hsm.builtin.kind", "must be one of none, softhsm, luna"),
        ('[hsm.builtin]\nkind = "luna"', "hsm.builtin", 'a serial number belongs to the kind "luna", and to no other'),
        (
            '[hsm.builtin]\nkind = "softhsm"\nserial = "1"',
            "hsm.builtin",
            'a serial number belongs to the kind "luna", and to no other',
        ),
        ('[hsm.builtin]\nserial = "1a"', "hsm.builtin.serial", "must be a decimal number in quotation marks"),
        ("[hsm.builtin]\nserial = 1", "hsm.builtin.serial", "must be a decimal number in quotation marks"),
        ("[[hsm.pkcs11]]", "hsm.pkcs11", "each must have the keys library and usb_ids, and no other"),
        (
            '[[hsm.pkcs11]]\nlibrary = "/a.so"\nusb_ids = []',
            "hsm.pkcs11",
            "usb_ids is missing: without it no device would belong to the library",
        ),
        (
            '[[hsm.pkcs11]]\nlibrary = ""\nusb_ids = ["1a2b:0001"]',
            "hsm.pkcs11",
            "each must have a library and a USB id",
        ),
        ("[[hsm.pkcs11]]\nlibrary = 1\nusb_ids = []", "hsm.pkcs11", "must be a string"),
        (
            '[[hsm.pkcs11]]\nlibrary = "/a.so"\nusb_ids = ["1a2b:0001"]\n'
            '[[hsm.pkcs11]]\nlibrary = "/b.so"\nusb_ids = ["1a2b:0001"]',
            "hsm.pkcs11",
            "a USB id is listed twice",
        ),
        ("[hsm]\nluna = 1", "hsm.luna", "must be a table"),
        ("[hsm.luna]\npath = 1", "hsm.luna.path", "unknown key"),
        ('[hsm.luna]\nlibrary = "x.so"', "hsm.luna.library", "must be an absolute path"),
        ("[hsm.luna]\nlibrary = 1", "hsm.luna.library", "must be a string"),
        (
            '[hsm.luna]\nlibrary = "/x.so"',
            "hsm.luna",
            "usb_ids is missing: without it no device would belong to the library",
        ),
        (
            '[hsm.luna]\nusb_ids = ["1a2b"]',
            "hsm.luna.usb_ids",
            'must be an array of USB ids, such as ["1a2b:0001"]',
        ),
        (
            '[hsm.luna]\nusb_ids = ["1a2b:0001", "1A2B:0001"]',
            "hsm.luna.usb_ids",
            "a USB id is listed twice",
        ),
        ('[hsm.luna]\nusb_ids = ["0000:0000"]', "hsm.luna.usb_ids", "0000:0000 is no device's USB id"),
        ("[hsm.yubihsm]\nauthentication_key = 0", "hsm.yubihsm.authentication_key", "must be from 1 to 65535"),
        ("[hsm.yubihsm]\nauthentication_key = true", "hsm.yubihsm.authentication_key", "must be from 1 to 65535"),
        ('[log]\nlevel = "trace"', "log.level", "must be one of debug, info, warning, error"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, key: str, reason: str, tmp_path: Path) -> None:
    """A key that is unknown, or a value that is wrong, is named with file, key and reason."""
    path = written(tmp_path, text)

    with pytest.raises(ConfigError) as raised:
        load(path)

    assert (raised.value.path, raised.value.key, raised.value.reason) == (path, key, reason)
    assert str(raised.value) == f"{path}: {key}: {reason}"


def test_a_syntax_error_is_named_with_its_line(tmp_path: Path) -> None:
    """A file that is no TOML is refused with the line at which that shows."""
    with pytest.raises(ConfigError, match=r"console\.toml: .*line 3"):
        load(written(tmp_path, 'state = "/a"\n\nhostname = \n'))


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    """A file that is not UTF-8 is refused with the line at which that shows."""
    path = tmp_path / "console.toml"
    path.write_bytes(b'state = "/a"\nbanner = "\xff"\n')

    with pytest.raises(ConfigError, match=r"not UTF-8 \(at line 2\)"):
        load(path)


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b"a = " + b"[" * 50_000, b"a = " + b"9" * 10_000, b"#" * (config.LARGEST_FILE + 1)]
)
def test_an_absurd_file_is_refused(data: bytes, tmp_path: Path) -> None:
    """Size, depth and numbers beyond reason end in the same kind of error."""
    path = tmp_path / "console.toml"
    path.write_bytes(data)

    with pytest.raises(ConfigError):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is an error, not the defaults."""
    with pytest.raises(ConfigError, match="No such file or directory"):
        load(tmp_path / "console.toml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A folder in the place of the file is an error."""
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)


@given(text=st.text() | st.from_regex(r"(\[?[a-z.]{1,9}\]?( = [\"0-9a-z{}\[\]]{0,9})?\n){0,5}", fullmatch=True))
def test_any_text_is_read_or_refused(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No file leads to an error of another kind."""
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))

    with suppress(ConfigError):
        load(path)
