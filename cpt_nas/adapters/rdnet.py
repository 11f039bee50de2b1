"""timm.models.rdnet: the hidden units of a dense block. Its outputs are joined to all that came
before, so they stay, and there is no skip connection."""

from __future__ import annotations

from timm.models.rdnet import Block, BlockESE
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import unit_groups


@REGISTRY.add(Block, BlockESE)
def block(block: nn.Module) -> list[Branch] | Refusal:
    """depthwise - norm - 1x1 - act - 1x1."""
    groups, uncut = unit_groups(block, tuple(f"layers.{i}" for i in range(5)))
    return [Branch("", groups, (), "", (), None, "it has no skip connection", uncut)]
