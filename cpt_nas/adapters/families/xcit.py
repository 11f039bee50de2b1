"""timm.models.xcit: XCABlock. Attention is over channels, normalised per head: heads stay."""

from __future__ import annotations

from timm.models.xcit import XCABlock

from cpt_nas.adapters.residual import residual_block

residual_block(
    XCABlock,
    ("norm1", "attn", "gamma1", "drop_path1"),
    ("norm3", "local_mp", "gamma3", "drop_path3"),
    ("norm2", "mlp", "gamma2", "drop_path2"),
    takes_args=("local_mp",),
)
