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

What stays is decided for the goals that hold in the end (:func:`decide`), also while not all of it
has to go yet (:func:`towards`): on the way down, where the goal happens to be would decide which
branch overshoots it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

from torch import Tensor

STANDARD_ERRORS = 2.0  # by which two are told apart
STRIDES = 32  # in which the units of a group close


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


def shrunk(benefit: Tensor, variance: Tensor) -> Tensor:
    """Benefits of a group's units, drawn to their mean as far as noise explains their spread.

    Empirical Bayes for a normal mean: what is left of the spread is its share beyond what noise
    may make of it, at two standard errors; a thousandth always, so that the order stays. Without
    those errors chance leaves some spread every other time, and then the lowest units seem to cost
    less than they do.

    Args:
        benefit: [K] as measured.
        variance: [K] of their noise.
    """
    mean = benefit.mean()
    spread = (benefit - mean).square().mean()
    if spread == 0:
        return benefit
    chance = variance.mean() * (1.0 + STANDARD_ERRORS * math.sqrt(2.0 / len(benefit)))
    share = (1.0 - chance / spread).clamp(min=1e-3)
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


def _narrowed(branches: Mapping[str, Candidate], states: Mapping[str, State]) -> dict[str, State]:
    """The states of the branches that are still there, no wider than they are by now."""
    return {
        name: State(
            states[name].kept,
            {g: min(n, len(c.groups[g].theta)) for g, n in states[name].counts.items()},
        )
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
    within: float = 0.02,
    before: Mapping[str, State] | None = None,
) -> Decision:
    """What stays when every goal is met.

    Args:
        branches: all that are still there.
        states: to begin with, one for each of them.
        step: channels that widths are multiples of.
        pricing: what costs what.
        goals: measure -> upper bound, not below what can be reached.
        scales: measure -> what counts as much as another measure's; those above their goals are
            charged in the inverse proportion.
        within: reopen what is worth most while every cost is lower than this share below its goal
            and something fits; 1: do not.
        before: what was decided before, perhaps of branches and units that have gone since; it is
            one of the ways to meet the goals, so that only something better takes its place.
    """
    task = _Task(branches, step, pricing, goals, scales, within)
    states = {
        # A closed branch would come back with its smallest widths.
        name: state if state.kept else State(False, _least(branches[name], step))
        for name, state in states.items()
    }
    plans = list(task.plans(states))
    if before:
        plans += replace(task, final=_narrowed(branches, before), within=1.0).plans(whole(branches))
    plans = [task.fill(plan) for plan in plans]
    least = min(plans, key=lambda p: p.total)
    near = [p for p in plans if _alike(p.total - least.total, p.variance(least))]
    best = max(near, key=lambda p: (pricing.costs_of(p.states)["params"], -p.total))
    return Decision(best.states, best.worth, task.weights(task.above(states)))


def towards(
    branches: Mapping[str, Candidate],
    final: Mapping[str, State],
    step: int,
    pricing: Pricing,
    goals: Mapping[str, float],
    scales: Mapping[str, float],
) -> Decision:
    """Of what does not stay in the end, what is worth least goes until the goals are met.

    Args:
        final: what stays in the end; its costs meet the goals.

    See :func:`decide` for the others.
    """
    task = _Task(branches, step, pricing, goals, scales, 1.0, final)
    states = whole(branches)
    (plan,) = task.plans(states)  # closing to what stays meets the goals at some point
    return Decision(plan.states, plan.worth, task.weights(task.above(states)))


def differing(states: Mapping[str, State], other: Mapping[str, State]) -> int:
    """Gates that two decisions disagree about; a branch counts as one with its units."""
    count = 0
    for name, state in states.items():
        if state.kept != other[name].kept:
            count += 1
        elif state.kept:
            count += sum(abs(n - other[name].counts[g]) for g, n in state.counts.items())
    return count


@dataclass(frozen=True)
class _Plan:
    """What stays, at what price, and what each branch loses: (benefit, variance)."""

    states: dict[str, State]
    worth: float
    lost: dict[str, tuple[float, float]]

    @property
    def total(self) -> float:
        return sum(benefit for benefit, _ in self.lost.values())

    def variance(self, other: _Plan) -> float:
        """Of how much more one loses than the other: what both lose alike does not count."""
        differing = [name for name in self.lost if self.lost[name] != other.lost[name]]
        return sum(plan.lost[name][1] for plan in (self, other) for name in differing)


