"""The command line: one line for a mistake, exit code 2, nothing half-written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = """
model: {name: cpt_resnet20, kwargs: {layers: [1, 1, 1], channels: [8, 8, 8]}}
data: {name: digits, input_size: [1, 8, 8], augment: crop, train_limit: 64}
train: {epochs: 1, batch_size: 32, threads: 1}
"""


def cpt_nas(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cpt_nas.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "search.yaml").write_text(RECIPE + "search: {log_gamma: 0.1}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe", "absent.yaml"], "no such file: absent.yaml"),
        (["train"], "--recipe: is missing"),
        (["train", "--recipe", "recipe.yaml", "--set", "train.x=3"], "train.x: unknown key"),
        (["train", "--recipe", "recipe.yaml", "--set", "train.epochs=no"], "train.epochs"),
        (["train", "--recipe", "recipe.yaml", "--profile", "p.yaml"], "no search section"),
        (["train", "--recipe", "search.yaml", "--profile", "absent.yaml"], "absent.yaml"),
        (["train", "--recipe", "search.yaml", "--set", "search.alpha=2"], "search.alpha"),
        (["train", "--recipe", "search.yaml", "--set", "model.name=vgg11"], "nothing can"),
        (["train", "--recipe", "recipe.yaml", "--set", "model.name=resnet19"], "no model"),
        (["train", "--recipe", "recipe.yaml", "--set", "data.name=images"], "data.root"),
        (["train", "--resume", "nowhere"], "no such file"),
        (["inspect", "resnet_18"], "timm has no 'resnet_18'"),
        (["inspect", "resnet18", "--exclude", "stage9*"], "'stage9*' matches no branch"),
        (["inspect", "vgg11"], "nothing can be gated"),
        (["export", "nowhere", "-o", "out"], "nowhere has no export/config.json"),
        (["report", "nowhere", "-o", "out"], "nowhere"),
        (["train", "--recpe", "x"], "--recpe"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    folder: Path, arguments: list[str], message: str
) -> None:
    before = sorted(p.name for p in folder.rglob("*"))
    extra = ["-o", "out"] if arguments[0] == "train" and "--resume" not in arguments else []
    done = cpt_nas(*arguments, *extra, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = [line for line in done.stderr.splitlines() if line.strip()]
    assert message in " ".join(last)
    errors = [line for line in last if line.startswith("error:")]
    assert len(errors) == 1
    assert sorted(p.name for p in folder.rglob("*")) == before


def test_inspect_names_what_is_gated_and_what_is_not(tmp_path: Path) -> None:
    done = cpt_nas("inspect", "resnet18", "--exclude", "layer4.1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "layer1.0" in done.stdout
    assert "act1: 64 filters" in done.stdout
    assert "not gated: layer4.1: excluded by pattern" in done.stdout
    assert "conv1, bn1, fc: outside any block" in done.stdout


@pytest.mark.parametrize("command", ["train", "inspect", "export", "report", "demo"])
def test_help_has_an_example_or_says_what_happens(command: str, tmp_path: Path) -> None:
    done = cpt_nas(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "cpt-nas " in done.stdout or "demo" in done.stdout


def test_train_and_export(folder: Path) -> None:
    done = cpt_nas("train", "--recipe", "search.yaml", "-o", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert "epoch   1/1" in done.stderr
    done = cpt_nas("export", "run", "-o", "model", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (folder / "model").iterdir()} == {"config.json", "model.safetensors"}
    done = cpt_nas("train", "--recipe", "search.yaml", "-o", "run", cwd=folder)
    assert done.returncode == 2
    assert "is not empty" in done.stderr
