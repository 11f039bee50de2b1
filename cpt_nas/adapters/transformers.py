"""Further timm families whose blocks are ``x = x + chain(x)`` and hold timm's Mlp: cait, convit,
efficientformer, gcvit, mobilevit, nest, pvt_v2, twins, visformer, volo. Where one drop path serves
both branches, the gate scales the module before it."""

from __future__ import annotations

from timm.models import (
    cait,
    convit,
    efficientformer,
    efficientformer_v2,
    gcvit,
    mobilevit,
    nest,
    pvt_v2,
    twins,
    visformer,
    volo,
)

from cpt_nas.adapters.residual import Via, residual_block

_TWO = (("norm1", "attn", "drop_path1"), ("norm2", "mlp", "drop_path2"))
_SHARED = (("norm1", "attn", "drop_path"), ("norm2", "mlp", "drop_path"))

residual_block(
    cait.LayerScaleBlock,
    *(
        ("norm1", "attn", "gamma_1", "drop_path"),
        ("norm2", "mlp", "gamma_2", "drop_path"),
    ),
)
residual_block(convit.Block, *_SHARED)
residual_block(
    efficientformer.MetaBlock1d,
    ("norm1", "token_mixer", "ls1", "drop_path1"),
    ("norm2", "mlp", "ls2", "drop_path2"),
)
residual_block(
    efficientformer.MetaBlock2d,
    ("token_mixer", "ls1", "drop_path1"),
    ("mlp", "ls2", "drop_path2"),
)
residual_block(
    efficientformer_v2.EfficientFormerV2Block,
    ("token_mixer", "ls1", "drop_path1"),
    ("mlp", "ls2", "drop_path2"),
)
residual_block(
    gcvit.GlobalContextVitBlock,
    ("norm1", Via("_window_attn", "attn"), "ls1", "drop_path1"),
    ("norm2", "mlp", "ls2", "drop_path2"),
    informed=("attn",),
)
residual_block(mobilevit.LinearTransformerBlock, *_TWO)
residual_block(nest.TransformerLayer, *_TWO)
residual_block(pvt_v2.Block, *_TWO, informed=("attn", "mlp"))
residual_block(twins.Block, *_TWO, informed=("attn",))
residual_block(visformer.Block, *_SHARED)
residual_block(volo.Outlooker, *_TWO)
residual_block(volo.Transformer, *_TWO)
