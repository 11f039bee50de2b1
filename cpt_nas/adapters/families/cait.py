"""timm.models.cait: attention and Mlp, each a residual branch.
One drop path serves both branches, so the gate scales the module before it."""

from __future__ import annotations

from timm.models.cait import LayerScaleBlock

from cpt_nas.adapters.residual import residual_block

residual_block(
    LayerScaleBlock,
    *(
        ("norm1", "attn", "gamma_1", "drop_path"),
        ("norm2", "mlp", "gamma_2", "drop_path"),
    ),
)
