"""timm.models.vision_transformer_relpos: two blocks whose attention is told its positions. It lays
the heads out over the stream's width: they stay."""

from __future__ import annotations

from timm.models.vision_transformer_relpos import RelPosBlock, ResPostRelPosBlock

from cpt_nas.adapters.residual import residual_block

residual_block(
    RelPosBlock,
    ("norm1", "attn", "ls1", "drop_path1"),
    ("norm2", "mlp", "ls2", "drop_path2"),
    takes_args=("attn",),
)
residual_block(
    ResPostRelPosBlock,
    ("attn", "norm1", "drop_path1"),
    ("mlp", "norm2", "drop_path2"),
    takes_args=("attn",),
)
