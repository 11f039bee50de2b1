"""timm.models.densenet: the units are the bottleneck's filters inside a dense layer.

A layer's outputs are concatenated to those of all layers before it, so they cannot be cut. There is
no skip connection.
"""

from __future__ import annotations

from timm.models.densenet import DenseLayer
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import unit_groups


@REGISTRY.add(DenseLayer)
def dense_layer(block: nn.Module) -> list[Branch] | Refusal:
    """The chain is norm1 - conv1 - norm2 - conv2; its units are conv1's filters."""
    groups, uncut = unit_groups(block, ("conv1", "norm2", "conv2"))
    return [Branch("", groups, (), "", (), None, "it has no skip connection", uncut)]
