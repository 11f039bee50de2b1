"""timm.models.densenet: the bottleneck's filters inside a dense layer. Its outputs are joined to
all that came before, so they stay, and there is no skip connection."""

from __future__ import annotations

from timm.models.densenet import DenseLayer
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import unit_groups


@REGISTRY.add(DenseLayer)
def dense_layer(block: nn.Module) -> list[Branch] | Refusal:
    """norm1 - conv1 - norm2 - conv2."""
    groups, uncut = unit_groups(block, ("conv1", "norm2", "conv2"))
    return [Branch("", groups, (), "", (), None, "it has no skip connection", uncut)]
