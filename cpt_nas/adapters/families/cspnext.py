"""timm.models.cspnext: CspNextBlock, the residual block inside the CSP layers."""

from __future__ import annotations

from timm.models.cspnext import CspNextBlock, DepthwiseSeparableConv
from torch import nn

from cpt_nas.adapters.chains import CONTAINERS
from cpt_nas.adapters.residual import chain_block

CONTAINERS[DepthwiseSeparableConv] = ("depthwise_conv", "pointwise_conv")


def _no_skip(block: nn.Module) -> str:
    return "" if block.add_identity else "it has no skip connection"


chain_block(CspNextBlock, chain=("conv1", "conv2"), skip=_no_skip)
