# SPDX-License-Identifier: Apache-2.0
"""What the demonstration says and whom it lets in, without running it."""

import os
import pwd
from pathlib import Path

import pytest

from appliance import demo


def test_the_user_is_the_one_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who started the demonstration is `admin` at its door, also where LOGNAME names another."""
    monkeypatch.setenv("LOGNAME", "somebody")

    assert demo._our_user() == {pwd.getpwuid(os.getuid()).pw_name: "admin"}


def test_the_commands_work_in_any_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The line for the network names `lunash` by an absolute path, however the demonstration was called."""
    monkeypatch.setattr("sys.argv", [".venv/bin/appliance-console", "demo"])

    demo._explain(tmp_path / "bus", tmp_path / "state", "")

    (line,) = (line for line in capsys.readouterr().out.splitlines() if "network" in line)
    assert Path(line.split()[1]).is_absolute()
