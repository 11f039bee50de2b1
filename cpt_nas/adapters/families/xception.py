"""timm.models.xception_aligned: blocks with a stack of separable convolutions and a shortcut."""

from __future__ import annotations

from timm.models.xception_aligned import (
    PreSeparableConv2d,
    PreXceptionModule,
    SeparableConv2d,
    XceptionModule,
)
from torch import nn

from cpt_nas.adapters.chains import CONTAINERS, is_silent
from cpt_nas.adapters.residual import chain_block

CONTAINERS[SeparableConv2d] = ("conv_dw", "bn_dw", "act_dw", "conv_pw", "bn_pw", "act_pw")
CONTAINERS[PreSeparableConv2d] = ("norm", "conv_dw", "conv_pw")


def _no_skip(block: nn.Module) -> str:
    if block.no_skip:
        return "it has no skip connection"
    # A block that changes width or size gives a feature map from inside the stack.
    narrow = block.shortcut is None or is_silent(block.get_submodule("shortcut"))
    return "" if narrow else "feature maps are taken from inside it"


chain_block(XceptionModule, chain=("stack",), shortcut="shortcut", skip=_no_skip)
chain_block(
    PreXceptionModule,
    chain=("stack",),
    shortcut="shortcut",
    pre=("norm",),
    shortcut_after_pre="always",
    skip=_no_skip,
)
