"""The commands as a user calls them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cpt_nas import cli
from cpt_nas.cli import options
from hwprofiles.streams import PlainConsole


class Shell:
    """Runs commands in this process, as the console entry point would: a second start costs 5 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capfd = monkeypatch, capfd

    def __call__(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        self.monkeypatch.chdir(cwd)
        self.monkeypatch.setattr(sys, "argv", ["cpt-nas", *arguments])
        self.monkeypatch.setattr(options, "out", PlainConsole(width=200))
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = self.capfd.readouterr()
        code = stopped.value.code or 0
        return subprocess.CompletedProcess(arguments, int(code), captured.out, captured.err)
