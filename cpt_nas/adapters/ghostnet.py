"""timm.models.ghostnet and repghost: branch gates. A ghost module makes half of its channels from
the other half, so its units stay."""

from __future__ import annotations

from timm.models.ghostnet import GhostBottleneck
from timm.models.repghost import RepGhostBottleneck

from cpt_nas.adapters.residual import chain_block

chain_block(
    GhostBottleneck,
    RepGhostBottleneck,
    chain=("ghost1", "conv_dw", "bn_dw", "se", "ghost2"),
    shortcut="shortcut",
)
