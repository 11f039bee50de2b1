"""What closes for a budget: always within it, and what is importance_per_cost least first."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from cpt_nas.search.allocation import Allocation, allocate, allocate_partial
from cpt_nas.search.estimates import (
    BranchEstimate,
    BranchState,
    GroupEstimate,
    MarginalCosts,
    all_kept,
    by_theta,
    differing,
    make_divisible,
    shrink_to_group_mean,
)


def branch(
    theta: float,
    units: list[float],
    width: int = 1,
    removable: bool = True,
    importance: float = 1.0,
    each: float = 0.1,
) -> BranchEstimate:
    thetas = torch.tensor(units)
    group = GroupEstimate(thetas, torch.full_like(thetas, each), width)
    return BranchEstimate(theta, importance, removable, {"g": group})


class Prices:
    """Each branch costs 10, and each unit its branch's number plus one; 5 stay."""

    def costs_of(self, states: Mapping[str, BranchState]) -> dict[str, float]:
        left = {n: s for n, s in states.items() if s.kept}
        units = sum(each(n) * s.counts["g"] for n, s in left.items())
        return {"latency": 5.0 + 10 * len(left) + units, "params": float(units)}

    def marginal_costs(
        self, states: Mapping[str, BranchState], weights: Mapping[str, float]
    ) -> MarginalCosts:
        latency, params = weights.get("latency", 0.0), weights.get("params", 0.0)
        units = {(n, "g"): (each(n) * (latency + params), float(each(n))) for n in states}
        held = {n: float(s.counts["g"] * each(n)) for n, s in states.items()}
        branches = {n: (latency * (10 + held[n]) + params * held[n], held[n]) for n in states}
        return MarginalCosts(branches, units)


def each(name: str) -> int:
    return int(name[1:]) + 1


PRICES = Prices()
SCALES = {"latency": 0.5, "params": 0.5}


def kept(states: Mapping[str, BranchState]) -> dict[str, int]:
    return {n: s.counts["g"] if s.kept else 0 for n, s in states.items()}


def decided(
    branches: Mapping[str, BranchEstimate], goal: float, within: float = 0.02
) -> tuple[Allocation, dict[str, int]]:
    decision = allocate(branches, all_kept(branches), 1, PRICES, {"latency": goal}, SCALES, within)
    return decision, kept(decision.states)


def test_without_a_budget_theta_decides() -> None:
    branches = {"b0": branch(0.4, [1.0] * 4), "b1": branch(0.9, [0.9, 0.2, 0.6, 0.1])}
    assert kept(by_theta(branches, 1, 0.5)) == {"b0": 0, "b1": 2}
    states = allocate(branches, by_theta(branches, 1, 0.5), 1, PRICES, {}, {}).states
    assert kept(states) == {"b0": 0, "b1": 2}


def test_a_group_without_units_takes_its_branch_along_where_that_may_go() -> None:
    branches = {"b0": branch(1.0, [0.1] * 4), "b1": branch(1.0, [0.1] * 4, removable=False)}
    assert kept(by_theta(branches, 1, 0.5)) == {"b0": 0, "b1": 1}


def test_the_least_important_for_its_cost_closes_first() -> None:
    """b0 costs 14, b1 18: at equal importance b1 goes, at 14 : 20 it stays."""
    for importance, left in ((1.0, {"b0": 4, "b1": 0}), (20 / 14, {"b0": 0, "b1": 4})):
        branches = {
            "b0": branch(1.0, [1.0] * 4, each=9),
            "b1": branch(1.0, [1.0] * 4, importance=importance, each=9),
        }
        decision, found = decided(branches, 24.0, within=1.0)
        assert found == left
        least = min(1.0 / 14, importance / 18)
        assert decision.importance_per_cost == pytest.approx(least) and decision.weights == {
            "latency": 1.0
        }


def test_of_what_cannot_be_told_apart_the_fewest_parameters_go() -> None:
    """b0 costs 14 and has 4 parameters, b1 18 and 8; b1 is importance_per_cost a little less."""
    for noise, left in ((0.0, {"b0": 4, "b1": 0}), (0.04, {"b0": 0, "b1": 4})):
        branches = {
            name: BranchEstimate(
                1.0, importance, True, {"g": GroupEstimate(torch.ones(4), torch.ones(4), 1)}, noise
            )
            for name, importance in (("b0", 1.4), ("b1", 1.7))
        }
        assert decided(branches, 24.0, within=1.0)[1] == left


