"""The last decision: which gates close at the freeze, so that every budget holds.

theta > 0.5 decides. Where the network that gives is above a budget, the gates close that are
wanted least; where it is below all of them, those still there reopen that are wanted most, as long
as they fit. Widths move by the channel step, because nothing in between is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Group:
    """A unit group that is still there.

    Attributes:
        theta: [K] of the units still there.
        use: [K] how much the loss asks for each; only its order counts, where theta is equal.
        width: channels a unit.
        order: [K] positions, the most wanted first.
    """

    theta: Tensor
    use: Tensor
    width: int

    @property
    def order(self) -> Tensor:
        by_use = self.use.sort(descending=True, stable=True).indices
        return by_use[self.theta[by_use].sort(descending=True, stable=True).indices]


@dataclass(frozen=True)
class Candidate:
    """A branch that is still there.

    Attributes:
        theta: of its gate; 1 where it has none.
        use: how much the loss asks for it.
        removable: it has a gate.
        groups: by name.
    """

    theta: float
    use: float
    removable: bool
    groups: dict[str, Group] = field(default_factory=dict)


@dataclass
class State:
    """A branch while deciding: whether it stays, and how many units of each group."""

    kept: bool
    counts: dict[str, int]


@dataclass(frozen=True)
class Decision:
    """What stays.

    Attributes:
        states: of every branch that was still there; of a group, its most wanted units stay.
        forced: gates decided against theta > 0.5; a branch counts as one with its units.
    """

    states: dict[str, State]
    forced: int


@dataclass(frozen=True)
class _Move:
    """A branch that goes or comes, or a group that gets another width.

    ``wanted`` orders moves: theta, then how much the loss asks for what moves.
    """

    wanted: tuple[float, int, float]
    branch: str
    group: str | None
    state: State


Costs = Callable[[Mapping[str, State]], Mapping[str, float]]


def filled(units: int, size: int, step: int, width: int) -> int:
    """Units, at most ``size``, that fit into the multiple of ``step`` channels ``units`` need."""
    channels = -(-units * width // step) * step
    return min(size, channels // width)


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
    step: int,
    costs: Costs,
    budgets: Mapping[str, float],
    within: float = 0.02,
) -> Decision:
    """Decide every gate.

    Args:
        branches: all that are still there.
        step: channels that widths are multiples of.
        costs: measure -> cost of what would be left.
        budgets: measure -> upper bound, not below what can be reached; none: theta alone decides.
        within: units reopen while every cost is lower than this share below its budget.
    """
    states = by_theta(branches, step, 0.5)
    orders = {n: {key: g.order for key, g in b.groups.items()} for n, b in branches.items()}

    def below(share: float) -> bool:
        found = costs(states)
        return all(found[m] <= share * bound for m, bound in budgets.items())

    while not below(1.0):
        move = min(_moves(branches, orders, states, step, -1), key=lambda m: m.wanted)
        states[move.branch] = move.state

    refused: set[tuple[str, str | None]] = set()
    while budgets and below(1.0 - within):
        moves = _moves(branches, orders, states, step, 1)
        open_moves = [m for m in moves if (m.branch, m.group) not in refused]
        if not open_moves:
            break
        move = max(open_moves, key=lambda m: m.wanted)
        before, states[move.branch] = states[move.branch], move.state
        if not below(1.0):
            states[move.branch] = before
            refused.add((move.branch, move.group))
    return Decision(states, _forced(states, by_theta(branches, step, 0.5)))


def _moves(
    branches: Mapping[str, Candidate],
    orders: Mapping[str, Mapping[str, Tensor]],
    states: Mapping[str, State],
    step: int,
    direction: int,
) -> list[_Move]:
    """Every next move down (-1) or up (1)."""
    moves = []
    for name, branch in branches.items():
        state = states[name]
        if branch.removable and state.kept == (direction < 0):
            # Where theta is equal, units close before branches, and branches open before units.
            # A branch comes back with its smallest width; its units are further moves.
            least = {k: filled(1, len(g.theta), step, g.width) for k, g in branch.groups.items()}
            moved = State(direction > 0, state.counts if direction < 0 else least)
            moves.append(_Move((_rounded(branch.theta), 1, branch.use), name, None, moved))
        if not state.kept:
            continue
        for key, group in branch.groups.items():
            count = _next(state.counts[key], direction, len(group.theta), step, group.width)
            if count is None:
                continue
            low, high = sorted((count, state.counts[key]))
            units = orders[name][key][low:high]
            wanted = (_rounded(group.theta[units].mean()), 0, float(group.use[units].mean()))
            moves.append(_Move(wanted, name, key, State(True, state.counts | {key: count})))
    return moves


def _next(count: int, direction: int, size: int, step: int, width: int) -> int | None:
    """The next number of units in a direction that fills the channel step."""
    stop = 0 if direction < 0 else size + 1
    found = (n for n in range(count + direction, stop, direction))
    return next((n for n in found if filled(n, size, step, width) == n), None)


def _forced(states: Mapping[str, State], free: Mapping[str, State]) -> int:
    count = 0
    for name, state in states.items():
        if state.kept != free[name].kept:
            count += 1
        elif state.kept:
            count += sum(abs(n - free[name].counts[g]) for g, n in state.counts.items())
    return count


def _rounded(theta: float | Tensor) -> float:
    """Thetas that differ by less are equally wanted."""
    return round(float(theta), 2)
