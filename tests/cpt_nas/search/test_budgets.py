"""Budgets as people write them, and the controller on a search that is only arithmetic."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpt_nas.search.budgets import UNITS, Amount, BudgetError, format_amount, parse_amount, resolve
from cpt_nas.search.schedules import ESTIMATION, BudgetSchedule, LevelSchedule


@pytest.mark.parametrize(
    ("measure", "text", "value", "share"),
    [
        ("latency", "12ms", 0.012, False),
        ("latency", " 0.5 s ", 0.5, False),
        ("latency", "250us", 250e-6, False),
        ("latency", 0.5, 0.5, True),
        ("latency", "1", 1.0, True),
        ("params", "150k", 150e3, False),
        ("params", "1.5M", 1.5e6, False),
        ("params", "20000", 20000.0, False),
        ("macs", "2e7", 2e7, False),
        ("macs", "0.25", 0.25, True),
    ],
)
def test_amounts_are_read(measure: str, text: str | float, value: float, share: bool) -> None:
    amount = parse_amount(measure, text)
    assert amount.value == pytest.approx(value) and amount.share == share


@pytest.mark.parametrize(
    ("measure", "text", "part"),
    [
        ("latency", "12", "unit of ns, us"),
        ("latency", "12M", "unit of ns, us"),
        ("latency", "fast", "must be a number"),
        ("latency", "", "must be a number"),
        ("latency", "nan", "must be a number"),
        ("latency", "1.2.3ms", "must be a number"),
        ("latency", "0", "must be above 0"),
        ("latency", "-5ms", "must be above 0"),
        ("params", "10ms", "unit of k, M, G"),
        ("macs", 1e400, "must be"),
    ],
)
def test_what_is_no_amount_is_refused(measure: str, text: str | float, part: str) -> None:
    with pytest.raises(ValueError, match=part) as failed:
        parse_amount(measure, text)
    assert "such as" in str(failed.value)


@given(measure=st.sampled_from(sorted(UNITS)), value=st.floats(1e-8, 1e12))
def test_a_written_amount_is_read_back(measure: str, value: float) -> None:
    text = format_amount(measure, value)
    if measure != "latency" and value <= 1:
        return  # a share
    amount = parse_amount(measure, text)
    assert not amount.share or float(text) <= 1
    assert amount.value == pytest.approx(value, rel=1e-3)


DENSE = {"latency": 0.02, "params": 1e6, "macs": 4e7}
LOWEST = {"latency": 0.005, "params": 1e5, "macs": 2e6}


def test_budgets_are_resolved_against_the_dense_network() -> None:
    amounts = {"latency": Amount(0.5, True), "params": Amount(3e5, False)}
    assert resolve(amounts, DENSE, LOWEST) == {"latency": 0.01, "params": 3e5}
    assert resolve({}, DENSE, LOWEST) == {}


def test_a_budget_below_the_lowest_is_refused_with_the_range() -> None:
    amounts = {"latency": Amount(0.1, True), "params": Amount(0.5, True)}
    with pytest.raises(BudgetError, match="latency 2 ms is below the lowest possible, 5 ms") as bad:
        resolve(amounts, DENSE, LOWEST)
    assert bad.value.table == [
        ("latency", "20 ms", "2 ms", "5 ms"),
        ("params", "1 M", "500 k", "100 k"),
    ]


def test_budgets_that_ask_for_nothing_are_refused() -> None:
    amounts = {"latency": Amount(1.0, False), "params": Amount(1.0, True)}
    with pytest.raises(BudgetError, match="within it already"):
        resolve(amounts, DENSE, LOWEST)


def test_without_a_budget_the_level_ramps_from_zero() -> None:
    ramp = LevelSchedule(0.4, warmup=10, ramp=20)
    assert [ramp.level(s) for s in (0, 10, 20, 30, 99)] == [0, 0, 0.2, 0.4, 0.4]


def test_a_budgets_target_falls_once_importance_has_been_estimated() -> None:
    assert BudgetSchedule(warmup=100, ramp=200).begin == 100 + ESTIMATION * 200
    schedule = BudgetSchedule(warmup=100, ramp=200, estimation=0.8)
    assert (schedule.begin, schedule.end, schedule.interval) == (260, 300, 4)
    middle = (schedule.begin + schedule.end) // 2
    targets = [schedule.target(s, 0.5) for s in (0, 100, schedule.begin, middle, 300, 999)]
    assert targets == pytest.approx([1, 1, 1, 0.75, 0.5, 0.5])


@given(
    budget=st.floats(0.01, 1),
    warmup=st.integers(0, 50),
    ramp=st.integers(1, 50),
    estimation=st.floats(0, 1, exclude_max=True),
)
def test_a_target_never_rises_and_ends_at_the_budget(
    budget: float, warmup: int, ramp: int, estimation: float
) -> None:
    schedule = BudgetSchedule(warmup, ramp, estimation)
    assert warmup <= schedule.begin < schedule.end and schedule.interval >= 1
    targets = [schedule.target(step, budget) for step in range(warmup + ramp + 1)]
    assert targets[0] == 1.0 and targets[-1] == pytest.approx(budget)
    assert all(a >= b for a, b in itertools.pairwise(targets))
