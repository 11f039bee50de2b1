"""What both command lines share: the version, errors, and progress where nobody sees a bar."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from hwprofiles import __version__, terminal
from hwprofiles.terminal import EXIT_BUG, PlainProgress, new_app, progress_bar


def test_plain_progress_prints_at_intervals_and_at_the_end_of_a_stage() -> None:
    lines: list[str] = []
    now = 0.0
    progress = PlainProgress(lines.append, every_s=10.0, clock=lambda: now)
    for done in range(1, 31):
        now += 1.0
        progress("rounds", done, 30)
    progress("rounds", 30, 30)
    assert lines == ["rounds: 11 of 30", "rounds: 21 of 30", "rounds: 30 of 30"]


def test_a_stage_that_begins_once_more_ends_once_more() -> None:
    lines: list[str] = []
    progress = PlainProgress(lines.append, clock=lambda: 0.0)
    for _ in range(2):
        for done in (1, 2):
            progress("rounds", done, 2)
    progress("other", 1, 2)
    assert lines == ["rounds: 2 of 2"] * 2


@pytest.mark.parametrize("terminal", [True, False])
def test_a_pipe_gets_plain_lines_and_a_terminal_a_bar(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100)
    with progress_bar(console) as report:
        for done in range(1, 4):
            report("warm-up", done, 3)
    text = stream.getvalue()
    assert ("\x1b" in text) == terminal
    assert ("━" in text) == terminal
    assert (text == "warm-up: 3 of 3\n") == (not terminal)


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_with_widgets_gets_a_bar(monkeypatch: pytest.MonkeyPatch, widgets: bool) -> None:
    monkeypatch.setattr(terminal, "find_spec", lambda name: object() if widgets else None)
    with progress_bar(Console(force_jupyter=True, file=io.StringIO(), width=100)) as report:
        assert isinstance(report, PlainProgress) == (not widgets)


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = io.StringIO()
    with progress_bar(Console(file=stream, force_terminal=True, width=20)) as report:
        report("a stage with a long name", 3, 3)
    assert stream.getvalue() == "a stage with a long name: 3 of 3\n"


def test_the_caller_says_what_brings_an_optional_library(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = typer.Typer()

    @app.command()
    def fail(library: str) -> None:
        raise ModuleNotFoundError(name=library)

    extras = {"drawing": "pip install pens"}
    with pytest.raises(SystemExit) as stopped:
        terminal.run_app(app, ["drawing.lines"], extras)
    assert stopped.value.code == 2
    line = "error: drawing is not installed; pip install pens brings it\n"
    assert capsys.readouterr().err == line
    with pytest.raises(SystemExit) as stopped:
        terminal.run_app(app, ["other"], extras)
    assert stopped.value.code == EXIT_BUG


def test_python_m() -> None:
    command = [sys.executable, "-m", "hwprofiles", "--version"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, f"hwprofiles {__version__}\n"), found.stderr


def test_an_app_says_its_version() -> None:
    app = new_app("x", "About.", __version__)
    app.command("one")(lambda: None)
    app.command("two")(lambda: None)
    assert CliRunner().invoke(app, ["--version"]).output == f"x {__version__}\n"


def failing(error: Exception) -> typer.Typer:
    app = typer.Typer(name="prog")

    @app.command()
    def fail(really: bool = False) -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "x.yaml"), "x.yaml: No such file"),
        (ValueError("two\nlines"), "two lines"),
        (ValueError("x" * 6000), "xxx"),
        (ValueError("[/b] \x1b[2J"), "[/b] \\x1b[2J"),
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), "out of memory: "),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        terminal.run_app(failing(error), ["--really"])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {line}")
    assert shown.count("\n") == 1 and len(shown) <= 301


@pytest.mark.parametrize("error", [KeyError("macs"), RecursionError(), TypeError("x" * 999)])
def test_what_nobody_has_foreseen_is_a_bug_with_its_traceback_in_a_file(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    error: Exception,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        terminal.run_app(failing(error), ["--really"])
    assert stopped.value.code == EXIT_BUG
    shown = capsys.readouterr().err
    (file,) = tmp_path.iterdir()
    assert shown.startswith(f"error: a bug in prog, please report it with {file}: ")
    assert type(error).__name__ in shown
    assert shown.count("\n") == 1 and len(shown) <= 301
    text = file.read_text()
    assert text.startswith(f"prog {__version__}, Python ") and "prog --really" in text
    assert "Traceback" in text and "raise error" in text


def test_another_librarys_value_error_is_a_bug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It names no field of ours; one that this program raises does, and is a user's mistake."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    app = new_app("program", "Does little.", "1")

    @app.command()
    def read() -> None:
        json.loads("[")

    @app.command()
    def refuse() -> None:
        raise ValueError("field: wrong")

    for command, code in (("read", EXIT_BUG), ("refuse", 2)):
        with pytest.raises(SystemExit) as left:
            terminal.run_app(app, [command])
        assert left.value.code == code
    assert "a bug in program, please report it" in capsys.readouterr().err


def test_a_bug_is_reported_where_no_file_can_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(SystemExit) as stopped:
        terminal.run_app(failing(KeyError("macs")), ["--really"])
    assert stopped.value.code == EXIT_BUG
    assert "(no traceback could be written: No such file" in capsys.readouterr().err


def test_a_warning_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    app = new_app("program", "Does little.", "1")

    @app.command()
    def warn() -> None:
        warnings.warn("one\nand two", stacklevel=1)

    with pytest.raises(SystemExit) as left:
        terminal.run_app(app, ["warn"])
    assert left.value.code == 0
    assert capfd.readouterr().err == "warning: one and two\n"
