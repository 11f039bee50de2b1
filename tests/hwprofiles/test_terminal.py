"""What both command lines share: the version, and progress where nobody sees a bar."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hwprofiles import __version__
from hwprofiles.terminal import PlainProgress, new_app, progress_bar


def test_plain_progress_prints_at_intervals_and_at_the_end_of_a_stage() -> None:
    lines: list[str] = []
    now = 0.0
    progress = PlainProgress(lines.append, every_s=10.0, clock=lambda: now)
    for done in range(1, 31):
        now += 1.0
        progress("rounds", done, 30)
    progress("rounds", 30, 30)
    assert lines == ["rounds: 11 of 30", "rounds: 21 of 30", "rounds: 30 of 30"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_pipe_gets_plain_lines_and_a_terminal_a_bar(terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100)
    with progress_bar(console) as report:
        for done in range(1, 4):
            report("warm-up", done, 3)
    text = stream.getvalue()
    assert ("\x1b" in text) == terminal
    assert ("━" in text) == terminal
    assert (text == "warm-up: 3 of 3\n") == (not terminal)


def test_an_app_says_its_version() -> None:
    app = new_app("x", "About.", __version__)
    app.command("one")(lambda: None)
    app.command("two")(lambda: None)
    assert CliRunner().invoke(app, ["--version"]).output == f"x {__version__}\n"
