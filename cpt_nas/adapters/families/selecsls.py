"""timm.models.selecsls: filters that a single layer reads. All others are joined."""

from __future__ import annotations

from dataclasses import replace

from timm.models.selecsls import SelecSls, SelecSlsBlock
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Count, Refusal
from cpt_nas.adapters.chains import unit_groups

_NO_SKIP = "it has no skip connection"


@REGISTRY.add(SelecSlsBlock)
def selecsls_block(block: nn.Module) -> list[Branch] | Refusal:
    """conv1 - conv2 - conv3 - conv4 - conv5, of which conv1, conv3 and conv5 are joined."""
    pairs = [unit_groups(block, pair) for pair in (("conv2", "conv3"), ("conv4", "conv5"))]
    groups = tuple(group for found, _ in pairs for group in found)
    return [Branch("", groups, (), "", (), None, _NO_SKIP, "its other layers are joined")]


@REGISTRY.add(SelecSls)
def selecsls_head(model: nn.Module) -> list[Branch] | Refusal:
    """The convolutions behind the blocks; what the model says of its feature maps follows."""
    assert isinstance(model, SelecSls)
    groups, uncut = unit_groups(model, [f"head.{i}" for i in range(len(model.head))])
    kept = []
    for group in groups:
        counts = list(group.counts)
        for index, info in enumerate(model.feature_info):
            if any(name.startswith(info["module"] + ".") for name in group.produced_by):
                counts.append(Count("", f"feature_info.{index}.num_chs"))
        kept.append(replace(group, counts=tuple(counts)))
    return [Branch("head", tuple(kept), (), "", (), None, _NO_SKIP, uncut)]
