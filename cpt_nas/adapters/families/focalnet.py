"""timm.models.focalnet: the modulation and the Mlp of a block are each a residual branch."""

from __future__ import annotations

from timm.models.focalnet import FocalNetBlock

from cpt_nas.adapters.residual import residual_block

residual_block(
    FocalNetBlock,
    ("norm1", "modulation", "norm1_post", "ls1", "drop_path1"),
    ("norm2", "mlp", "norm2_post", "ls2", "drop_path2"),
)
