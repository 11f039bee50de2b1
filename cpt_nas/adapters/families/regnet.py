"""timm.models.regnet: Bottleneck and PreBottleneck.

Their 3x3 convolutions have groups, so the units are whole groups of channels.
"""

from __future__ import annotations

from timm.models.regnet import Bottleneck, PreBottleneck
from torch import nn

from cpt_nas.adapters.residual import chain_block


def _no_shortcut(block: nn.Module) -> str:
    return "" if block.downsample is not None else "it has no shortcut"


chain_block(
    Bottleneck,
    chain=("conv1", "conv2", "se", "conv3"),
    shortcut="downsample",
    act="act3",
    nonnegative=True,
    skip=_no_shortcut,
)
chain_block(
    PreBottleneck,
    chain=("conv1", "norm2", "conv2", "se", "norm3", "conv3"),
    shortcut="downsample",
    pre=("norm1",),
    shortcut_after_pre="always",
    skip=_no_shortcut,
)
