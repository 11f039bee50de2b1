"""timm.models.fasternet: MLPBlock, with spatial mixing and an Mlp in one branch."""

from __future__ import annotations

from timm.models.fasternet import MLPBlock

from cpt_nas.adapters.residual import chain_block

chain_block(
    MLPBlock,
    chain=("spatial_mixing", "mlp"),
    scale="layer_scale",
    extra=("layer_scale", ":mul", ":unsqueeze"),
)
