"""Consoles that print text as it is, and streams that outlive their reader."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from hwprofiles.streams import LastingStream, PlainConsole, lasting_streams

ROOT = Path(__file__).parents[2]
NAMES = ["[/b]", "[red]x[/red]", ":smile:", "[link=x]", "a\x1b[31mb", "\udcff", "$x^{2$", "100 %"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_printed_as_it_is(name: str) -> None:
    stream = io.StringIO()
    console = PlainConsole(file=stream, force_terminal=True, width=60)
    table = Table(name, title=name)
    table.add_row(name)
    console.print(table)
    console.print(name)
    console.rule(name)
    shown = name.replace("\x1b", "\\x1b").replace("\udcff", "\\udcff")
    assert stream.getvalue().count(shown) == 5


def test_there_is_no_other_console() -> None:
    """One that reads markup in a name would fail over it, or show another one."""
    for path in [
        p for package in ("hwprofiles", "cpt_nas") for p in (ROOT / package).rglob("*.py")
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                assert called != "Console", path
                if called == "TextColumn":
                    assert "markup" in [word.arg for word in node.keywords], path


@pytest.fixture
def without_reader() -> io.TextIOWrapper:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


def test_without_a_reader_the_work_goes_on(
    without_reader: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", without_reader)
    with lasting_streams():
        for _ in range(3):
            print("x" * 10_000, flush=True)
            PlainConsole().print("more")
    without_reader.close()  # what was left in it is gone as well


@pytest.mark.parametrize("vital", [True, False])
def test_a_full_disk_is_an_error_where_it_matters(vital: bool) -> None:
    with open("/dev/full", "w") as full:
        stream = LastingStream(full, "stdout", vital)
        stream.write("x")
        if vital:
            with pytest.raises(OSError, match=r"No space left.*'stdout'"):
                stream.flush()
        stream.flush()


def test_a_closed_stream_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with lasting_streams():
        print("x")
        PlainConsole().print("x")
    assert sys.stdout is None


def test_what_an_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with lasting_streams():
        print("log γ")
        table = Table("γ")
        table.add_row("x × y")
        PlainConsole(width=40).print(table)
        sys.stdout.flush()
    shown = raw.getvalue().decode("ascii")
    assert shown.startswith("log \\u03b3\n") and "x \\xd7 y" in shown


@pytest.mark.slow
@pytest.mark.parametrize("redirected", ["| head -n 1", ">&-", "2>&-", "<&-"])
def test_a_command_ends_well_whoever_reads(redirected: str) -> None:
    command = f"set -o pipefail; '{sys.executable}' -m hwprofiles schema {redirected}"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("{") == (redirected != ">&-")
