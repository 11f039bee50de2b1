"""timm.models.gcvit: the attention and the Mlp of a block are each a residual branch."""

from __future__ import annotations

from timm.models.gcvit import GlobalContextVitBlock

from cpt_nas.adapters.remainder import Via
from cpt_nas.adapters.residual import residual_block

residual_block(
    GlobalContextVitBlock,
    ("norm1", Via("_window_attn", "attn"), "ls1", "drop_path1"),
    ("norm2", "mlp", "ls2", "drop_path2"),
    takes_args=("attn",),
)
