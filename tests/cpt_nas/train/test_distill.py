"""Learning from a teacher: the loss, what it costs, the run's own copy, and who cannot teach."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from cpt_nas.train.recipe import Recipe
from cpt_nas.train.train import train
from tests.support.trainings import QUIET, Stop, everything, interrupted_after, recipe

DATA = {"train_limit": 64, "mean": [0.3], "std": [0.4]}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense run: its weights and its exported folder."""
    folder = tmp_path_factory.mktemp("first") / "run"
    many = DATA | {"train_limit": 500}
    train(recipe(data=many, train={"epochs": 5}, search=None), folder, console=QUIET)
    return folder


def taught(first: Path, distill: dict | None = None, **changes: Any) -> Recipe:
    training = {"epochs": 2, "lr": 0.01, "distill": {"features": 0.5} | (distill or {})}
    model = {"checkpoint": str(first / "last.pth.tar")}
    return recipe(**({"data": DATA, "model": model, "train": training} | changes))


@pytest.mark.parametrize("search", [True, False], ids=["search", "dense"])
@pytest.mark.parametrize("teacher", ["start", "export"])
def test_resumed_is_uninterrupted_without_the_teachers_files(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: bool, teacher: str
) -> None:
    theirs = Path(shutil.copytree(first, tmp_path / "theirs"))
    name = "start" if teacher == "start" else str(theirs / "export")
    what = taught(theirs, {"teacher": name}, **({} if search else {"search": None}))
    whole = train(what, tmp_path / "whole", console=QUIET)
    restore = interrupted_after(1, monkeypatch)
    with pytest.raises(Stop):
        train(what, tmp_path / "run", console=QUIET)
    restore()
    shutil.rmtree(theirs)
    train(what, tmp_path / "run", resume=True, console=QUIET)
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")
    if not search:  # a third of the teacher's forward passes, which is as large
        assert whole["train_load"] == pytest.approx(4 / 3)


def test_a_teacher_that_was_exchanged_is_refused(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = taught(first)
    with pytest.raises(Stop):
        interrupted_after(1, monkeypatch)
        train(what, tmp_path / "run", console=QUIET)
    other = taught(first, {"teacher": str(first / "export")}, search=None)
    with pytest.raises(Stop):
        interrupted_after(1, monkeypatch)
        train(other, tmp_path / "other", console=QUIET)
    config = tmp_path / "run" / "teacher" / "config.json"
    values = json.loads(config.read_text())
    values["model_args"]["checksum"] = "0" * 64
    config.write_text(json.dumps(values))
    with pytest.raises(ValueError):
        train(what, tmp_path / "run", resume=True, console=QUIET)


def test_the_teachers_outputs_are_learnt(first: Path, tmp_path: Path) -> None:
    """A fresh network that learns from the teacher alone comes nearer to it than by labels."""
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def outputs(folder: Path) -> torch.Tensor:
        with torch.no_grad():
            return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(images)

    distance = {}
    for weight in (0.01, 1.0):
        distill = {"teacher": str(first / "export"), "weight": weight, "features": 0.0}
        training = {"epochs": 4, "lr": 0.05, "distill": distill}
        data = DATA | {"train_limit": 256}
        what = recipe(data=data, model={}, search=None, train=training)
        train(what, tmp_path / str(weight), console=QUIET)
        theirs = outputs(first / "export").softmax(1)
        distance[weight] = (outputs(tmp_path / str(weight) / "export").softmax(1) - theirs).norm()
    assert distance[1.0] < distance[0.01]


@pytest.mark.parametrize(
    ("distill", "changes", "said"),
    [
        ({"teacher": "cpt_resnet20"}, {}, "timm has no weights of it"),
        ({"teacher": "nowhere"}, {}, "must be start, an exported folder"),
        (
            {"teacher": "EXPORT"},
            {"data": DATA | {"input_size": [3, 8, 8], "mean": None, "std": None}},
            "does not take",
        ),
        (
            {},
            {"model": {"kwargs": {"layers": [1, 2, 1], "channels": [8, 8, 16], "num_classes": 12}}},
            "its head is new",
        ),
        (
            {"teacher": "EXPORT"},
            {"model": {"kwargs": {"layers": [1, 2, 1], "channels": [4, 4, 4]}}},
            "no stage of the teacher",
        ),
    ],
)
def test_who_cannot_teach_is_refused(
    first: Path, tmp_path: Path, distill: dict, changes: dict, said: str
) -> None:
    if distill.get("teacher") == "EXPORT":
        distill = distill | {"teacher": str(first / "export")}
    model = {"checkpoint": str(first / "last.pth.tar")} | changes.get("model", {})
    if distill:
        model["checkpoint"] = None
    what = taught(first, distill, **(changes | {"model": model}))
    with pytest.raises(ValueError, match=f"train.distill.*{said}"):
        train(what, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_a_start_without_trained_weights_teaches_nothing(first: Path) -> None:
    with pytest.raises(ValueError, match="start is the network with trained weights"):
        taught(first, model={})
