"""Budgets as people write them, and the controller on a search that is only arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpt_nas.budget import (
    LEVELS,
    UNITS,
    Amount,
    BudgetError,
    Controller,
    Ramp,
    format_amount,
    parse_amount,
    resolve,
)


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
    ramp = Ramp(0.4, warmup=10, ramp=20)
    assert [ramp.level(s) for s in (0, 10, 20, 30, 99)] == [0, 0, 0.2, 0.4, 0.4]
    assert math.isnan(ramp.target(50)) and ramp.polarizing(20) == 0.2


WARMUP, RAMP, FREEZE, RATE = 20, 130, 200, 0.05


def follow(uses: np.ndarray, budget: float) -> tuple[Controller, list[float]]:
    """A search over gates of equal cost: theta moves by RATE towards what the price asks for."""
    controller = Controller(budget, WARMUP, RAMP, 1 / RATE)
    theta, costs = np.ones_like(uses), []
    for step in range(1, FREEZE):
        price = controller.level(step)
        hang = controller.polarizing(step) * (1 - 2 * theta)
        theta = np.clip(theta - RATE * np.sign(price + hang - uses), 0, 1)
        costs.append(theta.mean())
        controller.update(step, theta.mean())
    return controller, costs


@given(
    budget=st.floats(0.2, 0.8),
    seed=st.integers(0, 99),
    scale=st.sampled_from([0.003, 0.1, 3.0]),
)
def test_the_cost_follows_its_target_and_the_level_does_not_wind_up(
    budget: float, seed: int, scale: float
) -> None:
    uses = scale * np.exp(np.random.default_rng(seed).normal(0, 1, 300))
    controller, costs = follow(uses, budget)
    assert costs[WARMUP - 2] == 1.0
    assert costs[-1] == pytest.approx(budget, abs=0.08)
    wanted = np.sort(uses)[int((1 - budget) * len(uses))]  # the price that closes so many
    assert controller.log_gamma < 10 * wanted


def test_a_goal_that_stays_out_of_reach_stops_at_the_bound() -> None:
    controller = Controller(0.1, WARMUP, RAMP, 1 / RATE)
    for step in range(5000):
        controller.update(step, 0.9)  # nothing ever closes
    assert controller.log_gamma == LEVELS[1]
    assert controller.target(5000) == pytest.approx(0.1)


def test_a_controllers_state_is_restored() -> None:
    one, _ = follow(np.linspace(0.01, 1, 50), 0.5)
    other = Controller(0.5, WARMUP, RAMP, 1 / RATE)
    other.load_state_dict(one.state_dict())
    assert other.state_dict() == one.state_dict()
    one.update(120, 0.6)
    other.update(120, 0.6)
    assert other.level(121) == one.level(121)
