"""timm.models.efficientvim: the hidden units of its Mlps. The blocks weigh stream and branch
against each other by a parameter that four branches share: no branch goes."""

from __future__ import annotations

from timm.models.efficientvim import FFN, ConvLayer2d, PatchMerging
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import CONTAINERS, unit_groups

CONTAINERS[ConvLayer2d] = ("conv", "norm", "act")
_REASON = "the stream is weighed against it"


@REGISTRY.add(FFN)
def ffn(block: nn.Module) -> list[Branch] | Refusal:
    """fc1 - fc2."""
    groups, uncut = unit_groups(block, ("fc1", "fc2"))
    return [Branch("", groups, (), "", (), None, _REASON, uncut)]


@REGISTRY.add(PatchMerging)
def patch_merging(block: nn.Module) -> list[Branch] | Refusal:
    """1x1 - depthwise - SE - 1x1."""
    groups, uncut = unit_groups(block, ("conv",))
    return [Branch("", groups, (), "", (), None, "it has no skip connection", uncut)]
