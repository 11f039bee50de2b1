"""Torch-Pruning as an oracle: the same filters removed by its dependency graph give our outputs.

Optional: needs ``pip install torch-pruning``; skipped where that is missing.
"""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from cpt_nas.pruning import surgery
from cpt_nas.pruning.search_space import find_branches
from tests.support.networks import randomize_all
from tests.support.searches import close

tp = pytest.importorskip("torch_pruning")

# Families whose units are single filters; Torch-Pruning cuts whole groups by rules of its own.
NAMES = {
    "resnet": ("test_resnet", {}),
    "resnet_deep_stem": ("resnet10t", {}),
    "seresnet": ("resnet10t", {"block_args": {"attn_layer": "se"}}),
    "mobilenetv2": ("mobilenetv2_035", {}),
    "mobilenetv3": ("mobilenetv3_small_050", {}),
    "mobilenetv4": ("mobilenetv4_conv_small_035", {}),
    "mnasnet": ("mnasnet_small", {}),
    "efficientnet": ("test_efficientnet", {}),
    "efficientnet_edge": ("efficientnet_es_pruned", {}),
    "vgg": ("vgg11_bn", {"mlp_ratio": 0.01}),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(NAMES))
def test_the_same_removal_gives_the_same_outputs(family: str) -> None:
    name, kwargs = NAMES[family]
    torch.manual_seed(0)
    model = randomize_all(timm.create_model(name, num_classes=4, **kwargs)).double().eval()
    x = torch.randn(2, 3, 64, 64).double()
    theirs, ours = copy.deepcopy(model), model
    generator = torch.Generator().manual_seed(0)
    plan = surgery.Plan()
    compared = 0
    for found in find_branches(ours).branches:
        for group in found.branch.groups:
            keep = torch.rand(group.size, generator=generator) > 0.4
            keep[0], keep[1] = True, False
            kept, gone = keep.nonzero().flatten(), (~keep).nonzero().flatten()
            surgery.plan_units(plan, found.block, found.branch, {group.name: kept})
            # The first slice is of the layer that makes the units.
            producer = surgery.join(found.block, group.slices[0].tensor.removesuffix(".weight"))
            conv = theirs.get_submodule(producer)
            assert isinstance(conv, nn.Conv2d)
            graph = tp.DependencyGraph().build_dependency(theirs, example_inputs=x)
            pruned = graph.get_pruning_group(conv, tp.prune_conv_out_channels, gone.tolist())
            pruned.prune()
            compared += 1
    assert compared >= 3
    surgery.apply(plan, ours)
    assert close(ours(x), theirs(x))
    mine = {n: tuple(p.shape) for n, p in ours.named_parameters()}
    assert mine == {n: tuple(p.shape) for n, p in theirs.named_parameters()}
