"""timm.models.convit: the attention and the Mlp of a block are each a residual branch.

Both branches call the same drop path, so a gate scales the output of the module before it.
"""

from __future__ import annotations

from timm.models.convit import Block

from cpt_nas.adapters.residual import residual_block

residual_block(Block, ("norm1", "attn", "drop_path"), ("norm2", "mlp", "drop_path"))
