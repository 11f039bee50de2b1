"""timm.models.sknet: blocks with selective kernels, which mix channels."""

from __future__ import annotations

from timm.models.sknet import SelectiveKernelBasic, SelectiveKernelBottleneck

from cpt_nas.adapters.residual import chain_block

chain_block(SelectiveKernelBasic, chain=("conv1", "conv2", "se"), shortcut="downsample", act="act")
chain_block(
    SelectiveKernelBottleneck,
    chain=("conv1", "conv2", "conv3", "se"),
    shortcut="downsample",
    act="act",
)
