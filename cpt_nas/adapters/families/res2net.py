"""timm.models.res2net: Bottle2neck.

It splits its channels and joins them again, so its units are not cut.
"""

from __future__ import annotations

from timm.models.res2net import Bottle2neck

from cpt_nas.adapters.residual import chain_block

chain_block(
    Bottle2neck,
    chain=("conv1", "bn1", "convs", "bns", "pool", "conv3", "bn3", "se"),
    shortcut="downsample",
    act="relu",
    extra=(":cat", *(f":add#{i}" for i in range(1, 8))),
    parallel="its channels are split and joined again",
)