def test_of_plans_that_cannot_be_told_apart_the_most_parameters_stay() -> None:
    """3 have to go: of b1's 8 parameters, or b0 goes and comes back as wide as fits."""
    for noise, left in ((0.0, {"b0": 4, "b1": 2}), (1.0, {"b0": 1, "b1": 4})):
        few = GroupEstimate(torch.ones(4), torch.full((4,), 9.0), 1)
        many = GroupEstimate(torch.ones(4), torch.full((4,), 0.1), 1)
        branches = {
            "b0": BranchEstimate(1.0, 0.5, True, {"g": few}, noise),
            "b1": BranchEstimate(1.0, 9.0, True, {"g": many}),
        }
        assert decided(branches, 5 + 14 + 18 - 3)[1] == left


def test_units_are_more_important_the_fewer_they_are() -> None:
    """Two groups of one importance_per_cost shrink alike, not one of them to nothing."""
    branches = {
        "b0": branch(1.0, [1.0] * 8, importance=9, each=0.1),
        "b1": branch(1.0, [1.0] * 8, importance=9, each=0.2),
    }
    _, found = decided(branches, 5 + 20 + 12)
    assert found == {"b0": 4, "b1": 4}


def test_units_are_told_apart_only_beyond_the_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.tensor([0.0] * 32 + [1.0] * 32)
    for noise in (0.1, 5.0):
        measured = true + noise * torch.randn(64, generator=generator)
        found = shrink_to_group_mean(measured, torch.full((64,), noise**2))
        assert found.mean() == pytest.approx(float(measured.mean()), abs=1e-5)
        assert torch.equal(found.argsort(), measured.argsort())
        left = float(found.std() / measured.std())
        chance = noise**2 * (1 + 2 * (2 / 64) ** 0.5) / float(measured.var(correction=0))
        assert left == pytest.approx(max(1e-3, 1 - chance), rel=1e-3)
        assert left > 0.94 if noise < 1 else left < 0.25
    assert shrink_to_group_mean(torch.ones(4), torch.ones(4)).tolist() == [1, 1, 1, 1]
    assert shrink_to_group_mean(torch.tensor([3.0]), torch.ones(1)).tolist() == [3]


def test_units_alike_are_seldom_told_apart() -> None:
    """Of groups that differ by chance alone, a twentieth at most keep some of their spread."""
    generator = torch.Generator().manual_seed(0)
    for size in (16, 64):
        told = 0
        for _ in range(200):
            measured = 1.0 + 0.5 * torch.randn(size, generator=generator)
            found = shrink_to_group_mean(measured, torch.full((size,), 0.25))
            told += float(found.std() / measured.std()) > 0.01
        assert told <= 10


def test_units_that_nobody_misses_go_before_a_branch() -> None:
    group = GroupEstimate(torch.ones(4), torch.tensor([0.5, 0.0, 0.5, 0.0]), 1)
    branches = {"b0": BranchEstimate(1.0, 0.5, True, {"g": group})}
    assert decided(branches, 17.0)[1] == {"b0": 2}


def test_which_units_go_is_theta_and_then_their_own_benefit() -> None:
    group = GroupEstimate(torch.tensor([0.9, 0.9, 0.2, 0.9]), torch.tensor([0.3, 0.1, 9.0, 0.2]), 1)
    assert group.order.tolist() == [0, 3, 1, 2]


def test_a_branch_that_saves_far_too_much_stays_where_units_lose_less() -> None:
    """1 has to go; a branch is importance_per_cost least for its 14, but a unit loses less."""
    cheap = {"b0": branch(1.0, [1.0] * 4, importance=1.0, each=0.1)}
    assert decided(cheap, 18.0)[1] == {"b0": 3}
    dear = {"b0": branch(1.0, [1.0] * 4, importance=1.0, each=5.0)}
    decision, found = decided(dear, 18.0, within=1.0)
    assert found == {
        "b0": 0
    }  # with nothing to fill, what is importance_per_cost least is all that counts
    assert decision.importance_per_cost == pytest.approx(1 / 14)


