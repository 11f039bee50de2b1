"""timm.models.metaformer: PoolFormer, CAFormer and ConvFormer, whose skips may be scaled."""

from __future__ import annotations

from timm.models.metaformer import MetaFormerBlock

from cpt_nas.adapters.remainder import Chain
from cpt_nas.adapters.residual import residual_block

residual_block(
    MetaFormerBlock,
    Chain(("norm1", "token_mixer", "drop_path1", "layer_scale1"), base="res_scale1"),
    Chain(("norm2", "mlp", "drop_path2", "layer_scale2"), base="res_scale2"),
)
