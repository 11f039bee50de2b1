"""timm.models.dpn: the units are the inner filters of a dual path block.

A block adds part of its outputs to one path and concatenates the rest to the other, so its outputs
cannot be cut, and there is no branch gate.
"""

from __future__ import annotations

from timm.models.dpn import BnAct, BnActConv2d, DualPathBlock
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import CONTAINERS, unit_groups

CONTAINERS[BnActConv2d] = ("bn", "conv")
CONTAINERS[BnAct] = ("bn",)


@REGISTRY.add(DualPathBlock)
def dual_path_block(block: nn.Module) -> list[Branch] | Refusal:
    """The chain is c1x1_a - c3x3_b (with groups) - c1x1_c."""
    if isinstance(block.c1x1_c, BnAct):
        return Refusal("two layers read its units")
    groups, uncut = unit_groups(block, ("c1x1_a", "c3x3_b", "c1x1_c"))
    return [Branch("", groups, (), "", (), None, "its shortcut is part of a joined path", uncut)]
