"""timm.models.lowformer and cpubone: every branch stands in a ResidualBlock.

The heads of their attention are not cut.
"""

from __future__ import annotations

from timm.models import cpubone, lowformer

from cpt_nas.adapters.chains import CONTAINERS
from cpt_nas.adapters.families.efficientvit_mit import without_skip
from cpt_nas.adapters.residual import chain_block

for _family in (lowformer, cpubone):
    CONTAINERS[_family.ConvLayer] = ("conv", "norm", "act")
    CONTAINERS[_family.MBConv] = ("inverted_conv", "depth_conv", "point_conv")
    CONTAINERS[_family.FusedMBConv] = ("spatial_conv", "point_conv")
    chain_block(_family.ResidualBlock, chain=("main",), shortcut="shortcut", skip=without_skip)
