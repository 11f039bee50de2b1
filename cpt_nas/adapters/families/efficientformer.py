"""timm.models.efficientformer: the token mixer and the Mlp of a block are residual branches."""

from __future__ import annotations

from timm.models.efficientformer import MetaBlock1d, MetaBlock2d

from cpt_nas.adapters.residual import residual_block

residual_block(
    MetaBlock1d,
    ("norm1", "token_mixer", "ls1", "drop_path1"),
    ("norm2", "mlp", "ls2", "drop_path2"),
)
residual_block(
    MetaBlock2d,
    ("token_mixer", "ls1", "drop_path1"),
    ("mlp", "ls2", "drop_path2"),
)
