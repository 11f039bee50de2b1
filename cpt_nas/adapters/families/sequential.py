"""Plain nn.Sequential chains without a skip: deep stems, and small networks such as LeNet.

Only what no other adapter has taken: see :func:`cpt_nas.pruning.search_space.without_doubles`.
"""

from __future__ import annotations

from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import unit_groups


@REGISTRY.add(nn.Sequential)
def sequential(block: nn.Module) -> list[Branch] | Refusal:
    """Units between its convolutions and linear layers; nothing said where there are none."""
    groups, _ = unit_groups(block, [name for name, _ in block.named_children()])
    if not groups:
        return []
    return [Branch("", groups, (), "", (), None, "it has no skip connection")]
