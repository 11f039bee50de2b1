"""timm.models.resnet: BasicBlock and Bottleneck, with SE, ECA, anti-aliasing or groups.

Where the 3x3 convolution has groups, the units are whole groups of channels. An attention after the
last norm is not linear, so the branch gate scales the attention's output.
"""

from __future__ import annotations

from timm.models.resnet import BasicBlock, Bottleneck

from cpt_nas.adapters.residual import chain_block

chain_block(
    BasicBlock,
    chain=("conv1", "bn1", "drop_block", "act1", "aa", "conv2", "bn2", "se"),
    shortcut="downsample",
    act="act2",
    nonnegative=True,
)
chain_block(
    Bottleneck,
    chain=(
        *("conv1", "bn1", "act1", "conv2", "bn2", "drop_block", "act2", "aa"),
        *("conv3", "bn3", "se"),
    ),
    shortcut="downsample",
    act="act3",
    nonnegative=True,
)
