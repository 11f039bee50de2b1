"""Whatever value an option is given: it is taken, or refused in one line, and nothing is written.

Every command of both programs runs up to where it would begin to train or to measure.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from cpt_nas.cli import app
from cpt_nas.train import train as training
from hwprofiles import cli as profiles_cli
from hwprofiles import save, terminal
from tests.support.run_folders import add_export, synthetic_profile, write_run

RECIPE = """
model: {name: cpt_resnet20, kwargs: {layers: [1, 1, 1], channels: [8, 8, 8]}}
data: {name: digits, input_size: [1, 8, 8], augment: crop, train_limit: 64}
train: {epochs: 1, batch_size: 32, threads: 1}
search: {macs_budget: 0.5}
"""
MEASURED = ["cpt_resnet20", "--input-size", "1", "8", "8", "--threads", "1", "-o", "new.yaml"]
# Calls that would go well, up to the training or the measuring.
CALLS: dict[str, list[str]] = {
    "cpt-nas train": ["--recipe", "recipe.yaml", "-o", "new"],
    "cpt-nas retrain": ["run", "-o", "new"],
    "cpt-nas inspect": ["cpt_resnet20"],
    "cpt-nas export": ["run", "-o", "new"],
    "cpt-nas report": ["run", "-o", "new"],
    "cpt-nas demo": ["-o", "new"],
    "cpt-nas kit": ["cpt_resnet20", "-o", "new"],
    "cpt-nas profile": MEASURED,
    "cpt-nas validate-profile": ["p.yaml", "cpt_resnet20"],
    "hwprofiles measure": MEASURED,
    "hwprofiles show": ["p.yaml"],
    "hwprofiles compare": ["p.yaml", "p.yaml"],
    "hwprofiles check": ["p.yaml"],
    "hwprofiles seal": ["p.yaml"],
}
FEW = ("", "nan", "[/b]")
MANY = (
    *("0", "-1", "1e300", "inf", "99999999999999999999", "1e-3", "x" * 5000, "ünï\udcff", "."),
    *("recipe.yaml", "binary", "run", "a=[", "=", "cpt_resnet20=1", "a.b=1"),
)
TYPOS = [
    ["cpt-nas inspect", "cpt_resnet20", "--model-kwargs", "x=["],
    ["cpt-nas inspect", "cpt_resnet20", "--model-kwargs", "channels=[0, 8, 8]"],
    ["cpt-nas inspect", "cpt_resnet20", "--model-kwargs", "act_layer=rellu"],
    ["cpt-nas inspect", "resnet18.no_such_tag"],
    ["cpt-nas inspect", "cpt_pruned"],
    ["cpt-nas profile", "vit_tiny_patch16_224", "--input-size", "3", "17", "17", "-o", "new.yaml"],
    ["hwprofiles measure", "test_vit", "--input-size", "3", "17", "17", "-o", "new.yaml"],
    ["hwprofiles measure", *MEASURED, "--seed", "-1"],
    ["hwprofiles measure", *MEASURED, "--seconds", "nan"],
    ["hwprofiles measure", *MEASURED, "--threads", "1000000"],
    ["hwprofiles measure", "cpt_resnet20", "--model-kwargs", "in_chans=x", "-o", "new.yaml"],
    ["hwprofiles measure", *MEASURED, "--import", "broken"],
    ["hwprofiles show", "no[/b]"],
    ["hwprofiles check", "binary"],
    ["cpt-nas export", "run", "-o", "recipe.yaml/x"],
    ["cpt-nas demo", "--epochs", "99999999999999999999", "-o", "new"],
    ["cpt-nas train", "--recipe", ".", "-o", "new"],
    ["cpt-nas train", "--recipe", "binary", "-o", "new"],
    ["cpt-nas train", "--recipe", "recipe.yaml", "--profile", "", "-o", "new"],
    ["cpt-nas train", "--recipe", "recipe.yaml", "--set", "search.theta_lr=1e300", "-o", "new"],
    ["cpt-nas report", "run", "--profile", "binary", "-o", "new"],
]


class Reached(OSError):
    pass


def reached(*_: object, **__: object) -> None:
    raise Reached("reached")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("typos")
    add_export(write_run(folder / "run"))
    save(synthetic_profile("home", 1e-6), folder / "p.yaml")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "binary").write_bytes(bytes(range(256)))
    (folder / "broken.py").write_text("raise RuntimeError('broken')\n")
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(tmp_path / "work")
    monkeypatch.setattr(training, "build_training", reached)
    monkeypatch.setattr(sys.modules["hwprofiles.measure"], "place", reached)
    monkeypatch.setattr("cpt_nas.calibration.profiling.validate", reached)
    monkeypatch.setattr("cpt_nas.calibration.kit.write_kit", reached)
    monkeypatch.setattr("cpt_nas.deploy.deploy.time_runners", reached)
    monkeypatch.setattr("cpt_nas.report.report.DPI", 20)
    return tmp_path / "work"


def commands() -> Iterator[tuple[str, click.Command]]:
    for program, application in (("cpt-nas", app), ("hwprofiles", profiles_cli.app)):
        group: Any = typer.main.get_command(application)
        for name, command in group.commands.items():
            yield f"{program} {name}", command


def options_of(name: str) -> list[str]:
    options = [max(p.opts, key=len) for p in dict(commands())[name].params]
    return [o for o in options if o.startswith("-") and o not in ("--output", "--help")]


def run(call: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    program, command = call.split()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        terminal.run_app(app if program == "cpt-nas" else profiles_cli.app, [command, *arguments])
    return int(stopped.value.code or 0), capsys.readouterr().err


def names(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if "__pycache__" not in str(path))


def refused_well(code: int, error: str) -> None:
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert code in (0, 1, 2), error  # 1 is an answer of `hwprofiles check`
    assert len(lines) == (code == 2), error
    assert all(len(line) <= 300 and line.isprintable() for line in lines)
    assert "Traceback" not in error


def test_every_command_has_a_call_that_goes_well(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(CALLS) == {name for name, _ in commands()} - {"hwprofiles schema"}
    for call, arguments in CALLS.items():
        code, error = run(call, arguments, capsys)
        assert code in (0, 1) or error.endswith("error: reached\n"), (call, error)
        shutil.rmtree(folder / "new", ignore_errors=True)


@pytest.mark.parametrize("values", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=len)
@pytest.mark.parametrize(
    ("call", "option"), [(call, option) for call in CALLS for option in options_of(call)]
)
def test_a_typo_in_an_option_is_taken_or_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], call: str, option: str, values: tuple[str]
) -> None:
    before = names(folder)
    for value in values:
        arguments = [*CALLS[call], f"{option}={value}"]
        code, error = run(call, arguments, capsys)
        refused_well(code, error)
        if code == 2 and "reached" not in error:
            assert names(folder) == before, arguments
        shutil.rmtree(folder / "new", ignore_errors=True)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("call", TYPOS, ids=lambda call: " ".join(call))
def test_a_typo_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], call: list[str]
) -> None:
    before = names(folder)
    code, error = run(call[0], call[1:], capsys)
    refused_well(code, error)
    assert code == 2 and "reached" not in error
    assert names(folder) == before
