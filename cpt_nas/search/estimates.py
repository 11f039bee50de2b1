"""What is known of branches and unit groups, and what is decided of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

STANDARD_ERRORS = 2.0  # by which two are told apart


@dataclass(frozen=True)
class GroupEstimate:
    """A unit group that is still there.

    Attributes:
        theta: [K] of the units still there.
        importance: [K] how much lower the loss is for each of them.
        width: channels a unit.
        variance: of the noise of the importances' mean.
        order: [K] positions, the most wanted first.
    """

    theta: Tensor
    importance: Tensor
    width: int
    variance: float = 0.0

    @cached_property
    def order(self) -> Tensor:
        by_importance = self.importance.sort(descending=True, stable=True).indices
        return by_importance[self.theta[by_importance].sort(descending=True, stable=True).indices]


@dataclass(frozen=True)
class BranchEstimate:
    """A branch that is still there.

    Attributes:
        theta: of its gate; 1 where it has none.
        importance: how much lower the loss is for it.
        removable: it has a gate.
        groups: by name.
        variance: of the importance's noise.
    """

    theta: float
    importance: float
    removable: bool
    groups: dict[str, GroupEstimate] = field(default_factory=dict)
    variance: float = 0.0


@dataclass
class BranchState:
    """A branch while deciding: whether it stays, and how many units of each group."""

    kept: bool
    counts: dict[str, int]


@dataclass(frozen=True)
class MarginalCosts:
    """What everything is charged as the states are, and its parameters; over the dense network's.

    Attributes:
        branches: name -> (marginal cost, parameters) for being there, with the units of its state.
        units: (branch, group) -> (marginal cost, parameters) of each unit.
    """

    branches: Mapping[str, tuple[float, float]]
    units: Mapping[tuple[str, str], tuple[float, float]]


def shrink_to_group_mean(importance: Tensor, variance: Tensor) -> Tensor:
    """Importances of a group's units, drawn to their mean as far as noise explains their spread.

    Empirical Bayes for a normal mean: what is left of the spread is its share beyond what noise
    may make of it, at two standard errors; a thousandth always, so that the order stays. Without
    those errors chance leaves some spread every other time, and then the lowest units seem to cost
    less than they do.

    Args:
        importance: [K] as measured.
        variance: [K] of their noise.
    """
    mean = importance.mean()
    spread = (importance - mean).square().mean()
    if spread == 0:
        return importance
    chance = variance.mean() * (1.0 + STANDARD_ERRORS * math.sqrt(2.0 / len(importance)))
    share = (1.0 - chance / spread).clamp(min=1e-3)
    return mean + share * (importance - mean)


def make_divisible(units: int, size: int, step: int, width: int) -> int:
    """Units, at most ``size``, that fit into the multiple of ``step`` channels ``units`` need."""
    channels = -(-units * width // step) * step
    return min(size, channels // width)


def all_kept(branches: Mapping[str, BranchEstimate]) -> dict[str, BranchState]:
    """All that is still there."""
    return {
        name: BranchState(True, {g: len(x.theta) for g, x in c.groups.items()})
        for name, c in branches.items()
    }


def narrowed(
    branches: Mapping[str, BranchEstimate], states: Mapping[str, BranchState]
) -> dict[str, BranchState]:
    """The states of the branches that are still there, no wider than they are by now."""
    return {
        name: BranchState(
            states[name].kept,
            {g: min(n, len(c.groups[g].theta)) for g, n in states[name].counts.items()},
        )
        for name, c in branches.items()
    }


def by_theta(
    branches: Mapping[str, BranchEstimate], step: int, threshold: float
) -> dict[str, BranchState]:
    """What ``theta > threshold`` leaves, widths rounded up; one unit at least."""
    states = {}
    for name, branch in branches.items():
        alive = {key: int((g.theta > threshold).sum()) for key, g in branch.groups.items()}
        counts = {
            key: make_divisible(
                max(1, n), len(branch.groups[key].theta), step, branch.groups[key].width
            )
            for key, n in alive.items()
        }
        open_ = branch.theta > threshold and all(alive.values())
        states[name] = BranchState(open_ or not branch.removable, counts)
    return states


def differing(states: Mapping[str, BranchState], other: Mapping[str, BranchState]) -> int:
    """Gates that two decisions disagree about; a branch counts as one with its units."""
    count = 0
    for name, state in states.items():
        if state.kept != other[name].kept:
            count += 1
        elif state.kept:
            count += sum(abs(n - other[name].counts[g]) for g, n in state.counts.items())
    return count
