"""timm.models.vision_transformer_relpos: two blocks whose attention takes relative positions.

Heads are not cut, as the attention's forward pass gives its output the width of its input.
"""

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
