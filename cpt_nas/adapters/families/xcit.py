"""timm.models.xcit: the attention, the local patch interaction and the Mlp are branches.

Heads are not cut.
"""

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
