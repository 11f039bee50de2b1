"""timm.models.volo: the attention and the Mlp of a block are each a residual branch."""

from __future__ import annotations

from timm.models.volo import Outlooker, Transformer

from cpt_nas.adapters.residual import residual_block

residual_block(Outlooker, ("norm1", "attn", "drop_path1"), ("norm2", "mlp", "drop_path2"))
residual_block(Transformer, ("norm1", "attn", "drop_path1"), ("norm2", "mlp", "drop_path2"))
