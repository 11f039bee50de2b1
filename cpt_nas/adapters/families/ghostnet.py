"""timm.models.ghostnet and repghost: the blocks have branch gates only.

A ghost module makes some of its channels from the others, so its units are not cut.
"""

from __future__ import annotations

from timm.models.ghostnet import GhostBottleneck, GhostBottleneckV3
from timm.models.repghost import RepGhostBottleneck

from cpt_nas.adapters.residual import chain_block

chain_block(
    GhostBottleneck,
    RepGhostBottleneck,
    chain=("ghost1", "conv_dw", "bn_dw", "se", "ghost2"),
    shortcut="shortcut",
)
chain_block(
    GhostBottleneckV3,
    chain=("ghost1", "conv_dw", "bn_dw", "dw_rpr_scale", "dw_rpr_conv", "se", "ghost2"),
    shortcut="shortcut",
    # A block with a stride adds up the outputs of further convolutions before the shortcut.
    extra=(":add#1", ":add#2", ":add#3"),
    parallel="half of its channels are made from the other half",
)
