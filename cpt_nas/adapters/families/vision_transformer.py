"""timm.models.vision_transformer: Block and ResPostBlock.

The adapters of the attention and the Mlp name the heads and hidden units.
"""

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
