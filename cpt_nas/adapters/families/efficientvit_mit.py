"""timm.models.efficientvit_mit: every branch stands in a ResidualBlock of its own.

The heads of its linear attention are not cut: each scale has one grouped convolution for all heads.
"""

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
    """Why a block with the attribute ``shortcut`` has no skip; '' where it has one."""
    return "" if block.shortcut is not None else "it has no skip connection"


chain_block(ResidualBlock, chain=("pre_norm", "main"), shortcut="shortcut", skip=without_skip)