def test_with_room_left_a_branch_comes_back_as_wide_as_fits() -> None:
    branches = {"b0": branch(0.2, [1.0] * 4), "b1": branch(1.0, [1.0] * 4, importance=9, each=9)}
    start = by_theta(branches, 1, 0.5)
    goals = {"latency": 5 + 18 + 12.0}
    states = allocate(branches, start, 1, PRICES, goals, SCALES).states
    assert kept(states) == {"b0": 2, "b1": 4}
    assert differing(states, start) == 1
    states = allocate(branches, start, 1, PRICES, goals, SCALES, within=1.0).states
    assert kept(states) == {"b0": 0, "b1": 4} and differing(states, start) == 0


def test_closed_units_reopen_up_to_the_budget() -> None:
    branches = {"b0": branch(1.0, [1.0, 0.3, 0.4, 0.0])}
    start = by_theta(branches, 1, 0.5)
    states = allocate(branches, start, 1, PRICES, {"latency": 17.5}, SCALES).states
    assert kept(states) == {"b0": 2} and differing(states, start) == 1


def test_a_measure_within_its_goal_has_no_price() -> None:
    branches = {"b0": branch(1.0, [1.0] * 4, each=0.1), "b1": branch(1.0, [1.0] * 4, each=0.1)}
    goals = {"latency": 1000.0, "params": 6.0}
    decision = allocate(branches, all_kept(branches), 1, PRICES, goals, SCALES)
    assert decision.weights == {"params": 1.0} and decision.importance_per_cost > 0
    idle = allocate(branches, all_kept(branches), 1, PRICES, {"latency": 1000.0}, SCALES)
    assert (
        idle.weights == {}
        and idle.importance_per_cost == 0
        and kept(idle.states) == {"b0": 4, "b1": 4}
    )


def test_on_the_way_only_that_goes_which_does_not_stay_in_the_end() -> None:
    """b0 is the least important, but it stays; of the rest b2, and of b1 what is too much."""
    branches = {
        "b0": branch(1.0, [1.0] * 4, importance=0.0, each=0.0),
        "b1": branch(1.0, [1.0] * 4, importance=9.0, each=2.0),
        "b2": branch(1.0, [1.0] * 4, importance=1.0, each=9.0),
    }
    final = {
        "b0": BranchState(True, {"g": 4}),
        "b1": BranchState(True, {"g": 2}),
        "b2": BranchState(False, {"g": 1}),
    }
    dense = PRICES.costs_of(all_kept(branches))["latency"]
    for saved, left in ((0, [4, 4, 4]), (20, [4, 4, 0]), (24, [4, 3, 0]), (26, [4, 2, 0])):
        decision = allocate_partial(branches, final, 1, PRICES, {"latency": dense - saved}, SCALES)
        assert list(kept(decision.states).values()) == left
    assert decision.importance_per_cost == pytest.approx(2.0 * 4 / 2.5 / 2)  # the third unit of b1


def test_an_earlier_decision_stays_until_another_is_told_apart_from_it() -> None:
    """b1 is less important for its cost, but loses about as much as b0, which went before."""
    before = {"b0": BranchState(False, {"g": 1}), "b1": BranchState(True, {"g": 4})}
    for noise, left in ((0.0, {"b0": 4, "b1": 0}), (0.04, {"b0": 0, "b1": 4})):
        branches = {
            name: BranchEstimate(
                1.0,
                importance,
                True,
                {"g": GroupEstimate(torch.ones(4), torch.full((4,), 9.0), 1)},
                noise,
            )
            for name, importance in (("b0", 2.1), ("b1", 1.8))
        }
        assert decided(branches, 24.0, within=1.0)[1] == {"b0": 4, "b1": 0}
        goals = {"latency": 24.0}
        again = allocate(branches, all_kept(branches), 1, PRICES, goals, SCALES, 1.0, before)
        assert kept(again.states) == left


def test_an_earlier_decision_may_be_of_more_than_is_left() -> None:
    """Of b0 only three units are left, b1 is gone."""
    before = {"b0": BranchState(True, {"g": 4}), "b1": BranchState(False, {"g": 1})}
    branches = {"b0": branch(1.0, [1.0] * 3)}
    decision = allocate(
        branches, all_kept(branches), 1, PRICES, {"latency": 18.0}, SCALES, 0.02, before
    )
    assert kept(decision.states) == {"b0": 3}


