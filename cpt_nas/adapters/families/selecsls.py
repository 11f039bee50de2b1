"""timm.models.selecsls: the units are the filters that only one layer reads."""

from __future__ import annotations

from timm.models.selecsls import SelecSls, SelecSlsBlock
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import unit_groups

_NO_SKIP = "it has no skip connection"


@REGISTRY.add(SelecSlsBlock)
def selecsls_block(block: nn.Module) -> list[Branch] | Refusal:
    """The chain is conv1 to conv5. The outputs of conv1, conv3 and conv5 are concatenated."""
    pairs = [unit_groups(block, pair) for pair in (("conv2", "conv3"), ("conv4", "conv5"))]
    groups = tuple(group for found, _ in pairs for group in found)
    return [Branch("", groups, (), "", (), None, _NO_SKIP, "its other layers are joined")]


@REGISTRY.add(SelecSls)
def selecsls_head(model: nn.Module) -> list[Branch] | Refusal:
    """The units between the convolutions after the blocks."""
    assert isinstance(model, SelecSls)
    groups, uncut = unit_groups(model, [f"head.{i}" for i in range(len(model.head))])
    return [Branch("head", groups, (), "", (), None, _NO_SKIP, uncut)]
