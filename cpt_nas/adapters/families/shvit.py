"""timm.models.shvit: every branch stands in a Residual of its own. An attention has one head."""

from __future__ import annotations

from timm.models.shvit import FFN, PatchMerging, Residual
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import CONTAINERS, unit_groups
from cpt_nas.adapters.residual import residual_block

CONTAINERS[FFN] = ("pw1", "act", "pw2")
residual_block(Residual, ("m",))


@REGISTRY.add(PatchMerging)
def patch_merging(block: nn.Module) -> list[Branch] | Refusal:
    """The chain is conv1 - act1 - conv2 - act2 - SE - conv3."""
    groups, uncut = unit_groups(block, ("conv1", "act1", "conv2", "act2", "se", "conv3"))
    return [Branch("", groups, (), "", (), None, "it has no skip connection", uncut)]
