"""timm.models.senet: the original SENets, whose blocks end in a squeeze-and-excitation."""

from __future__ import annotations

from timm.models.senet import (
    SEBottleneck,
    SEResNetBlock,
    SEResNetBottleneck,
    SEResNeXtBottleneck,
)

from cpt_nas.adapters.residual import chain_block

chain_block(
    SEBottleneck,
    SEResNetBottleneck,
    SEResNeXtBottleneck,
    chain=("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3", "bn3", "se_module"),
    shortcut="downsample",
    act="relu",
)
chain_block(
    SEResNetBlock,
    chain=("conv1", "bn1", "relu", "conv2", "bn2", "relu", "se_module"),
    shortcut="downsample",
    act="relu",
)
