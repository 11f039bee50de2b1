"""timm.models.resnet: BasicBlock and Bottleneck (SE/ECA, anti-aliasing, grouped convs too).

A grouped 3x3 conv has whole groups as its units: they take their share of conv1, conv2 and conv3
with them. An attention after the last norm is not linear: the branch gate scales its output.
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
