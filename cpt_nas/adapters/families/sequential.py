"""Chains in an nn.Sequential, without skips: deep stems, and small networks such as LeNet.

Units that another adapter names are left to it (see
:func:`cpt_nas.pruning.search_space.without_doubles`).
"""

from __future__ import annotations

from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import unit_groups


@REGISTRY.add(nn.Sequential)
def sequential(block: nn.Module) -> list[Branch] | Refusal:
    """The units between its convolutions and linear layers; no branch where there are none."""
    groups, _ = unit_groups(block, [name for name, _ in block.named_children()])
    if not groups:
        return []
    return [Branch("", groups, (), "", (), None, "it has no skip connection")]
