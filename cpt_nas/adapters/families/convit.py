"""timm.models.convit: attention and Mlp, each a residual branch.
One drop path serves both branches, so the gate scales the module before it."""

from __future__ import annotations

from timm.models.convit import Block

from cpt_nas.adapters.residual import residual_block

residual_block(Block, ("norm1", "attn", "drop_path"), ("norm2", "mlp", "drop_path"))
