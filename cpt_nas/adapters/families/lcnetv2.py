"""timm.models.lcnetv2: RepDepthwiseSeparable.

A block with two pointwise convolutions has the filters between them as its units.
"""

from __future__ import annotations

from timm.models.lcnetv2 import RepDepthwiseSeparable
from torch import nn

from cpt_nas.adapters.residual import chain_block


def _no_skip(block: nn.Module) -> str:
    return "" if block.use_shortcut else "it has no skip connection"


chain_block(
    RepDepthwiseSeparable,
    chain=("dw_conv", "dw_conv_list", "dw_act", "se", "pw_conv"),
    skip=_no_skip,
    # A block adds up the outputs of up to four depthwise convolutions before the shortcut.
    extra=(":add#1", ":add#2", ":add#3"),
)
