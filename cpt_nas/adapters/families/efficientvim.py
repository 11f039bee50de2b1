"""timm.models.efficientvim: the units are the hidden channels of its Mlps.

No branch can be removed: a block takes a weighted mean of its input and the branch, and the weights
of its four branches are in one parameter.
"""

from __future__ import annotations

from timm.models.efficientvim import FFN, ConvLayer2d, PatchMerging
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import CONTAINERS, unit_groups

CONTAINERS[ConvLayer2d] = ("conv", "norm", "act")
_REASON = "the stream is weighed against it"


@REGISTRY.add(FFN)
def ffn(block: nn.Module) -> list[Branch] | Refusal:
    """The units are the channels between fc1 and fc2."""
    groups, uncut = unit_groups(block, ("fc1", "fc2"))
    return [Branch("", groups, (), "", (), None, _REASON, uncut)]


@REGISTRY.add(PatchMerging)
def patch_merging(block: nn.Module) -> list[Branch] | Refusal:
    """The chain is 1x1 convolution - depthwise convolution - SE - 1x1 convolution."""
    groups, uncut = unit_groups(block, ("conv",))
    return [Branch("", groups, (), "", (), None, "it has no skip connection", uncut)]
