"""timm.models.selecsls: filters that a single layer reads. All others are joined, or are feature
maps of the model."""

from __future__ import annotations

from timm.models.selecsls import SelecSls, SelecSlsBlock
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
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
    """The convolutions behind the blocks, those that are feature maps left whole."""
    assert isinstance(model, SelecSls)
    taps = {info["module"] for info in model.feature_info}
    last = len(model.head) - 1
    pairs = [(f"head.{i}", f"head.{i + 1}") for i in range(last) if f"head.{i}" not in taps]
    groups = tuple(group for pair in pairs for group in unit_groups(model, pair)[0])
    return [Branch("head", groups, (), "", (), None, _NO_SKIP, "the others are feature maps")]
