"""timm.models.tresnet: the residual blocks BasicBlock and Bottleneck."""

from __future__ import annotations

from timm.models.tresnet import BasicBlock, Bottleneck

from cpt_nas.adapters.residual import chain_block

chain_block(BasicBlock, chain=("conv1", "conv2", "se"), shortcut="downsample", act="act")
chain_block(Bottleneck, chain=("conv1", "conv2", "se", "conv3"), shortcut="downsample", act="act")
