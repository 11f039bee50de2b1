"""Budgets by the papers' method: log gamma moves until they hold, theta follows its gradient."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import cpt_nas
from cpt_nas.search.dual_ascent import DualAscent
from cpt_nas.train.train import train
from tests.support.networks import build
from tests.support.trainings import QUIET, Stop, interrupted_after, recipe, same

X = torch.zeros(1, 3, 32, 32).double()
TIMES = {"warmup": 0.05, "ramp": 0.5, "freeze": 0.9, "log_gamma": None, "theta_lr": None}
BUDGET = TIMES | {"macs_budget": 0.5, "method": "stochastic"}
WIDER = {"kwargs": {"layers": [2, 2, 2], "channels": [8, 16, 16]}}


def rule_of(search: cpt_nas.Search) -> DualAscent:
    assert isinstance(search.rule, DualAscent)
    return search.rule


def test_a_level_rises_above_the_target_and_falls_below_it() -> None:
    search = cpt_nas.attach(
        build("basic"), X, macs_budget=0.5, method="stochastic", ramp_steps=10, estimation=0.0
    )
    rule = rule_of(search)
    levels = []
    for theta in (1.0, 0.2):  # far above half of the MACs, and far below
        for gate in search.gated.all_gates():
            gate.theta.data.fill_(theta)
        rule._log_gammas = {"macs": 0.1}
        rule._ascend(1000)
        levels.append(search.log_gamma)
    assert levels[0] == pytest.approx(0.1 * 2.718281828 ** (4 / 10))
    assert levels[1] < 0.1


def test_theta_follows_the_price_of_the_level() -> None:
    """The penalty's gradient is the level's price, as under a fixed level."""
    search = cpt_nas.attach(build("basic"), X, macs_budget=0.5, method="stochastic", ramp_steps=10)
    fixed = cpt_nas.attach(build("basic"), X, log_gamma=0.3, alpha=1.0)
    rule_of(search)._log_gammas = {"macs": 0.3}
    for one in (search, fixed):
        one.steps = 20
        one.penalty().backward()
    for slot, gate in search.gates.items():
        assert torch.allclose(gate.theta.grad, fixed.gates[slot].theta.grad, rtol=1e-6)


def test_the_budget_is_met(tmp_path: Path) -> None:
    what = recipe(model=WIDER, data={"train_limit": 640}, train={"epochs": 10}, search=dict(BUDGET))
    result = train(what, tmp_path / "run", console=QUIET)
    assert 0.85 < result["macs"] / result["budgets"]["macs"] <= 1
    assert result["log_gamma"] > 0 and result["test_acc"] > 60
    assert result["law"]["log_gamma"] == {"value": None, "origin": "follows from the budget"}
    assert (tmp_path / "run" / "allocations.csv").exists()  # what the level has begun with


def test_resumed_is_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = recipe(search=dict(BUDGET))
    whole = train(what, tmp_path / "whole", console=QUIET)
    resume = interrupted_after(2, monkeypatch)
    with pytest.raises(Stop):
        train(what, tmp_path / "cut", console=QUIET)
    resume()
    again = train(what, tmp_path / "cut", resume=True, console=QUIET)
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert {k: whole[k] for k in ("macs", "log_gamma", "test_acc")} == {
        k: again[k] for k in ("macs", "log_gamma", "test_acc")
    }


@pytest.mark.parametrize("method", ["allocate", "stochastic"])
def test_a_checkpoint_of_the_other_method_is_refused(method: str) -> None:
    other = "stochastic" if method == "allocate" else "allocate"
    made = [
        cpt_nas.attach(build("basic"), X, macs_budget=0.5, ramp_steps=5, method=m)
        for m in (method, other)
    ]
    before = json.dumps(made[1].state_dict()["rule"], default=str)
    with pytest.raises(ValueError, match="by another method"):
        made[1].load_state_dict(made[0].state_dict())
    assert json.dumps(made[1].state_dict()["rule"], default=str) == before


def test_allocation_needs_a_budget() -> None:
    with pytest.raises(ValueError, match="method: 'allocate', needs a budget"):
        cpt_nas.attach(build("basic"), X, log_gamma=0.1, method="allocate")
    search = cpt_nas.attach(build("basic"), X, log_gamma=0.1, method="stochastic")
    assert not search.rule.budgets
