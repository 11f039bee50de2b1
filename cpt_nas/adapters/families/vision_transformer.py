"""timm.models.vision_transformer: Block and its relatives. Heads and hidden units come from the
attention's and the Mlp's own adapters."""

from __future__ import annotations

from timm.models.vision_transformer import Block, ResPostBlock

from cpt_nas.adapters.residual import residual_block

residual_block(
    Block,
    ("norm1", "attn", "ls1", "drop_path1"),
    ("norm2", "mlp", "ls2", "drop_path2"),
    takes_args=("attn",),
)
residual_block(
    ResPostBlock,
    ("attn", "norm1", "drop_path1"),
    ("mlp", "norm2", "drop_path2"),
    takes_args=("attn",),
)
