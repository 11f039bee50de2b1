"""timm.models.levit: LevitBlock, and the hidden units of its Mlp."""

from __future__ import annotations

from timm.models.levit import ConvNorm, LevitBlock, LevitMlp, LinearNorm
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import CONTAINERS, unit_groups
from cpt_nas.adapters.mlp import within
from cpt_nas.adapters.residual import residual_block

CONTAINERS[LinearNorm] = ("linear", "bn")
CONTAINERS[ConvNorm] = ("linear", "bn")


@REGISTRY.add(LevitMlp)
def levit_mlp(block: nn.Module) -> list[Branch] | Refusal:
    """The units lie between ln1 and ln2, each a linear layer or 1x1 convolution with batch norm."""
    return within(*unit_groups(block, ("ln1", "act", "drop", "ln2")))


residual_block(LevitBlock, ("attn", "drop_path1"), ("mlp", "drop_path2"))
