"""timm.models.resnest: ResNestBottleneck, whose split attention mixes channels."""

from __future__ import annotations

from timm.models.resnest import ResNestBottleneck

from cpt_nas.adapters.residual import chain_block

chain_block(
    ResNestBottleneck,
    chain=(
        *("conv1", "bn1", "act1", "avd_first", "conv2", "bn2", "act2", "avd_last"),
        *("conv3", "bn3"),
    ),
    shortcut="downsample",
    act="act3",
)