def test_wide_groups_close_in_strides_and_still_fill_the_budget() -> None:
    branches = {"b0": branch(1.0, [1.0] * 640, importance=900.0)}
    calls = []

    class Counting(Prices):
        def marginal_costs(
            self, states: Mapping[str, BranchState], weights: Mapping[str, float]
        ) -> MarginalCosts:
            calls.append(1)
            return super().marginal_costs(states, weights)

    found = allocate(branches, all_kept(branches), 1, Counting(), {"latency": 327.0}, SCALES, 0.0)
    assert kept(found.states) == {"b0": 312} and len(calls) < 40


def test_widths_fill_the_channel_divisor() -> None:
    assert [make_divisible(n, 16, 4, 1) for n in (1, 4, 5, 16)] == [4, 4, 8, 16]
    assert [make_divisible(n, 3, 8, 64) for n in (1, 2, 3)] == [
        1,
        2,
        3,
    ]  # heads, wider than the channel divisor
    assert [make_divisible(n, 9, 4, 3) for n in (1, 2, 3, 4, 5)] == [1, 2, 4, 4, 5]
    assert make_divisible(5, 6, 4, 1) == 6  # all there are


thetas = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12)


@given(
    made=st.lists(
        st.tuples(
            *(st.floats(0, 1), thetas, st.sampled_from([1, 3]), st.booleans()),
            *(st.floats(-1, 9), st.floats(-1, 1)),
        ),
        min_size=1,
        max_size=5,
    ),
    step=st.sampled_from([1, 2, 4]),
    latency=st.floats(0, 1),
    params=st.one_of(st.none(), st.floats(0, 1)),
    theta=st.booleans(),
)
def test_every_budget_holds_and_nothing_more_would_fit(
    made: list[tuple[float, list[float], int, bool, float, float]],
    step: int,
    latency: float,
    params: float | None,
    theta: bool,
) -> None:
    branches = {f"b{i}": branch(*values) for i, values in enumerate(made)}
    dense = PRICES.costs_of(all_kept(branches))
    closed = {n: BranchEstimate(0.0, 0.0, b.removable, b.groups) for n, b in branches.items()}
    lowest = PRICES.costs_of(by_theta(closed, step, 1.0))
    budgets = {"latency": lowest["latency"] + latency * (dense["latency"] - lowest["latency"])}
    if params is not None:
        budgets["params"] = lowest["params"] + params * (dense["params"] - lowest["params"])
    assume(all(b > 0 for b in budgets.values()))
    start = by_theta(branches, step, 0.5) if theta else all_kept(branches)
    decision = allocate(branches, start, step, PRICES, budgets, SCALES)
    found = PRICES.costs_of(decision.states)
    assert all(found[m] <= b for m, b in budgets.items())

    half = {m: (dense[m] + max(found[m], b)) / 2 for m, b in budgets.items()}
    on_the_way = allocate_partial(branches, decision.states, step, PRICES, half, SCALES).states
    assert all(PRICES.costs_of(on_the_way)[m] <= b for m, b in half.items())
    for name, state in on_the_way.items():
        last = decision.states[name]
        assert state.kept or not last.kept
        assert not last.kept or state.counts["g"] >= last.counts["g"]

    for name, state in decision.states.items():
        size, width = len(branches[name].groups["g"].theta), branches[name].groups["g"].width
        n = state.counts["g"]
        assert 1 <= n <= size and make_divisible(n, size, step, width) == n
        assert state.kept or branches[name].removable
        # Well below every budget only where the next width up, or the branch, does not fit.
        if all(found[m] <= 0.98 * b for m, b in budgets.items()):
            more = [x for x in range(n + 1, size + 1) if make_divisible(x, size, step, width) == x]
            least = make_divisible(1, size, step, width)
            bigger = BranchState(True, {"g": (more or [n])[0] if state.kept else least})
            if (bigger.kept, bigger.counts) != (state.kept, state.counts):
                would = PRICES.costs_of({**decision.states, name: bigger})
                assert any(would[m] > b for m, b in budgets.items())
