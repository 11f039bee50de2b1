"""timm.models.eva: EvaBlock and EvaBlockPostNorm.

The heads of EvaAttention are not cut, as its forward pass gives its output the width of its input.
Blocks with AttentionRope have heads as units (see :mod:`cpt_nas.adapters.attention`).
"""

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
