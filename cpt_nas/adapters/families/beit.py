"""timm.models.beit: the attention and the Mlp of a Block are each a residual branch.

Heads are not cut, as the attention's forward pass gives its output the width of its input.
"""

from __future__ import annotations

from timm.models.beit import Block

from cpt_nas.adapters.residual import residual_block

residual_block(
    Block,
    ("norm1", "attn", "gamma_1", "drop_path1"),
    ("norm2", "mlp", "gamma_2", "drop_path2"),
    takes_args=("attn",),
)
