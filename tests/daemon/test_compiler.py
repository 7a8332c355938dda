# SPDX-License-Identifier: Apache-2.0
"""The demonstration needs no C compiler, nor one that works, but for the tokens behind a PKCS#11 library."""

from pathlib import Path

from appliance.simulator.vendor_library import COMPILER
from tests.support.demo_process import DemoProcess
from tests.support.person import Person


def listed(folder: Path, programs: Path) -> tuple[str, str]:
    """What a person is shown of an OpenPGP token and a Luna, and the log."""
    with DemoProcess(folder, environment={"PATH": str(programs)}) as demo:
        demo.token(keys=1)
        demo.token("496771", 1, family="luna")
        with Person(demo.port) as person:
            person.log_in_first()
            return person.list_tokens(), demo.log.read_text()


def test_without_a_compiler_such_tokens_are_not_listed(tmp_path: Path) -> None:
    """Others are, and the log says why."""
    (tmp_path / "programs").mkdir()
    shown, log = listed(tmp_path, tmp_path / "programs")

    assert shown.count("Serial #:") == 1
    assert "Serial #:                           667788" in shown
    assert "no 'cc' is installed" in log


def test_with_a_broken_compiler_such_tokens_are_unreachable(tmp_path: Path) -> None:
    """Others are not, and the log has its complaint."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / COMPILER).write_text("#!/bin/sh\necho 'no room on this machine' >&2\nexit 1\n")
    (programs / COMPILER).chmod(0o755)
    shown, log = listed(tmp_path, programs)

    assert shown.count("Serial #:") == 2
    assert shown.count("State:                              initialized") == 1
    assert shown.count("State:                              unreachable") == 1
    assert "compiled" in log
    assert "no room on this machine" in log
