"""L of eq. 13, and what the papers count as a layer."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import cpt_nas
from cpt_nas.costs.cost_model import build_cost
from cpt_nas.costs.sections import count_sections
from cpt_nas.pruning.search_space import find_branches
from hwprofiles.fit import WEIGHT_LAYERS
from tests.support.tiny import lenet


def made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    if name == "lenet":
        return lenet(), (3, 32, 32)
    if "lenet" in name:
        name, _, skip = name.partition("+")
        return timm.create_model(name, skip=bool(skip)), (1, 28, 28)
    if name.startswith("cpt_"):
        return timm.create_model(name), (3, 32, 32)
    return timm.create_model(name), (3, 64, 64)


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("lenet", 4),
        ("cpt_lenet300", 3),
        ("cpt_lenet300+skip", 3),
        ("cpt_lenet5", 4),
        ("cpt_lenet5+skip", 4),
        ("cpt_vgg16", 15),
        ("cpt_resnet20", 9),
        ("cpt_resnet56", 27),
        ("resnet18", 8),
        ("test_vit", 12),
    ],
)
def test_sections(name: str, sections: int) -> None:
    model, size = made(name)
    space = find_branches(model)
    cost = build_cost(model, torch.zeros(1, *size), space)
    assert count_sections(space, cost.terms) == sections


def test_what_is_left_out_of_the_search_does_not_change_the_price_of_the_rest() -> None:
    x = torch.zeros(1, 3, 32, 32)
    slopes = []
    for settings in ({}, {"include": ["layer2.0"]}, {"gate": "units"}):
        search = cpt_nas.attach(timm.create_model("cpt_resnet20"), x, log_gamma=0.1, **settings)
        assert search.expected_cost() == pytest.approx(1)
        search.penalty().backward()
        slopes.append(search.gates["layer2/0/act1"].theta.grad)
    assert torch.allclose(slopes[0], slopes[1]) and torch.allclose(slopes[0], slopes[2])


def test_a_projection_is_no_layer() -> None:
    model = timm.create_model("resnet50")
    cost = build_cost(model, torch.zeros(1, 3, 64, 64), find_branches(model))
    weights = [t for t in cost.terms if t.layer.type in WEIGHT_LAYERS]
    on_skips = [t.layer.name for t in weights if t.projection]
    assert on_skips == [f"layer{i}.0.downsample.0" for i in (1, 2, 3, 4)]
    assert len(weights) - len(on_skips) == 50
