"""timm.models.tiny_vit: the blocks MBConv, and the hidden units of NormMlp."""

from __future__ import annotations

from timm.models.tiny_vit import ConvNorm, MBConv, NormMlp
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import CONTAINERS, unit_groups
from cpt_nas.adapters.mlp import within
from cpt_nas.adapters.residual import chain_block

CONTAINERS[ConvNorm] = ("conv", "bn")
chain_block(MBConv, chain=("conv1", "act1", "conv2", "act2", "conv3"), act="act3")


@REGISTRY.add(NormMlp)
def norm_mlp(block: nn.Module) -> list[Branch] | Refusal:
    """The units are the hidden features between fc1 and fc2."""
    return within(*unit_groups(block, ("fc1", "act", "drop1", "fc2")))
