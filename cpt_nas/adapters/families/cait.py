"""timm.models.cait: the attention and the Mlp of a block are each a residual branch.

Both branches call the same drop path, so a gate scales the output of the module before it.
"""

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
