"""timm.models.cspnet: the residual blocks inside the cross stages."""

from __future__ import annotations

from timm.models.cspnet import BottleneckBlock, DarkBlock, EdgeBlock

from cpt_nas.adapters.residual import chain_block

chain_block(BottleneckBlock, chain=("conv1", "conv2", "attn2", "conv3", "attn3"), act="act3")
chain_block(DarkBlock, chain=("conv1", "attn", "conv2"))
chain_block(EdgeBlock, chain=("conv1", "attn", "conv2"))
