"""timm.models.efficientvit_mit: every branch stands in a ResidualBlock. The heads of its linear
attention share one grouped convolution a scale: they stay."""

from __future__ import annotations

from timm.models.efficientvit_mit import (
    ConvBlock,
    ConvNormAct,
    DSConv,
    FusedMBConv,
    MBConv,
    ResidualBlock,
)
from torch import nn

from cpt_nas.adapters.chains import CONTAINERS
from cpt_nas.adapters.residual import chain_block

CONTAINERS[ConvNormAct] = ("dropout", "conv", "norm", "act")
CONTAINERS[DSConv] = ("depth_conv", "point_conv")
CONTAINERS[ConvBlock] = ("conv1", "conv2")
CONTAINERS[MBConv] = ("inverted_conv", "depth_conv", "point_conv")
CONTAINERS[FusedMBConv] = ("spatial_conv", "point_conv")


def without_skip(block: nn.Module) -> str:
    """Of a block that keeps its shortcut's module: why it has none."""
    return "" if block.shortcut is not None else "it has no skip connection"


chain_block(ResidualBlock, chain=("pre_norm", "main"), shortcut="shortcut", skip=without_skip)
