"""timm.models.mobilevit: the attention and the Mlp of a block are each a residual branch."""

from __future__ import annotations

from timm.models.mobilevit import LinearTransformerBlock

from cpt_nas.adapters.residual import residual_block

residual_block(
    LinearTransformerBlock, ("norm1", "attn", "drop_path1"), ("norm2", "mlp", "drop_path2")
)
