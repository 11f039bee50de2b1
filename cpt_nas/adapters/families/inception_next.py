"""timm.models.inception_next: MetaNeXtBlock, and the hidden units of its Mlp."""

from __future__ import annotations

from timm.models.inception_next import ConvMlp, MetaNeXtBlock
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import unit_groups
from cpt_nas.adapters.mlp import within
from cpt_nas.adapters.residual import chain_block


@REGISTRY.add(ConvMlp)
def conv_mlp(block: nn.Module) -> list[Branch] | Refusal:
    """The units are the channels between the 1x1 convolutions fc1 and fc2."""
    return within(*unit_groups(block, ("fc1", "norm", "act", "drop", "fc2")))


chain_block(
    MetaNeXtBlock, chain=("token_mixer", "norm", "mlp"), scale="gamma", extra=("gamma", ":mul")
)
