"""timm.models.dpn: the inner filters of a dual path block. Its outputs are added to one path and
joined to the other, so they stay, and there is no branch gate."""

from __future__ import annotations

from timm.models.dpn import BnAct, BnActConv2d, DualPathBlock
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import CONTAINERS, unit_groups

CONTAINERS[BnActConv2d] = ("bn", "conv")
CONTAINERS[BnAct] = ("bn",)


@REGISTRY.add(DualPathBlock)
def dual_path_block(block: nn.Module) -> list[Branch] | Refusal:
    """c1x1_a - grouped c3x3_b - c1x1_c."""
    if isinstance(block.c1x1_c, BnAct):
        return Refusal("two layers read its units")
    groups, uncut = unit_groups(block, ("c1x1_a", "c3x3_b", "c1x1_c"))
    return [Branch("", groups, (), "", (), None, "its shortcut is part of a joined path", uncut)]
