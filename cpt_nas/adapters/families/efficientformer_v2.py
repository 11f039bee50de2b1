"""timm.models.efficientformer_v2: a block's token mixer and Mlp are residual branches."""

from __future__ import annotations

from timm.models.efficientformer_v2 import EfficientFormerV2Block

from cpt_nas.adapters.residual import residual_block

residual_block(
    EfficientFormerV2Block,
    ("token_mixer", "ls1", "drop_path1"),
    ("mlp", "ls2", "drop_path2"),
)
