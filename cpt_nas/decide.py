"""What closes so that the costs meet their goals: what is worth least for what it costs.

A gate's *worth* is its benefit, how much lower the loss is for its being on, over what it is
charged. The goals are met by closing, one after another, what is worth least. That is gradient
descent on theta under the price at which the goals are met: everything below the price falls,
everything above it rises. What is said of a single unit is mostly noise, so its benefit counts only
as far as the units of its group can be told apart (:func:`shrunk`). It is taken to rise as the
group gets narrower (half the units, twice the benefit each).

Widths move by the channel step, because nothing in between is faster.

What is worth least is seldom known for sure: benefits are measured on some hundred mini-batches,
and early, when the loss does not ask for capacity yet. So of all that cannot be told from the
least, at two standard errors, that closes which takes the fewest parameters for what it saves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from torch import Tensor

STANDARD_ERRORS = 2.0  # by which two are told apart


@dataclass(frozen=True)
class Group:
    """A unit group that is still there.

    Attributes:
        theta: [K] of the units still there.
        benefit: [K] how much lower the loss is for each of them.
        width: channels a unit.
        variance: of the noise of the benefits' mean.
        order: [K] positions, the most wanted first.
    """

    theta: Tensor
    benefit: Tensor
    width: int
    variance: float = 0.0

    @cached_property
    def order(self) -> Tensor:
        by_benefit = self.benefit.sort(descending=True, stable=True).indices
        return by_benefit[self.theta[by_benefit].sort(descending=True, stable=True).indices]


@dataclass(frozen=True)
class Candidate:
    """A branch that is still there.

    Attributes:
        theta: of its gate; 1 where it has none.
        benefit: how much lower the loss is for it.
        removable: it has a gate.
        groups: by name.
        variance: of the benefit's noise.
    """

    theta: float
    benefit: float
    removable: bool
    groups: dict[str, Group] = field(default_factory=dict)
    variance: float = 0.0


@dataclass
class State:
    """A branch while deciding: whether it stays, and how many units of each group."""

    kept: bool
    counts: dict[str, int]


@dataclass(frozen=True)
class Charges:
    """What everything is charged as the states are, and its parameters; over the dense network's.

    Attributes:
        branches: name -> (charge, parameters) for being there, with the units of its state.
        units: (branch, group) -> (charge, parameters) of each unit.
    """

    branches: Mapping[str, tuple[float, float]]
    units: Mapping[tuple[str, str], tuple[float, float]]


class Pricing(Protocol):
    """Costs of what would be left; see :class:`cpt_nas.price.Price`."""

    def costs_of(self, states: Mapping[str, State]) -> Mapping[str, float]:
        """Measure -> cost; 'params' is always among them."""

    def charges_of(self, states: Mapping[str, State], weights: Mapping[str, float]) -> Charges:
        """Charges, where the price of each measure is its weight."""


@dataclass(frozen=True)
class Decision:
    """What stays.

    Attributes:
        states: of every branch that was still there; of a group, its most wanted units stay.
        worth: of the last that had to close: the price of the cost; 0 where nothing had to.
        weights: measure that was above its goal -> its share in that price.
    """

    states: dict[str, State]
    worth: float
    weights: dict[str, float]


@dataclass(frozen=True)
class _Move:
    """A branch that goes or comes, or a group that gets another width.

    Attributes:
        benefit: lost, or won.
        variance: of its noise.
        charge: saved, or paid.
        params: lost, or won.
    """

    benefit: float
    variance: float
    charge: float
    params: float
    branch: str
    group: str | None
    state: State

    @property
    def worth(self) -> float:
        return self.benefit / max(self.charge, 1e-12)

    @property
    def error(self) -> float:
        """The standard error of the worth."""
        return math.sqrt(self.variance) / max(self.charge, 1e-12)

    @property
    def params_for_cost(self) -> float:
        """To three digits, so that branches alike are alike."""
        return float(f"{self.params / max(self.charge, 1e-12):.3g}")

    @property
    def what(self) -> tuple[str, str | None]:
        return self.branch, self.group


@dataclass(frozen=True)
class _Plan:
    """A way to meet the goals, the benefit it loses, and the variance of that."""

    states: dict[str, State]
    lost: float
    variance: float
    worth: float


def shrunk(benefit: Tensor, variance: Tensor) -> Tensor:
    """Benefits of a group's units, drawn to their mean as far as noise explains their spread.

    Empirical Bayes for a normal mean: what is left of the spread is its share beyond the noise; a
    thousandth always, so that the order stays.

    Args:
        benefit: [K] as measured.
        variance: [K] of their noise.
    """
    mean = benefit.mean()
    spread = (benefit - mean).square().mean()
    if spread == 0:
        return benefit
    share = (1.0 - variance.mean() / spread).clamp(min=1e-3)
    return mean + share * (benefit - mean)


def filled(units: int, size: int, step: int, width: int) -> int:
    """Units, at most ``size``, that fit into the multiple of ``step`` channels ``units`` need."""
    channels = -(-units * width // step) * step
    return min(size, channels // width)


def whole(branches: Mapping[str, Candidate]) -> dict[str, State]:
    """All that is still there."""
    return {
        name: State(True, {g: len(x.theta) for g, x in c.groups.items()})
        for name, c in branches.items()
    }


def by_theta(branches: Mapping[str, Candidate], step: int, threshold: float) -> dict[str, State]:
    """What ``theta > threshold`` leaves, widths rounded up; one unit at least."""
    states = {}
    for name, branch in branches.items():
        alive = {key: int((g.theta > threshold).sum()) for key, g in branch.groups.items()}
        counts = {
            key: filled(max(1, n), len(branch.groups[key].theta), step, branch.groups[key].width)
            for key, n in alive.items()
        }
        open_ = branch.theta > threshold and all(alive.values())
        states[name] = State(open_ or not branch.removable, counts)
    return states


def decide(
    branches: Mapping[str, Candidate],
    states: Mapping[str, State],
    step: int,
    pricing: Pricing,
    goals: Mapping[str, float],
    scales: Mapping[str, float],
    within: float | None = 0.02,
) -> Decision:
    """Close until every goal is met.

    Args:
        branches: all that are still there.
        states: to begin with, one for each of them.
        step: channels that widths are multiples of.
        pricing: what costs what.
        goals: measure -> upper bound, not below what can be reached.
        scales: measure -> what counts as much as another measure's; those above their goals are
            charged in the inverse proportion.
        within: reopen what is worth most while every cost is lower than this share below its goal
            and something fits; None: do not.
    """
    states = {
        # A closed branch would come back with its smallest widths.
        name: state if state.kept else State(False, _least(branches[name], step))
        for name, state in states.items()
    }
    if within is None:
        within = 1.0
    plans = list(_plans(branches, states, step, pricing, goals, scales, within))
    filled_up = [_fill(branches, p, step, pricing, goals, within) for p in plans]
    least = min(filled_up, key=lambda p: p.lost)
    near = [p for p in filled_up if _alike(p.lost - least.lost, p.variance, least.variance)]
    best = max(near, key=lambda p: pricing.costs_of(p.states)["params"])
    return Decision(
        best.states, best.worth, _weights(_above(pricing.costs_of(states), goals), scales)
    )


def _alike(difference: float, *variances: float) -> bool:
    """Two that cannot be told apart for their noise."""
    return abs(difference) <= STANDARD_ERRORS * math.sqrt(sum(variances))


def _next_move(moves: Sequence[_Move], direction: int) -> _Move:
    """What is worth least to close (-1), most to open (1); of all that cannot be told from it,
    what takes the fewest parameters for its cost, or brings the most."""
    first = max(moves, key=lambda m: direction * m.worth)
    near = [m for m in moves if _alike(m.worth - first.worth, m.error**2, first.error**2)]
    return max(near, key=lambda m: (direction * m.params_for_cost, direction * m.worth))


def _above(costs: Mapping[str, float], goals: Mapping[str, float]) -> list[str]:
    return [m for m, bound in goals.items() if costs[m] > bound]


def _weights(measures: Iterable[str], scales: Mapping[str, float]) -> dict[str, float]:
    """Shares in the price, in inverse proportion to the scales."""
    inverse = {m: 1.0 / scales[m] for m in measures}
    return {m: w / sum(inverse.values()) for m, w in inverse.items()}


def _roomy(costs: Mapping[str, float], goals: Mapping[str, float], within: float) -> bool:
    """Every cost is lower than ``within`` below its goal."""
    return all(costs[m] <= (1.0 - within) * bound for m, bound in goals.items())


def _plans(
    branches: Mapping[str, Candidate],
    states: dict[str, State],
    step: int,
    pricing: Pricing,
    goals: Mapping[str, float],
    scales: Mapping[str, float],
    within: float,
) -> Iterator[_Plan]:
    """Ways to meet the goals: what is worth least closes first.

    Where that overshoots, as a whole branch does, there is another way without that last move.
    """
    lost, worth, variance = dict.fromkeys(branches, 0.0), 0.0, 0.0
    needed: set[tuple[str, str | None]] = set()
    while above := _above(pricing.costs_of(states), goals):
        charges = pricing.charges_of(states, _weights(above, scales))
        moves = _moves(branches, states, charges, step, -1)
        free = [m for m in moves if m.what not in needed]
        if not free:
            return
        move = _next_move(free, -1)
        benefit = move.benefit
        if move.group is None:  # what its units lost is lost already
            benefit = max(0.0, benefit - lost[move.branch])
        after = states | {move.branch: move.state}
        costs = pricing.costs_of(after)
        if not _above(costs, goals) and _roomy(costs, goals, within):
            total = sum(lost.values()) + benefit
            yield _Plan(after, total, variance + move.variance, max(worth, move.worth))
            needed.add(move.what)
            continue
        states, worth, variance = after, max(worth, move.worth), variance + move.variance
        lost[move.branch] += benefit
    yield _Plan(states, sum(lost.values()), variance, worth)


def _fill(
    branches: Mapping[str, Candidate],
    plan: _Plan,
    step: int,
    pricing: Pricing,
    goals: Mapping[str, float],
    within: float,
) -> _Plan:
    """Reopen what is worth most while there is room and something fits."""
    states, lost = dict(plan.states), plan.lost
    refused: set[tuple[str, str | None]] = set()
    evenly = {m: 1.0 / len(goals) for m in goals}
    while goals and _roomy(pricing.costs_of(states), goals, within):
        moves = _moves(branches, states, pricing.charges_of(states, evenly), step, 1)
        open_moves = [m for m in moves if m.what not in refused]
        if not open_moves:
            break
        move = _next_move(open_moves, 1)
        before, states[move.branch] = states[move.branch], move.state
        if _above(pricing.costs_of(states), goals):
            states[move.branch] = before
            refused.add(move.what)
        else:
            lost -= move.benefit
    return _Plan(states, lost, plan.variance, plan.worth)


def _moves(
    branches: Mapping[str, Candidate],
    states: Mapping[str, State],
    charges: Charges,
    step: int,
    direction: int,
) -> list[_Move]:
    """Every next move down (-1) or up (1)."""
    moves = []
    for name, branch in branches.items():
        state = states[name]
        if branch.removable and state.kept == (direction < 0):
            least, part = _least(branch, step), 1.0
            for key, units in least.items() if direction > 0 else ():
                part *= units / len(branch.groups[key].theta)
            moved = State(direction > 0, least)
            noise = part * part * branch.variance
            moves.append(
                _Move(part * branch.benefit, noise, *charges.branches[name], name, None, moved)
            )
        if not state.kept:
            continue
        for key, group in branch.groups.items():
            count = _next(state.counts[key], direction, len(group.theta), step, group.width)
            if count is None:
                continue
            low, high = sorted((count, state.counts[key]))
            of_these = float(group.benefit[group.order[low:high]].mean())
            # Measured with so many on as theta says; log-like in how many there are.
            many = (high - low) * float(group.theta.sum()) * 2 / (low + high)
            moved = State(True, state.counts | {key: count})
            charge, params = ((high - low) * x for x in charges.units[name, key])
            noise = many * many * group.variance
            moves.append(_Move(many * of_these, noise, charge, params, name, key, moved))
    return moves


def _least(branch: Candidate, step: int) -> dict[str, int]:
    return {k: filled(1, len(g.theta), step, g.width) for k, g in branch.groups.items()}


def _next(count: int, direction: int, size: int, step: int, width: int) -> int | None:
    """The next number of units in a direction that fills the channel step."""
    stop = 0 if direction < 0 else size + 1
    found = (n for n in range(count + direction, stop, direction))
    return next((n for n in found if filled(n, size, step, width) == n), None)


def differing(states: Mapping[str, State], other: Mapping[str, State]) -> int:
    """Gates that two decisions disagree about; a branch counts as one with its units."""
    count = 0
    for name, state in states.items():
        if state.kept != other[name].kept:
            count += 1
        elif state.kept:
            count += sum(abs(n - other[name].counts[g]) for g, n in state.counts.items())
    return count
