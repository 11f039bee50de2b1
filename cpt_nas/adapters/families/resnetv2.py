"""timm.models.resnetv2: two pre-activation blocks and one post-activation block.

In models with batch norm the filters can be cut. The weights of BiT are standardised over their
inputs, so its units are not cut.
"""

from __future__ import annotations

from timm.models.resnetv2 import Bottleneck, PreActBasic, PreActBottleneck

from cpt_nas.adapters.residual import chain_block

chain_block(
    PreActBasic,
    chain=("conv1", "norm2", "conv2"),
    shortcut="downsample",
    pre=("norm1",),
    shortcut_after_pre="if projected",
)
chain_block(
    PreActBottleneck,
    chain=("conv1", "norm2", "conv2", "norm3", "conv3"),
    shortcut="downsample",
    pre=("norm1",),
    shortcut_after_pre="if projected",
)
chain_block(
    Bottleneck,
    chain=("conv1", "norm1", "conv2", "norm2", "conv3", "norm3"),
    shortcut="downsample",
    act="act3",
)
