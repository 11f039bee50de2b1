"""timm.models.efficientvit_msra: every branch stands in a ResidualDrop of its own."""

from __future__ import annotations

from timm.models.efficientvit_msra import ConvMlp, PatchMerging, ResidualDrop
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import CONTAINERS, unit_groups
from cpt_nas.adapters.residual import residual_block

CONTAINERS[ConvMlp] = ("pw1", "act", "pw2")
residual_block(ResidualDrop, ("m",))


@REGISTRY.add(PatchMerging)
def patch_merging(block: nn.Module) -> list[Branch] | Refusal:
    """The chain is conv1 - act - conv2 - act - SE - conv3."""
    groups, uncut = unit_groups(block, ("conv1", "act", "conv2", "act", "se", "conv3"))
    return [Branch("", groups, (), "", (), None, "it has no skip connection", uncut)]
