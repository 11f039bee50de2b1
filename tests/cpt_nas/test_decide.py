"""The last decision: always within the budgets, and no further from theta than they ask."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from cpt_nas.decide import Candidate, Group, State, by_theta, decide, filled


def branch(theta: float, units: list[float], width: int = 1, removable: bool = True) -> Candidate:
    thetas = torch.tensor(units)
    return Candidate(theta, 0.0, removable, {"g": Group(thetas, torch.zeros(len(units)), width)})


def costs_of(states: Mapping[str, State]) -> dict[str, float]:
    """Each branch costs 10, and each unit its branch's number plus one; 5 stay."""
    left = {n: s for n, s in states.items() if s.kept}
    units = sum((int(n[1:]) + 1) * s.counts["g"] for n, s in left.items())
    return {"latency": 5.0 + 10 * len(left) + units, "params": float(units)}


def kept(states: Mapping[str, State]) -> dict[str, int]:
    return {n: s.counts["g"] if s.kept else 0 for n, s in states.items()}


def test_without_a_budget_theta_decides() -> None:
    branches = {"b0": branch(0.4, [1.0] * 4), "b1": branch(0.9, [0.9, 0.2, 0.6, 0.1])}
    decision = decide(branches, 1, costs_of, {})
    assert kept(decision.states) == {"b0": 0, "b1": 2} and decision.forced == 0


def test_a_group_without_units_takes_its_branch_along_where_that_may_go() -> None:
    branches = {"b0": branch(1.0, [0.1] * 4), "b1": branch(1.0, [0.1] * 4, removable=False)}
    assert kept(by_theta(branches, 1, 0.5)) == {"b0": 0, "b1": 1}


def test_what_is_wanted_least_closes_first() -> None:
    branches = {"b0": branch(1.0, [1.0, 0.7, 0.9, 0.8]), "b1": branch(0.6, [1.0] * 4)}
    full = costs_of(by_theta(branches, 1, 0.5))["latency"]
    decision = decide(branches, 1, costs_of, {"latency": full - 1})
    # theta 0.6 is the branch; 18 are free then, and it comes back as wide as fits.
    assert kept(decision.states) == {"b0": 4, "b1": 3} and decision.forced == 1
    decision = decide(branches, 1, costs_of, {"latency": full - 8})
    assert kept(decision.states) == {"b0": 4, "b1": 0} and decision.forced == 1


def test_among_equal_theta_the_loss_decides() -> None:
    use = torch.tensor([0.3, 0.1, 0.2])
    branches = {"b0": Candidate(1.0, 9.0, True, {"g": Group(torch.ones(3), use, 1)})}
    decision = decide(branches, 1, costs_of, {"latency": 17.0})
    assert kept(decision.states) == {"b0": 2}
    assert branches["b0"].groups["g"].order.tolist() == [0, 2, 1]


def test_closed_units_reopen_up_to_the_budget() -> None:
    branches = {"b0": branch(1.0, [1.0, 0.3, 0.4, 0.0])}
    decision = decide(branches, 1, costs_of, {"latency": 17.5})
    assert kept(decision.states) == {"b0": 2} and decision.forced == 1


def test_widths_fill_the_channel_step() -> None:
    assert [filled(n, 16, 4, 1) for n in (1, 4, 5, 16)] == [4, 4, 8, 16]
    assert [filled(n, 3, 8, 64) for n in (1, 2, 3)] == [1, 2, 3]  # heads, wider than the step
    assert [filled(n, 9, 4, 3) for n in (1, 2, 3, 4, 5)] == [1, 2, 4, 4, 5]
    assert filled(5, 6, 4, 1) == 6  # all there are


thetas = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12)


@given(
    made=st.lists(
        st.tuples(st.floats(0, 1), thetas, st.sampled_from([1, 3]), st.booleans()),
        min_size=1,
        max_size=5,
    ),
    step=st.sampled_from([1, 2, 4]),
    latency=st.floats(0, 1),
    params=st.one_of(st.none(), st.floats(0, 1)),
)
def test_every_budget_holds_and_nothing_more_would_fit(
    made: list[tuple[float, list[float], int, bool]],
    step: int,
    latency: float,
    params: float | None,
) -> None:
    branches = {f"b{i}": branch(*values) for i, values in enumerate(made)}
    dense = costs_of({n: State(True, {"g": len(b.groups["g"].theta)}) for n, b in branches.items()})
    closed = {n: Candidate(0.0, 0.0, b.removable, b.groups) for n, b in branches.items()}
    lowest = costs_of(by_theta(closed, step, 1.0))
    budgets = {"latency": lowest["latency"] + latency * (dense["latency"] - lowest["latency"])}
    if params is not None:
        budgets["params"] = lowest["params"] + params * (dense["params"] - lowest["params"])
    assume(all(b > 0 for b in budgets.values()))
    decision = decide(branches, step, costs_of, budgets)
    found = costs_of(decision.states)
    assert all(found[m] <= b for m, b in budgets.items())

    for name, state in decision.states.items():
        size, width = len(branches[name].groups["g"].theta), branches[name].groups["g"].width
        n = state.counts["g"]
        assert 1 <= n <= size and filled(n, size, step, width) == n
        assert state.kept or branches[name].removable
        # Well below every budget only where the next width up, or the branch, does not fit.
        if all(found[m] <= 0.98 * b for m, b in budgets.items()):
            more = [x for x in range(n + 1, size + 1) if filled(x, size, step, width) == x]
            least = filled(1, size, step, width)
            bigger = State(True, {"g": (more or [n])[0] if state.kept else least})
            if (bigger.kept, bigger.counts) != (state.kept, state.counts):
                would = costs_of({**decision.states, name: bigger})
                assert any(would[m] > b for m, b in budgets.items())
