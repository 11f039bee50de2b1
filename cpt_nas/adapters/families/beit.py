"""timm.models.beit: Block. Its attention lays the heads out over the stream's width: they stay."""

from __future__ import annotations

from timm.models.beit import Block

from cpt_nas.adapters.residual import residual_block

residual_block(
    Block,
    ("norm1", "attn", "gamma_1", "drop_path1"),
    ("norm2", "mlp", "gamma_2", "drop_path2"),
    takes_args=("attn",),
)
