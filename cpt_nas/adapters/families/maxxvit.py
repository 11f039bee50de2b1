"""timm.models.maxxvit: the blocks of MaxViT, CoAtNet and models that mix them."""

from __future__ import annotations

from timm.models.maxxvit import (
    ConvNeXtBlock,
    MbConvBlock,
    PartitionAttention2d,
    PartitionAttentionCl,
    TransformerBlock2d,
)

from cpt_nas.adapters.remainder import Chain, Via
from cpt_nas.adapters.residual import chain_block, residual_block

chain_block(
    MbConvBlock,
    chain=(
        *("pre_norm", "down", "conv1_1x1", "norm1", "conv2_kxk", "se_early", "norm2"),
        *("se", "conv3_1x1"),
    ),
    shortcut="shortcut",
)
chain_block(
    ConvNeXtBlock,
    chain=("down", "conv_dw", "norm", "mlp", "ls"),
    shortcut="shortcut",
)
for _class in (PartitionAttentionCl, PartitionAttention2d):
    residual_block(
        _class,
        ("norm1", Via("_partition_attn", "attn"), "ls1", "drop_path1"),
        ("norm2", "mlp", "ls2", "drop_path2"),
    )
residual_block(
    TransformerBlock2d,
    Chain(("norm1", "attn", "ls1", "drop_path1"), base="shortcut"),
    ("norm2", "mlp", "ls2", "drop_path2"),
    takes_args=("attn",),
)
