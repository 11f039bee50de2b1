"""Whole runs on a few digits: resume, kill, EMA, two processes, the folder they leave."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import timm

import hwprofiles
from cpt_nas.data.in_memory import MemoryBatches
from cpt_nas.pruning.structure import load_structure
from cpt_nas.train.train import train
from hwprofiles.streams import PlainConsole
from tests.support.profiles import synthetic_profile
from tests.support.trainings import QUIET, Stop, interrupted_after, recipe, same


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv").drop(columns="epoch_s")


@pytest.mark.parametrize(
    ("opt", "epochs"),  # before, while and after gates are decided
    [*((opt, n) for opt in ("sgd", "adamw") for n in (1, 2, 3)), ("lookahead_momentum", 2)],
)
def test_resumed_is_uninterrupted(tmp_path, monkeypatch, epochs: int, opt: str) -> None:
    changes = {"train": {"opt": opt, "lr": 0.003 if opt == "adamw" else 0.05, "model_ema": True}}
    whole = train(recipe(**changes), tmp_path / "whole", console=QUIET)
    restore = interrupted_after(epochs, monkeypatch)
    with pytest.raises(Stop):
        train(recipe(**changes), tmp_path / "parts", console=QUIET)
    restore()
    parts = train(recipe(**changes), tmp_path / "parts", resume=True, console=QUIET)
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert (tmp_path / "whole" / "structure.json").read_text() == (
        tmp_path / "parts" / "structure.json"
    ).read_text()
    pd.testing.assert_frame_equal(history(tmp_path / "whole"), history(tmp_path / "parts"))
    for key in ("test_acc", "test_loss", "macs", "params", "train_load"):
        assert whole[key] == parts[key]
    assert whole["macs"] < whole["macs_dense"]


def test_a_finished_run_has_a_whole_folder(tmp_path) -> None:
    result = train(recipe(), tmp_path / "run", console=QUIET)
    folder = tmp_path / "run"
    for name in ("recipe.yaml", "args.yaml", "summary.csv", "history.csv", "structure.json"):
        assert (folder / name).stat().st_size > 0
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["status"] == "finished"
    back = timm.create_model(f"local-dir:{folder / 'export'}", pretrained=True)
    assert sum(p.numel() for p in back.parameters()) == result["params"]
    assert load_structure(folder / "structure.json").branches_left == result["branches"]
    layers = pd.read_csv(folder / "layers.csv")
    assert layers["params"].sum() == result["params"]
    assert layers["macs_dense"].sum() == pytest.approx(result["macs_dense"])
    assert not list(folder.glob("*.tmp"))
    rows = history(folder)
    assert rows["train_load"].is_monotonic_decreasing
    assert rows["macs_ratio"].iloc[-1] < 1


def test_the_export_says_how_test_images_were_prepared(tmp_path, monkeypatch) -> None:
    """Not how timm prepares them for the model by default."""
    monkeypatch.setattr(MemoryBatches, "crop_pct", 0.8)
    train(recipe(search=None, train={"epochs": 1}), tmp_path / "run", console=QUIET)
    config = json.loads((tmp_path / "run" / "export" / "config.json").read_text())
    said = config["pretrained_cfg"]
    assert (said["crop_pct"], said["interpolation"]) == (0.8, "bilinear")


def test_a_dense_run_changes_nothing(tmp_path) -> None:
    result = train(recipe(search=None, train={"epochs": 1}), tmp_path / "run", console=QUIET)
    assert result["macs"] == result["macs_dense"]
    assert result["kind"] == "dense"
    assert result["train_load"] == 1


def test_a_used_folder_is_refused_and_left_alone(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        train(recipe(), tmp_path, console=QUIET)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("damage", ["missing", "cut short", "other bytes"])
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path, damage: str) -> None:
    short = recipe(train={"epochs": 1})
    train(short, tmp_path / "run", console=QUIET)
    path = tmp_path / "run" / "last.pth.tar"
    if damage == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if damage == "cut short" else b"no archive")
    with pytest.raises(ValueError, match="resume: ") as caught:
        train(short, tmp_path / "run", resume=True, console=QUIET)
    assert "\n" not in str(caught.value)


def test_a_killed_process_resumes(tmp_path) -> None:
    """SIGKILL at an arbitrary moment after the first checkpoint; then the run is finished."""
    long, folder = recipe(train={"epochs": 25}), tmp_path / "run"
    process = multiprocessing.get_context("fork").Process(target=train, args=(long, folder))
    process.start()
    deadline = time.monotonic() + 120
    while not (folder / "history.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert json.loads((folder / "result.json").read_text())["status"] == "running"
    assert train(long, folder, resume=True, console=QUIET)["status"] == "finished"
    assert len(history(folder)) == 25


def test_two_processes_agree(tmp_path) -> None:
    """DDP on CPU: both ranks cut alike, nothing hangs, and the run finishes."""
    budget = {"macs_budget": 0.5, "log_gamma": None, "theta_lr": None, "freeze": 0.6}
    longer = recipe(data={"train_limit": 512}, train={"epochs": 8}, search=budget)
    (tmp_path / "recipe.yaml").write_text(longer.to_yaml())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(29500 + os.getpid() % 400), "-m", "cpt_nas", "train"]
    command += ["--recipe", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "finished"
    assert 0.4 < result["macs"] / result["macs_dense"] <= 0.5
    assert result["test_acc"] > 25  # ten classes: well above chance


def test_it_learns(tmp_path) -> None:
    """A dense tiny network and a searched one both learn digits; a search that destroys fails."""
    data = {"train_limit": 1000, "input_size": [1, 8, 8]}
    wide = {"kwargs": {"layers": [1, 1, 1], "channels": [16, 16, 32]}}
    gentle = {"log_gamma": 0.05, "theta_lr": 0.03}
    for name, search in (("dense", None), ("search", gentle)):
        found = train(
            recipe(data=data, model=wide, train={"epochs": 6}, search=search),
            tmp_path / name,
            console=QUIET,
        )
        assert found["test_acc"] > 80


def test_an_unknown_model_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"model.name: timm has no model 'resnet19x'"):
        train(recipe(model={"name": "resnet19x", "kwargs": {}}), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_doubtful_profile_is_said_before_the_first_step(tmp_path: Path) -> None:
    kwargs = recipe().model.kwargs
    model = timm.create_model("cpt_resnet20", **kwargs, num_classes=10, in_chans=1)
    profile = synthetic_profile(model, "made_up", (1, 8, 8))
    noisy = profile.protocol.model_copy(update={"verdict": "noisy", "spread": 0.25})
    hwprofiles.save(profile.model_copy(update={"protocol": noisy}), tmp_path / "p.yaml")
    search = {"profile": str(tmp_path / "p.yaml"), "latency_budget": 0.6, "log_gamma": None}
    what = recipe(data={"train_limit": 64}, train={"epochs": 1}, search=search | {"theta_lr": None})
    written = io.StringIO()
    train(what, tmp_path / "run", console=PlainConsole(file=written, width=40))
    second = written.getvalue().splitlines()[1]
    assert second.startswith("profile made_up is doubtful: its times are noisy (spread 25.0%, ")
