"""timm.models.mambaout: GatedConvBlock has a branch gate only.

Only some of its hidden channels pass a convolution, so they are not units of one kind.
"""

from __future__ import annotations

from timm.models.mambaout import GatedConvBlock

from cpt_nas.adapters.residual import chain_block

chain_block(
    GatedConvBlock,
    chain=("norm", "fc1", "act", "conv", "fc2", "ls"),
    extra=(":cat", ":mul", ":permute", ":contiguous"),
    parallel="its hidden channels are split into unlike parts",
)