@dataclass(frozen=True)
class _Task:
    """What :func:`decide` is asked, and the steps it takes."""

    branches: Mapping[str, Candidate]
    step: int
    pricing: Pricing
    goals: Mapping[str, float]
    scales: Mapping[str, float]
    within: float
    final: Mapping[str, State] | None = None  # nothing closes beyond it

    def above(self, states: Mapping[str, State]) -> list[str]:
        costs = self.pricing.costs_of(states)
        return [m for m, bound in self.goals.items() if costs[m] > bound]

    def roomy(self, states: Mapping[str, State]) -> bool:
        """Every cost is lower than ``within`` below its goal."""
        costs = self.pricing.costs_of(states)
        return all(costs[m] <= (1.0 - self.within) * bound for m, bound in self.goals.items())

    def weights(self, measures: Iterable[str]) -> dict[str, float]:
        """Shares in the price, in inverse proportion to the scales."""
        inverse = {m: 1.0 / self.scales[m] for m in measures}
        return {m: w / sum(inverse.values()) for m, w in inverse.items()}

    def plans(self, states: dict[str, State]) -> Iterator[_Plan]:
        """Ways to meet the goals: what is worth least closes first.

        Where a whole branch overshoots, there is another way without that last move.
        """
        worth = 0.0
        lost = dict.fromkeys(self.branches, (0.0, 0.0))
        needed: set[str] = set()
        while above := self.above(states):
            moves = self.moves(states, self.weights(above), -1)
            free = [m for m in moves if m.group is not None or m.branch not in needed]
            if not free:
                return
            move = _next_move(free, -1)
            after = states | {move.branch: move.state}
            benefit, variance = lost[move.branch]
            if move.group is None:  # its units are lost with it, whether they went before or not
                now = (max(benefit, move.benefit), move.variance)
            else:
                now = (benefit + move.benefit, variance + move.variance)
            plan = _Plan(after, max(worth, move.worth), lost | {move.branch: now})
            if move.group is None and not self.above(after) and self.roomy(after):
                yield plan
                needed.add(move.branch)
            else:
                states, worth, lost = plan.states, plan.worth, plan.lost
        yield _Plan(states, worth, lost)

    def fill(self, plan: _Plan) -> _Plan:
        """Reopen what is worth most while there is room and something fits."""
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
                benefit, variance = lost[move.branch]
                states = after
                lost = lost | {move.branch: (benefit - move.benefit, variance)}
        return _Plan(states, plan.worth, lost)

    def moves(
        self,
        states: Mapping[str, State],
        weights: Mapping[str, float],
        direction: int,
        strides: int | None = STRIDES,
    ) -> list[_Move]:
        """Every next move down (-1) or up (1); a group's widths in so many strides, or all."""
        charges = self.pricing.charges_of(states, weights)
        moves = []
        for name, branch in self.branches.items():
            state = states[name]
            last = None if self.final is None else self.final[name]
            stays = last is not None and last.kept
            goes = last is not None and not last.kept
            if branch.removable and state.kept == (direction < 0) and not stays:
                moves.append(self._whole_branch(name, charges.branches[name], direction))
            for key, group in branch.groups.items() if state.kept and not goes else ():
                least = 1 if last is None else last.counts[key]
                count = self._next(group, state.counts[key], direction, least, strides)
                if count is not None:
                    moves.append(self._units(name, key, state, count, charges.units[name, key]))
        return moves

    def _whole_branch(self, name: str, charge: tuple[float, float], direction: int) -> _Move:
        branch = self.branches[name]
        least, part = _least(branch, self.step), 1.0
        for key, units in least.items() if direction > 0 else ():
            part *= units / len(branch.groups[key].theta)
        moved = State(direction > 0, least)
        benefit, variance = part * branch.benefit, part * part * branch.variance
        return _Move(benefit, variance, *charge, name, None, moved)

    def _units(
        self, name: str, key: str, state: State, count: int, charge: tuple[float, float]
    ) -> _Move:
        group = self.branches[name].groups[key]
        low, high = sorted((count, state.counts[key]))
        of_these = float(group.benefit[group.order[low:high]].mean())
        # Measured with so many on as theta says; log-like in how many there are.
        many = (high - low) * float(group.theta.sum()) * 2 / (low + high)
        moved = State(True, state.counts | {key: count})
        price, params = ((high - low) * x for x in charge)
        variance = many * many * group.variance
        return _Move(many * of_these, variance, price, params, name, key, moved)

    def _next(
        self, group: Group, count: int, direction: int, least: int, strides: int | None
    ) -> int | None:
        """The next number of units in a direction that fills the channel step."""
        size = len(group.theta)
        stride = 1 if strides is None else max(1, size // strides)
        if direction > 0:
            counts = range(min(size, count + stride), size + 1)
        else:
            counts = range(max(least, count - stride), least - 1, -1)
        fits = (n for n in counts if filled(n, size, self.step, group.width) == n)
        found = next(fits, count)
        return None if found == count else found


def _alike(difference: float, variance: float) -> bool:
    """Two that cannot be told apart for their noise."""
    return abs(difference) <= STANDARD_ERRORS * math.sqrt(variance)


def _next_move(moves: Sequence[_Move], direction: int) -> _Move:
    """What is worth least to close (-1), most to open (1); of all that cannot be told from it,
    what takes the fewest parameters for its cost, or brings the most."""
    first = max(moves, key=lambda m: direction * m.worth)
    near = [m for m in moves if _alike(m.worth - first.worth, m.error**2 + first.error**2)]
    return max(near, key=lambda m: (direction * m.params_for_cost, direction * m.worth))


def _least(branch: Candidate, step: int) -> dict[str, int]:
    return {k: filled(1, len(g.theta), step, g.width) for k, g in branch.groups.items()}
