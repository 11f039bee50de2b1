"""timm.models.rdnet: the units are the inner filters of a dense block.

A block's outputs are concatenated to those of all blocks before it, so they cannot be cut. There is
no skip connection.
"""

from __future__ import annotations

from timm.models.rdnet import Block, BlockESE, DenseBlock
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import CONTAINERS, unit_groups

CONTAINERS[Block] = ("layers",)
CONTAINERS[BlockESE] = ("layers",)


@REGISTRY.add(DenseBlock)
def dense_block(block: nn.Module) -> list[Branch] | Refusal:
    """The chain is depthwise conv - norm - 1x1 conv - act - 1x1 conv (- ESE)."""
    groups, uncut = unit_groups(block, ("layers",))
    return [Branch("", groups, (), "", (), None, "it has no skip connection", uncut)]
