"""Every recipe in recipes/smoke and recipes/papers, shortened: ends in an exported plain model."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from cpt_nas.pruning.structure import load_structure
from cpt_nas.train import recipe
from cpt_nas.train.recipe import load_recipe
from cpt_nas.train.train import train
from tests.support.image_files import members, write_folder

RECIPES = sorted((recipe.RECIPES / "smoke").glob("*.yaml"))
PAPERS = sorted((recipe.RECIPES / "papers").glob("*.yaml"))
QUICK = {"lenet300_mnist", "resnet20_cifar100"}  # every kind of schedule but the steps


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_smoke_recipe(path: Path, tmp_path: Path) -> None:
    # Two epochs of a stronger search: what is asserted is the way through, not the accuracy.
    recipe = load_recipe(path, ["train.epochs=2", "search.log_gamma=1.0", "search.theta_lr=0.05"])
    train(recipe, tmp_path / "run")
    structure = load_structure(tmp_path / "run" / "structure.json")
    kwargs = recipe.model.kwargs | {"in_chans": 1, "num_classes": 10}
    dense = timm.create_model(recipe.model.name, **kwargs)
    back = timm.create_model(f"local-dir:{tmp_path / 'run' / 'export'}", pretrained=True).eval()
    assert type(back) is type(dense)
    assert sum(p.numel() for p in back.parameters()) < sum(p.numel() for p in dense.parameters())
    assert any(len(u.kept) < u.total for b in structure.branches.values() for u in b.units.values())
    assert back(torch.rand(2, *recipe.data.input_size)).isfinite().all()


def test_there_is_a_recipe_of_every_kind() -> None:
    kinds = {"mobilenetv3", "efficientnet_lite", "convnext", "vit", "regnet", "swin"}
    assert {p.stem for p in RECIPES} == kinds


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem not in QUICK), id=p.stem) for p in PAPERS],
)
def test_two_steps_of_a_paper(path: Path, tmp_path: Path) -> None:
    """Two epochs of one step, on two classes of images made here."""
    for split in ("train", "test"):
        write_folder(tmp_path / "images" / split, members(2, size=(32, 32)))
    sets = [f"data.root={tmp_path / 'images'}", "train.epochs=2", "train.batch_size=4"]
    shape = load_recipe(path).train
    sets += ["train.decay_milestones=[1]"] if shape.decay_milestones else []
    sets += ["train.cycle_limit=2"] if shape.cycle_limit > 1 else []
    # Full pictures take minutes.
    sets += ["data.input_size=[3, 64, 64]"] if path.stem == "resnet50_imagenet" else []
    run = load_recipe(path, sets)
    result = train(run, tmp_path / "run")
    assert result["status"] == "finished"
    back = timm.create_model(f"local-dir:{tmp_path / 'run' / 'export'}", pretrained=True).eval()
    assert back(torch.rand(2, *run.data.input_size)).shape == (2, 2)


def test_papers_have_their_recipes() -> None:
    resnets = {
        f"resnet{d}_{data}" for d in (20, 32, 44, 56, 110) for data in ("cifar10", "cifar100")
    }
    chains = {"lenet300_mnist", "lenet5_mnist", "vgg16_cifar10"}
    assert {p.stem for p in PAPERS} == resnets | chains | {"resnet50_imagenet"}


@pytest.mark.parametrize("path", PAPERS, ids=lambda p: p.stem)
def test_a_papers_recipe_says_what_is_known_and_what_was_run(path: Path) -> None:
    comment = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    for words in ("Paper:", "Run here", "Images:"):
        assert words in comment
    assert "Goal:" in comment or "Should reach:" in comment
