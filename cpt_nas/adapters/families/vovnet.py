"""timm.models.vovnet and hgnet: the blocks have branch gates only.

A block concatenates the outputs of all its layers, so its units are not cut.
"""

from __future__ import annotations

from timm.models.hgnet import HighPerfGpuBlock
from timm.models.vovnet import OsaBlock
from torch import nn

from cpt_nas.adapters.residual import chain_block


def _not_residual(block: nn.Module) -> str:
    return "" if block.residual else "it has no skip connection"


chain_block(
    OsaBlock,
    chain=("conv_reduction", "conv_mid", "conv_concat", "attn"),
    skip=_not_residual,
    extra=(":cat",),
    parallel="every layer's output is joined at the end",
)
chain_block(
    HighPerfGpuBlock,
    chain=("layers", "aggregation"),
    skip=_not_residual,
    extra=(":cat",),
    parallel="every layer's output is joined at the end",
)
