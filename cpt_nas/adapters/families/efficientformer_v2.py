"""timm.models.efficientformer_v2: token mixer and Mlp, each a residual branch."""

from __future__ import annotations

from timm.models.efficientformer_v2 import EfficientFormerV2Block

from cpt_nas.adapters.residual import residual_block

residual_block(
    EfficientFormerV2Block,
    ("token_mixer", "ls1", "drop_path1"),
    ("mlp", "ls2", "drop_path2"),
)
