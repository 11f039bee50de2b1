"""Where layers stand in the structure: attention goes with its heads."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

from cpt_nas.costs.cost_model import build_cost
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import cut_to, dense_structure

SWIN: dict[str, Any] = {"embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4]}
SWIN |= {"img_size": 32, "patch_size": 2, "window_size": 4}
TOKENS, WIDTH, HEADS = 5, 32, 2


@pytest.mark.parametrize("qk_norm", (False, True))
@pytest.mark.parametrize("fused", (False, True))
def test_attention_goes_with_its_heads(
    fused: bool, qk_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timm.layers.attention.use_fused_attn", lambda: fused)
    model = timm.create_model("test_vit", img_size=32, qk_norm=qk_norm)
    x = torch.zeros(1, 3, 32, 32)
    space = find_branches(model)
    cost = build_cost(model, x, space)
    products = ("scaled_dot_product_attention", "matmul")
    own = [i for i, t in enumerate(cost.terms) if t.layer.type in products]
    assert len(own) == len(model.blocks) * (1 if fused else 2)

    structure = dense_structure(space, "", {})
    dense = cost.per_layer(structure, "macs")
    assert sum(dense[i] for i in own) == len(model.blocks) * 2 * HEADS * TOKENS**2 * WIDTH
    assert sum(dense) == cost.of_structure(structure)["macs"]
    for name, branch in structure.branches.items():
        if name.endswith("attn"):
            (heads,) = branch.units.values()
            heads.kept = [0]
    halved = cost.per_layer(structure, "macs")
    assert [halved[i] for i in own] == [dense[i] / HEADS for i in own]

    smaller = cut_to(copy.deepcopy(model), structure)
    cut = build_cost(smaller, x, find_branches(smaller))
    counted = {t.layer.name: t.layer.macs for t in cut.terms}
    assert [halved[i] for i in own] == [counted[cost.terms[i].layer.name] for i in own]


@pytest.mark.parametrize("batch", (2, 3, 8))
def test_costs_do_not_depend_on_the_batch(batch: int) -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", **SWIN)
    costs = [_costs(model, torch.zeros(b, 3, 32, 32)) for b in (1, batch)]
    assert costs[0] == costs[1]


def _costs(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    space = find_branches(model)
    return build_cost(model, x, space).of_structure(dense_structure(space, "", {}))
