"""timm.models.swin_transformer, _v2 and _v2_cr: blocks with attention in shifted windows."""

from __future__ import annotations

from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock

from cpt_nas.adapters.remainder import Chain, Via
from cpt_nas.adapters.residual import residual_block

_CALLS = (":roll", ":roll#1", ":pad", ":reshape", ":reshape#1", ":contiguous", ":contiguous#1")
_METHODS = ("set_input_size", "_init_buffers")

residual_block(
    SwinTransformerBlock,
    Chain(("norm1", Via("_attn", "attn"), "drop_path1"), calls=_CALLS, methods=_METHODS),
    ("norm2", "mlp", "drop_path2"),
)
residual_block(
    SwinTransformerV2Block,
    Chain((Via("_attn", "attn"), "norm1", "drop_path1"), calls=_CALLS, methods=_METHODS),
    ("mlp", "norm2", "drop_path2"),
)
residual_block(
    SwinTransformerV2CrBlock,
    Chain(
        (Via("_shifted_window_attn", "attn"), "norm1", "drop_path1"), calls=_CALLS, methods=_METHODS
    ),
    ("mlp", "norm2", "drop_path2"),
    after="norm3",
)
