"""timm.models.nest: the attention and the Mlp of a block are each a residual branch."""

from __future__ import annotations

from timm.models.nest import TransformerLayer

from cpt_nas.adapters.residual import residual_block

residual_block(TransformerLayer, ("norm1", "attn", "drop_path1"), ("norm2", "mlp", "drop_path2"))
