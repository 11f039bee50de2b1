"""timm.models.eva: EvaBlock, pre- and post-norm. The heads of EvaAttention stay: its forward lays
them out over the stream's width. Those of AttentionRope are cut (attention.py)."""

from __future__ import annotations

from timm.models.eva import EvaBlock, EvaBlockPostNorm

from cpt_nas.adapters.residual import residual_block

residual_block(
    EvaBlock,
    ("norm1", "attn", "gamma_1", "drop_path1"),
    ("norm2", "mlp", "gamma_2", "drop_path2"),
    takes_args=("attn",),
)
residual_block(
    EvaBlockPostNorm,
    ("attn", "norm1", "drop_path1"),
    ("mlp", "norm2", "drop_path2"),
    takes_args=("attn",),
)
