"""How many layers a network has, as the papers count them: L of eq. 13 of arXiv 2411.09127.

F / L and P / L are what an average layer costs, and log gamma is the price of such a layer. A layer
is there the section of Fig. 1, a residual branch with its skip connection. A chain without skip
connections (LeNet, VGG) is a row of sections of one weight layer each.
"""

from __future__ import annotations

from collections.abc import Sequence

from cpt_nas.costs.terms import Term
from cpt_nas.pruning.search_space import SearchSpace, group_key
from hwprofiles.fit import WEIGHT_LAYERS


def count_sections(space: SearchSpace, terms: Sequence[Term]) -> int:
    """L: the residual branches, and the weight layers of chains without skip connections.

    In a network that has residual branches, of the weight layers outside them and their skip
    connections those count that make or read units of a chain; in one that has none, all of them.
    A network counts the same whichever part of it is searched, and a chain the same with paths
    around its layers.

    Args:
        space: the model's whole search space.
        terms: the model's layers and where they stand.
    """
    residual = [f for f in space.branches if f.branch.remove is not None]
    weights = [t for t in terms if t.layer.type in WEIGHT_LAYERS]
    if not residual:
        return max(1, len(weights))
    chained = {
        group_key(f.name, group.name)
        for f in space.branches
        if f.branch.remove is None
        for group in f.branch.groups
    }
    outside = [t for t in weights if t.branch is None and not t.projection]
    return len(residual) + sum(bool({t.group_in, t.group_out} & chained) for t in outside)
