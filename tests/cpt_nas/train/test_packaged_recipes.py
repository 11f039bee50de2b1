"""Every recipe in recipes/smoke, shortened: ends in an exported, reloaded, smaller plain model."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from cpt_nas.pruning.structure import load_structure
from cpt_nas.train import recipe
from cpt_nas.train.recipe import load_recipe
from cpt_nas.train.train import train

RECIPES = sorted((recipe.RECIPES / "smoke").glob("*.yaml"))


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
