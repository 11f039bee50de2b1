"""Random structures of a model, and the networks and layer widths they stand for.

What a profile is calibrated and validated on: networks like those a search comes by.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Sequence

from torch import nn

from cpt_nas.costs.cost_model import CostModel
from cpt_nas.costs.terms import PARAMETER
from cpt_nas.pruning.search_space import PrunableBranch, find_branches, group_key
from cpt_nas.pruning.structure import Structure, cut_to, dense_structure
from hwprofiles import Candidate, Executed
from hwprofiles.candidates import digest

COST_RANGE = (0.2, 1.0)
# Off the channel divisor no group is narrower than this share: profiles start at 1/16.
NARROWEST = 1 / 8
BISECTIONS = 20
# At this level every draw is the dense network.
DENSE_LEVEL = 2.0
# So many draws in a row that give nothing new mean that there is no more.
TRIALS = 50


class TooFew(ValueError):
    """A model has fewer different structures than were asked for."""


def random_structures(
    model: nn.Module,
    cost: CostModel,
    count: int,
    seed: int,
    channel_divisor: int,
    aligned: bool = True,
    exclude: Collection[str] = (),
) -> list[Structure]:
    """Random sub-structures whose costs are spread evenly over 20-100 % of the dense network's.

    Each mixes removed branches and narrower groups in its own proportion. Where even the smallest
    network costs more than was drawn, the smallest is taken.

    Args:
        model: uncut.
        cost: the model's; 'latency' is what counts where it has one, else 'macs'.
        count: how many, all different.
        seed: the same seed gives the same structures.
        channel_divisor: of the profile.
        aligned: widths are multiples of the channel divisor; else few are.
        exclude: digests of networks that are not wanted.

    Raises:
        TooFew: the model has fewer structures than that.
    """
    rng = random.Random(f"{seed} {aligned}")
    space = find_branches(model)
    found = space.branches
    dense = dense_structure(space, "", {})
    name = "latency" if "latency" in cost.names else "macs"
    full = cost.of_structure(dense)[name]
    low, high = COST_RANGE
    taken = {*exclude, digest(executed(cost, dense))}
    structures: list[Structure] = []
    draws = in_vain = 0
    while len(structures) < count and in_vain < TRIALS:
        share = low + (high - low) * (draws % count + rng.random()) / count
        draw = _Draw(found, dense, rng, channel_divisor, aligned)
        below, above = 0.0, DENSE_LEVEL
        for _ in range(BISECTIONS):
            level = (below + above) / 2
            if cost.of_structure(draw.at(level))[name] > share * full:
                above = level
            else:
                below = level
        structure = draw.at(below)
        key = digest(executed(cost, structure))
        draws, in_vain = draws + 1, in_vain + 1
        if key not in taken:
            in_vain = 0
            taken.add(key)
            structures.append(structure)
    if len(structures) < count:
        raise TooFew(
            f"structures: {count}, but only {len(structures)} different ones were found at "
            f"channel divisor {channel_divisor}; ask for fewer"
        )
    return structures


class _Draw:
    """One random direction in which a network shrinks: level 2 is dense, 0 the smallest."""

    def __init__(
        self,
        found: Sequence[PrunableBranch],
        dense: Structure,
        rng: random.Random,
        channel_divisor: int,
        aligned: bool,
    ) -> None:
        self.found, self.dense = found, dense
        self.channel_divisor, self.aligned = channel_divisor, aligned
        depth = rng.random()  # how much of the shrinking is done by removing branches
        self.gone_below = {f.name: depth * rng.uniform(0.0, 1.5) for f in found}
        keys = [group_key(f.name, g.name) for f in found for g in f.branch.groups]
        self.factor = {key: rng.uniform(0.5, 1.5) for key in keys}
        self.shift = {key: rng.randrange(1, max(channel_divisor, 2)) for key in keys}

    def at(self, level: float) -> Structure:
        structure = self.dense.model_copy(deep=True)
        for found in self.found:
            branch = structure.branches[found.name]
            if found.branch.remove is not None and level < self.gone_below[found.name]:
                branch.kept = False
                for units in branch.units.values():
                    units.kept = []
                continue
            for group in found.branch.groups:
                key = group_key(found.name, group.name)
                share = min(1.0, level * self.factor[key])
                left = self._units(share, group.size, group.width, self.shift[key])
                branch.units[group.name].kept = list(range(left))
        return structure

    def _units(self, share: float, size: int, width: int, shift: int) -> int:
        """Units left of ``size``; ``width`` channels each; at the channel divisor or off it."""
        least = max(1, round(NARROWEST * size))
        if share >= 1.0:
            return size
        multiple = -(-self.channel_divisor // width)  # units a channel divisor
        if self.aligned:
            return min(size, max(multiple, round(share * size / multiple) * multiple))
        left = min(size - 1, max(least, round(share * size)))
        if multiple > 1 and left % multiple == 0:
            left = left // multiple * multiple + shift % multiple or left
        return max(1, min(size, left))


def executed(cost: CostModel, structure: Structure) -> list[Executed]:
    """The layers that a cut network runs: the dense layer's signature, and the widths left."""
    left = {
        group_key(name, group): len(units.kept)
        for name, branch in structure.branches.items()
        if branch.kept
        for group, units in branch.units.items()
    }
    gone = {name for name, branch in structure.branches.items() if not branch.kept}
    layers = []
    for term in cost.terms:
        if term.branch in gone or term.layer.type == PARAMETER:
            continue
        n_in = term.width_in * (left[term.group_in] if term.group_in is not None else 1)
        n_out = term.width_out * (left[term.group_out] if term.group_out is not None else 1)
        if term.layer.form == "channel":  # its output follows its input
            n_out = n_in * term.layer.out_channels / term.layer.in_channels
        layers.append(Executed(term.layer.signature, n_in, n_out))
    return layers


def candidate(model: nn.Module, cost: CostModel, structure: Structure) -> Candidate:
    """The network of ``structure``, cut from a copy of ``model`` when it is asked for."""
    costs = cost.of_structure(structure)
    return Candidate(
        build=lambda: cut_to(copy.deepcopy(model), structure).eval(),
        layers=executed(cost, structure),
        macs=costs["macs"],
        params=costs["params"],
    )
