"""Allocation: what closes so that the costs meet their goals.

The *importance per cost* of a gate is how much lower the loss is for its being on, over its
marginal cost. The goals are met by closing, one after another, what has least of it. That is
gradient descent on theta under the price at which the goals are met: everything below the price
falls, everything above it rises. What is estimated of a single unit is mostly noise, so its
importance counts only as far as the units of its group can be told apart
(:func:`cpt_nas.search.estimates.shrink_to_group_mean`). It is taken to rise as the group gets
narrower (half the units, twice the importance each).

Widths move by the channel divisor, because nothing in between is faster.

What has the least importance per cost is seldom known for sure: importance is estimated on some
hundred mini-batches, and early, when the loss does not ask for capacity yet. So of all that cannot
be told from the least, at two standard errors, that closes which takes the fewest parameters for
what it saves.

What stays is allocated for the goals that hold in the end (:func:`allocate`), also while not all of
it has to go yet (:func:`allocate_partial`): on the way down, where the goal happens to be would
decide which branch overshoots it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cpt_nas.search.estimates import (
    STANDARD_ERRORS,
    BranchEstimate,
    BranchState,
    GroupEstimate,
    MarginalCosts,
    all_kept,
    make_divisible,
    narrowed,
)

STRIDES = 32  # in which the units of a group close


class Pricing(Protocol):
    """Costs of what would be left."""

    def costs_of(self, states: Mapping[str, BranchState]) -> Mapping[str, float]:
        """Measure -> cost; 'params' is always among them."""

    def marginal_costs(
        self, states: Mapping[str, BranchState], weights: Mapping[str, float]
    ) -> MarginalCosts:
        """Marginal costs, where the price of each measure is its weight."""


@dataclass(frozen=True)
class Allocation:
    """What stays.

    Attributes:
        states: of every branch that was still there; of a group, its most wanted units stay.
        importance_per_cost: of the last that had to close: the price of the cost; 0 where nothing
            had to.
        weights: measure that was above its goal -> its share in that price.
    """

    states: dict[str, BranchState]
    importance_per_cost: float
    weights: dict[str, float]


@dataclass(frozen=True)
class _Move:
    """A branch that goes or comes, or a group that gets another width.

    Attributes:
        importance: lost, or won.
        variance: of its noise.
        marginal_cost: saved, or paid.
        params: lost, or won.
    """

    importance: float
    variance: float
    marginal_cost: float
    params: float
    branch: str
    group: str | None
    state: BranchState

    @property
    def importance_per_cost(self) -> float:
        return self.importance / max(self.marginal_cost, 1e-12)

    @property
    def error(self) -> float:
        """The standard error of the importance per cost."""
        return math.sqrt(self.variance) / max(self.marginal_cost, 1e-12)

    @property
    def params_for_cost(self) -> float:
        """To three digits, so that branches alike are alike."""
        return float(f"{self.params / max(self.marginal_cost, 1e-12):.3g}")

    @property
    def what(self) -> tuple[str, str | None]:
        return self.branch, self.group


def allocate(
    branches: Mapping[str, BranchEstimate],
    states: Mapping[str, BranchState],
    step: int,
    pricing: Pricing,
    goals: Mapping[str, float],
    scales: Mapping[str, float],
    within: float = 0.02,
    before: Mapping[str, BranchState] | None = None,
) -> Allocation:
    """What stays when every goal is met.

    Args:
        branches: all that are still there.
        states: to begin with, one for each of them.
        step: channels that widths are multiples of.
        pricing: what costs what.
        goals: measure -> upper bound, not below what can be reached.
        scales: measure -> what counts as much as another measure's; those above their goals are
            charged in the inverse proportion.
        within: reopen what has the most importance per cost while every cost is lower than this
            share below its goal and something fits; 1: do not.
        before: what was decided before, perhaps of branches and units that have gone since; it is
            one of the ways to meet the goals, so that only something better takes its place.
    """
    task = _Task(branches, step, pricing, goals, scales, within)
    states = {
        # A closed branch would come back with its smallest widths.
        name: state if state.kept else BranchState(False, _least(branches[name], step))
        for name, state in states.items()
    }
    plans = list(task.plans(states))
    if before:
        plans += replace(task, final=narrowed(branches, before), within=1.0).plans(
            all_kept(branches)
        )
    plans = [task.fill(plan) for plan in plans]
    least = min(plans, key=lambda p: p.total)
    near = [p for p in plans if _alike(p.total - least.total, p.variance(least))]
    best = max(near, key=lambda p: (pricing.costs_of(p.states)["params"], -p.total))
    return Allocation(best.states, best.importance_per_cost, task.weights(task.above(states)))


def allocate_partial(
    branches: Mapping[str, BranchEstimate],
    final: Mapping[str, BranchState],
    step: int,
    pricing: Pricing,
    goals: Mapping[str, float],
    scales: Mapping[str, float],
) -> Allocation:
    """Of what does not stay in the end, the least important goes until the goals are met.

    Args:
        final: what stays in the end; its costs meet the goals.

    See :func:`allocate` for the others.
    """
    task = _Task(branches, step, pricing, goals, scales, 1.0, final)
    states = all_kept(branches)
    (plan,) = task.plans(states)  # closing to what stays meets the goals at some point
    return Allocation(plan.states, plan.importance_per_cost, task.weights(task.above(states)))


@dataclass(frozen=True)
class _Plan:
    """What stays, at what price, and what each branch loses: (importance, variance)."""

    states: dict[str, BranchState]
    importance_per_cost: float
    lost: dict[str, tuple[float, float]]

    @property
    def total(self) -> float:
        return sum(importance for importance, _ in self.lost.values())

    def variance(self, other: _Plan) -> float:
        """Of how much more one loses than the other: what both lose alike does not count."""
        differing = [name for name in self.lost if self.lost[name] != other.lost[name]]
        return sum(plan.lost[name][1] for plan in (self, other) for name in differing)


@dataclass(frozen=True)
class _Task:
    """What :func:`allocate` is asked, and the steps it takes."""

    branches: Mapping[str, BranchEstimate]
    step: int
    pricing: Pricing
    goals: Mapping[str, float]
    scales: Mapping[str, float]
    within: float
    final: Mapping[str, BranchState] | None = None  # nothing closes beyond it

    def above(self, states: Mapping[str, BranchState]) -> list[str]:
        costs = self.pricing.costs_of(states)
        return [m for m, bound in self.goals.items() if costs[m] > bound]

    def roomy(self, states: Mapping[str, BranchState]) -> bool:
        """Every cost is lower than ``within`` below its goal."""
        costs = self.pricing.costs_of(states)
        return all(costs[m] <= (1.0 - self.within) * bound for m, bound in self.goals.items())

    def weights(self, measures: Iterable[str]) -> dict[str, float]:
        """Shares in the price, in inverse proportion to the scales."""
        inverse = {m: 1.0 / self.scales[m] for m in measures}
        return {m: w / sum(inverse.values()) for m, w in inverse.items()}

    def plans(self, states: dict[str, BranchState]) -> Iterator[_Plan]:
        """Ways to meet the goals: what has the least importance per cost closes first.

        Where a whole branch overshoots, there is another way without that last move.
        """
        importance_per_cost = 0.0
        lost = dict.fromkeys(self.branches, (0.0, 0.0))
        needed: set[str] = set()
        while above := self.above(states):
            moves = self.moves(states, self.weights(above), -1)
            free = [m for m in moves if m.group is not None or m.branch not in needed]
            if not free:
                return
            move = _next_move(free, -1)
            after = states | {move.branch: move.state}
            importance, variance = lost[move.branch]
            if move.group is None:  # its units are lost with it, whether they went before or not
                now = (max(importance, move.importance), move.variance)
            else:
                now = (importance + move.importance, variance + move.variance)
            plan = _Plan(
                after, max(importance_per_cost, move.importance_per_cost), lost | {move.branch: now}
            )
            if move.group is None and not self.above(after) and self.roomy(after):
                yield plan
                needed.add(move.branch)
            else:
                states, importance_per_cost, lost = plan.states, plan.importance_per_cost, plan.lost
        yield _Plan(states, importance_per_cost, lost)

    def fill(self, plan: _Plan) -> _Plan:
        """Reopen what has the most importance per cost while there is room and something fits."""
        states, lost = plan.states, plan.lost
        weights = {m: 1.0 / len(self.goals) for m in self.goals}
        for strides in (STRIDES, None):
            refused: set[tuple[str, str | None]] = set()
            while self.goals and self.roomy(states):
                moves = self.moves(states, weights, 1, strides)
                open_moves = [m for m in moves if m.what not in refused]
                if not open_moves:
                    break
                move = _next_move(open_moves, 1)
                after = states | {move.branch: move.state}
                if self.above(after):
                    refused.add(move.what)
                    continue
                importance, variance = lost[move.branch]
                states = after
                lost = lost | {move.branch: (importance - move.importance, variance)}
        return _Plan(states, plan.importance_per_cost, lost)

    def moves(
        self,
        states: Mapping[str, BranchState],
        weights: Mapping[str, float],
        direction: int,
        strides: int | None = STRIDES,
    ) -> list[_Move]:
        """Every next move down (-1) or up (1); a group's widths in so many strides, or all."""
        marginal_costs = self.pricing.marginal_costs(states, weights)
        moves = []
        for name, branch in self.branches.items():
            state = states[name]
            last = None if self.final is None else self.final[name]
            stays = last is not None and last.kept
            goes = last is not None and not last.kept
            if branch.removable and state.kept == (direction < 0) and not stays:
                moves.append(self._whole_branch(name, marginal_costs.branches[name], direction))
            for key, group in branch.groups.items() if state.kept and not goes else ():
                least = 1 if last is None else last.counts[key]
                count = self._next(group, state.counts[key], direction, least, strides)
                if count is not None:
                    moves.append(
                        self._units(name, key, state, count, marginal_costs.units[name, key])
                    )
        return moves

    def _whole_branch(self, name: str, marginal_cost: tuple[float, float], direction: int) -> _Move:
        branch = self.branches[name]
        least, part = _least(branch, self.step), 1.0
        for key, units in least.items() if direction > 0 else ():
            part *= units / len(branch.groups[key].theta)
        moved = BranchState(direction > 0, least)
        importance, variance = part * branch.importance, part * part * branch.variance
        return _Move(importance, variance, *marginal_cost, name, None, moved)

    def _units(
        self,
        name: str,
        key: str,
        state: BranchState,
        count: int,
        marginal_cost: tuple[float, float],
    ) -> _Move:
        group = self.branches[name].groups[key]
        low, high = sorted((count, state.counts[key]))
        of_these = float(group.importance[group.order[low:high]].mean())
        # Measured with so many on as theta says; log-like in how many there are.
        many = (high - low) * float(group.theta.sum()) * 2 / (low + high)
        moved = BranchState(True, state.counts | {key: count})
        price, params = ((high - low) * x for x in marginal_cost)
        variance = many * many * group.variance
        return _Move(many * of_these, variance, price, params, name, key, moved)

    def _next(
        self, group: GroupEstimate, count: int, direction: int, least: int, strides: int | None
    ) -> int | None:
        """The next number of units in a direction that fills the channel divisor."""
        size = len(group.theta)
        stride = 1 if strides is None else max(1, size // strides)
        if direction > 0:
            counts = range(min(size, count + stride), size + 1)
        else:
            counts = range(max(least, count - stride), least - 1, -1)
        fits = (n for n in counts if make_divisible(n, size, self.step, group.width) == n)
        found = next(fits, count)
        return None if found == count else found


def _alike(difference: float, variance: float) -> bool:
    """Two that cannot be told apart for their noise."""
    return abs(difference) <= STANDARD_ERRORS * math.sqrt(variance)


def _next_move(moves: Sequence[_Move], direction: int) -> _Move:
    """What has the least importance per cost to close (-1), the most to open (1); of all that
    cannot be told from it, what takes the fewest parameters for its cost, or brings the most."""
    first = max(moves, key=lambda m: direction * m.importance_per_cost)
    near = [
        m
        for m in moves
        if _alike(m.importance_per_cost - first.importance_per_cost, m.error**2 + first.error**2)
    ]
    return max(
        near, key=lambda m: (direction * m.params_for_cost, direction * m.importance_per_cost)
    )


def _least(branch: BranchEstimate, step: int) -> dict[str, int]:
    return {k: make_divisible(1, len(g.theta), step, g.width) for k, g in branch.groups.items()}
