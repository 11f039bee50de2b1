"""timm.models.rdnet: the inner filters of a dense block. Its outputs are joined to all that came
before, so they stay, and there is no skip connection."""

from __future__ import annotations

from timm.models.rdnet import Block, BlockESE, DenseBlock
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import CONTAINERS, unit_groups

CONTAINERS[Block] = ("layers",)
CONTAINERS[BlockESE] = ("layers",)


@REGISTRY.add(DenseBlock)
def dense_block(block: nn.Module) -> list[Branch] | Refusal:
    """Depthwise conv - norm - 1x1 conv - act - 1x1 conv (- ESE)."""
    groups, uncut = unit_groups(block, ("layers",))
    return [Branch("", groups, (), "", (), None, "it has no skip connection", uncut)]
