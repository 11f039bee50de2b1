"""Budgets through the whole search: met, refused in time, resumed, and not met too early."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from timm.utils import ModelEmaV3
from torch.nn.utils import parametrize

import cpt_nas
from cpt_nas.costs.cost_model import build_cost
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import Structure, cut_to, load_structure
from cpt_nas.search.budgets import BudgetError
from cpt_nas.sections import ConfigError
from cpt_nas.train.recipe import Recipe
from cpt_nas.train.train import train
from tests.support.networks import build
from tests.support.profiles import synthetic_profile
from tests.support.trainings import QUIET, Stop, interrupted_after, recipe, same

X = torch.zeros(1, 3, 32, 32).double()
TIMES = {"warmup": 0.1, "ramp": 0.4, "freeze": 0.7, "theta_lr": None, "log_gamma": None}


def budgeted(**search: Any) -> Recipe:
    """Eight epochs of a tiny ResNet on 256 digits: 64 steps, of which 45 search."""
    return recipe(
        model={"kwargs": {"layers": [1, 2, 1], "channels": [8, 8, 16]}},
        data={"train_limit": 256},
        train={"epochs": 8},
        search=TIMES | search,
    )


def nothing_fits(structure: Structure, budgets: dict[str, float]) -> bool:
    """Neither a unit more nor a branch with one unit could be had within the budgets."""
    model = timm.create_model(structure.architecture, **structure.model_kwargs)
    cost = build_cost(
        model, torch.zeros(1, structure.model_kwargs["in_chans"], 32, 32), find_branches(model)
    )
    larger = []
    for name, branch in structure.branches.items():
        for group, units in branch.units.items():
            if branch.kept and len(units.kept) == units.total:
                continue
            grown = structure.model_copy(deep=True)
            grown.branches[name].kept = True
            for other, left in grown.branches[name].units.items():
                count = max(1, len(left.kept)) + (branch.kept and other == group)
                left.kept = list(range(count))
            larger.append(cost.of_structure(grown))
    assert larger
    return all(any(costs[m] > bound for m, bound in budgets.items()) for costs in larger)


@pytest.mark.parametrize(
    "budgets",
    [{"macs_budget": 0.5}, {"params_budget": "3k"}, {"params_budget": 0.7, "macs_budget": 0.4}],
)
def test_budgets_hold_and_are_reported(tmp_path: Path, budgets: dict[str, Any]) -> None:
    result = train(budgeted(**budgets), tmp_path / "run", console=QUIET)
    assert set(result["budgets"]) == {name.removesuffix("_budget") for name in budgets}
    for measure, bound in result["budgets"].items():
        assert result["reached"][measure] == result[measure] <= bound
    tightest = max(result[m] / b for m, b in result["budgets"].items())
    assert tightest > 0.9  # units are coarse in so small a network
    structure = load_structure(tmp_path / "run" / "structure.json")
    assert tightest > 0.98 or nothing_fits(structure, result["budgets"])
    assert result["binding"] in result["budgets"]
    assert result["reached"][result["binding"]] / result["budgets"][
        result["binding"]
    ] == pytest.approx(tightest)
    back = timm.create_model(f"local-dir:{tmp_path / 'run' / 'export'}", pretrained=True)
    assert sum(p.numel() for p in back.parameters()) == result["params"]

    trace = pd.read_csv(tmp_path / "run" / "search.csv")
    first = next(iter(result["budgets"]))
    share = result["budgets"][first] / result[f"{first}_dense"]
    assert trace[f"target:{first}"].iloc[-1] == pytest.approx(share)
    assert trace[f"cost:{first}"].iloc[0] == 1.0
    bins = trace[[c for c in trace if c.startswith("theta_")]]
    assert (bins.sum(axis=1).diff().dropna() <= 0).all()  # gates only ever go
    removed = pd.read_csv(tmp_path / "run" / "removed.csv")
    assert removed["driven_down"].between(0, 1).all()
    allocations = pd.read_csv(tmp_path / "run" / "allocations.csv")
    assert (
        allocations["importance_per_cost"]
        - allocations["importance"] / allocations["marginal_cost"]
    ).abs().max() < 1e-9
    assert (
        allocations["step"].is_monotonic_increasing
        and allocations["threshold_importance_per_cost"].max() > 0
    )


def test_the_cost_follows_its_target_and_every_gate_settles(tmp_path: Path) -> None:
    chosen = recipe(
        model={"kwargs": {"layers": [2, 2, 2], "channels": [8, 16, 32]}},
        data={"train_limit": 256},
        train={"epochs": 8},
        search=TIMES | {"macs_budget": 0.5, "freeze": 0.8},
    )
    result = train(chosen, tmp_path / "run", console=QUIET)
    trace = pd.read_csv(tmp_path / "run" / "search.csv")
    assert trace["cost:macs"].iloc[-1] <= 0.5 and result["undecided_at_freeze"] == 0
    assert result["forced"] == 0
    # Nothing jumps: no step of the trace loses more than a branch, of which none is above 0.2 here.
    allocations = pd.read_csv(tmp_path / "run" / "allocations.csv")
    assert allocations.loc[allocations["group"].isna(), "marginal_cost"].max() < 0.2
    assert trace["cost:macs"].diff().min() > -0.2
    assert (trace["cost:macs"] - trace["target:macs"]).iloc[trace.index[-1] // 2 :].max() < 0.1


def test_what_the_loss_asks_for_stays() -> None:
    """A made-up loss in which one branch and every other unit matter; all else is noise."""
    model = build("basic")
    search = cpt_nas.attach(
        model, X, macs_budget=0.5, warmup_steps=0, ramp_steps=400, freeze_step=500
    )
    wanted = {slot: torch.zeros(len(g)) for slot, g in search.gates.items()}
    for slot, w in wanted.items():
        if len(w) > 1:
            w[::2] = 0.1
        else:  # a branch is as good as its units
            w[:] = 5.0 if slot == "layer3/0" else 0.4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sampler = next(iter(model._forward_pre_hooks.values()))
    model.train()
    torch.manual_seed(0)
    while not search.frozen:
        sampler(model, ())
        loss = torch.zeros(())
        for slot, gate in search.gates.items():
            asked = wanted[slot][gate.index] + 0.1 * torch.randn(len(gate))
            loss = loss - (asked * gate.value(training=True).float()).sum()
        loss.backward()
        search.step(optimizer)
    structure = search.structure()
    assert structure.branches["layer3.0"].kept
    groups = [g for b in structure.branches.values() if b.kept for g in b.units.values()]
    for group in groups:  # what was wanted is still there, or goes last
        even = sum(u % 2 == 0 for u in group.kept)
        assert even >= 0.9 * min(group.total / 2, len(group.kept))
    assert sum(g.total - len(g.kept) for g in groups) > 20
    assert search.live_costs()["macs"] <= search.rule.budgets["macs"]


def test_a_latency_budget_is_in_the_profiles_seconds() -> None:
    model = build("basic")
    profile = synthetic_profile(model)
    dense = cpt_nas.attach(build("basic"), X, profile).regularizer.dense["latency"]
    search = cpt_nas.attach(
        model, X, profile, latency_budget=f"{dense * 600}ms", ramp_steps=10, freeze_step=20
    )
    assert search.rule.budgets == {"latency": pytest.approx(0.6 * dense)}
    assert search.law.cost == "latency" and search.rule.binding() == "latency"


def test_the_coarse_price_may_have_a_budget_in_seconds() -> None:
    """alpha and kappa are charged; the level is steered until the profile's latency is met."""
    model = build("basic")
    profile = synthetic_profile(model)
    settings = {"latency_budget": 0.7, "ramp_steps": 10, "cost": "complexity", "kappa": 0.5}
    search = cpt_nas.attach(model, X, profile, **settings)
    assert search.law.cost == "complexity" and set(search.rule.budgets) == {"latency"}
    costs, branches = search.costs(), search.regularizer.branch_sum()
    search.rule.load_state_dict(search.rule.state_dict() | {"log_gammas": {"latency": 0.1}})
    expected = 0.1 * float(search.regularizer.objective(costs, branches).detach())
    assert float(search.penalty()) == pytest.approx(expected, rel=1e-6)
    search.finish()
    assert search.live_costs()["latency"] <= search.rule.budgets["latency"]


def test_what_may_have_to_reopen_is_not_cut() -> None:
    """A branch that closes makes room; units that are gone could not fill it."""
    search = cpt_nas.attach(build("basic"), X, macs_budget=0.6, ramp_steps=5)
    for slot, gate in search.gates.items():
        gate.theta.data.fill_(1.0)
        if len(gate) > 1:
            gate.theta.data[::2] = 0.0
        if slot == "layer1/0":
            gate.theta.data.fill_(0.3)
    search.cut(None)
    structure = search.structure()
    structure.branches["layer1.0"].kept = False
    assert search.cost.of_structure(structure)["macs"] >= search.rule.budgets["macs"]
    search.finish()
    assert 0.98 < search.live_costs()["macs"] / search.rule.budgets["macs"] <= 1


def test_freezing_at_once_meets_every_budget_by_force(case: str) -> None:
    search = cpt_nas.attach(build(case), X, macs_budget=0.95, params_budget=0.8, ramp_steps=5)
    search.finish()
    costs = search.live_costs()
    assert all(costs[m] <= bound for m, bound in search.rule.budgets.items())
    assert any(costs[m] > 0.9 * bound for m, bound in search.rule.budgets.items())
    assert search.forced > 0


def test_an_unreachable_budget_is_refused_and_the_model_left_alone() -> None:
    model = build("basic")
    with pytest.raises(BudgetError, match=r"macs .* is below the lowest possible, .*dense") as bad:
        cpt_nas.attach(model, X, macs_budget=0.001, ramp_steps=5)
    assert [row[0] for row in bad.value.table] == ["macs"]
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    assert not model._forward_pre_hooks
    cpt_nas.attach(model, X)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latency_budget": 0.5, "ramp_steps": 5}, "latency_budget: needs a profile"),
        ({"latency_budget": "12", "ramp_steps": 5}, "latency_budget: .*unit of ns, us.*'12'"),
        ({"params_budget": -3, "ramp_steps": 5}, "params_budget: must be above 0"),
        ({"macs_budget": 0.5}, "ramp_steps: 0, must be above 0"),
        (
            {"macs_budget": 0.5, "log_gamma": 1, "ramp_steps": 5},
            "log_gamma: follows from the budget",
        ),
        ({"macs_budget": 1.0, "ramp_steps": 5}, "within it already"),
        ({"macs_budget": 0.5, "total_steps": 0}, "total_steps: 0"),
        ({"macs_budget": 0.5, "ramp_steps": 5, "rewind": True}, "rewind: needs a freeze_step"),
        (
            {"macs_budget": 0.5, "total_steps": 9, "freeze": None, "rewind": True},
            "rewind: needs a freeze before the end .freeze is None",
        ),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message) as caught:
        cpt_nas.attach(build("basic"), X, **settings)
    assert "\n" not in str(caught.value)


def test_total_steps_takes_the_recipes_shares() -> None:
    search = cpt_nas.attach(build("basic"), X, macs_budget=0.5, total_steps=1000)
    s = search.settings
    assert (s.warmup_steps, s.ramp_steps, s.freeze_step) == (20, 130, 200)


@pytest.mark.parametrize("rewind", [False, True])
@pytest.mark.parametrize("epochs", [3, 6])  # while the cost falls, and after the freeze
def test_resumed_under_a_budget_is_uninterrupted(
    tmp_path, monkeypatch, epochs: int, rewind: bool
) -> None:
    chosen = budgeted(macs_budget=0.5, params_budget=0.5, rewind=rewind)
    whole = train(chosen, tmp_path / "whole", console=QUIET)
    restore = interrupted_after(epochs, monkeypatch)
    with pytest.raises(Stop):
        train(chosen, tmp_path / "parts", console=QUIET)
    restore()
    parts = train(chosen, tmp_path / "parts", resume=True, console=QUIET)
    assert same(tmp_path / "whole", tmp_path / "parts")
    for file in ("structure.json", "search.csv", "removed.csv", "allocations.csv"):
        assert (tmp_path / "whole" / file).read_text() == (tmp_path / "parts" / file).read_text()
    for key in ("test_acc", "macs", "forced", "undecided_at_freeze", "log_gamma"):
        assert whole[key] == parts[key]


def test_rewound_is_the_cut_network_as_it_began() -> None:
    """Weights, buffers, averaged copy; the optimizer has forgotten, and trains what is there."""
    torch.manual_seed(0)
    model = build("basic")
    began = copy.deepcopy(model)
    search = cpt_nas.attach(
        model, X, macs_budget=0.5, rewind=True, warmup_steps=1, ramp_steps=8, freeze_step=12
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    ema = ModelEmaV3(model, decay=0.5)
    x = torch.randn(4, *X.shape[1:]).double()
    while not search.frozen:
        optimizer.zero_grad()
        (model(x).square().mean() + search.penalty()).backward()
        optimizer.step()
        search.step(optimizer, ema)
        if not search.frozen:
            ema.update(model)
            assert optimizer.state and search.state_dict()["start"] is not None
    dense = sum(p.numel() for p in began.parameters())
    cut_to(began, search.structure())
    assert sum(p.numel() for p in began.parameters()) < dense
    for network in (model, ema.module):
        found = network.state_dict()
        assert list(found) == list(began.state_dict())
        assert all(torch.equal(found[k], v) for k, v in began.state_dict().items())
    assert not optimizer.state and search.state_dict()["start"] is None
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


def test_a_search_that_is_finished_early_keeps_what_was_trained() -> None:
    """Nothing trains after finish(), so it does not rewind."""
    model = build("basic")
    settings = {"macs_budget": 0.9, "ramp_steps": 8, "freeze_step": 12, "rewind": True}
    search = cpt_nas.attach(model, X, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    assert all((p == 7.0).all() for p in search.finish().parameters())


def test_a_checkpoint_of_other_budgets_is_refused() -> None:
    state = cpt_nas.attach(build("basic"), X, macs_budget=0.5, ramp_steps=5).state_dict()
    with pytest.raises(ValueError, match="other budgets"):
        cpt_nas.attach(build("basic"), X, params_budget=0.5, ramp_steps=5).load_state_dict(state)


def test_a_strong_level_from_the_start_prunes_too_early_and_a_budget_does_not(tmp_path) -> None:
    """The failure that the papers' analysis is about, built on purpose.

    Before the weights have learnt anything, removing anything seems to cost nothing. Under a
    constant high price the network is gone within the first epochs; under a budget it keeps what
    it asks for and learns.
    """
    common: dict[str, Any] = {
        "model": {"kwargs": {"layers": [2, 2, 2], "channels": [8, 16, 16]}},
        "data": {"train_limit": 1000},
    }
    early = {"log_gamma": 2.0, "warmup": 0.0, "ramp": 0.0, "freeze": 0.9, "theta_lr": 0.03}
    early |= {"estimator": "straight_through"}
    default = {"macs_budget": 0.5, "log_gamma": None, "theta_lr": None, "cut_interval": 5}
    default |= {"warmup": 0.02, "ramp": 0.13, "freeze": 0.2}
    results = {
        name: train(
            recipe(**common, train={"epochs": 12}, search=search), tmp_path / name, console=QUIET
        )
        for name, search in (("early", early), ("default", default))
    }
    history = pd.read_csv(tmp_path / "early" / "history.csv")
    assert history["branches_left"].iloc[3] <= 1  # a third of the way
    assert results["default"]["branches"] >= 3
    assert 0.8 < results["default"]["macs"] / results["default"]["budgets"]["macs"] <= 1
    assert results["default"]["test_acc"] > results["early"]["test_acc"] + 10


def test_a_found_structure_is_retrained_from_scratch(tmp_path) -> None:
    found = train(budgeted(macs_budget=0.5), tmp_path / "run", console=QUIET)
    values = budgeted().model_dump() | {"search": None}
    values["model"]["structure"] = str(tmp_path / "run" / "structure.json")
    again = train(Recipe.from_mapping(values), tmp_path / "again", console=QUIET)
    assert again["kind"] == "retrain"
    for key in ("macs", "params", "branches", "units"):
        assert again[key] == found[key]
    assert again["macs_dense"] == found["macs_dense"]
    assert again["train_load"] == pytest.approx(again["macs"] / again["macs_dense"])
    back = timm.create_model(f"local-dir:{tmp_path / 'again' / 'export'}", pretrained=True)
    assert sum(p.numel() for p in back.parameters()) == found["params"]


def test_a_retraining_resumes_without_the_run_it_came_from(tmp_path, monkeypatch) -> None:
    train(budgeted(macs_budget=0.5), tmp_path / "run", console=QUIET)
    values = budgeted().model_dump() | {"search": None}
    structure = tmp_path / "run" / "structure.json"
    values["model"]["structure"] = str(structure)
    chosen = Recipe.from_mapping(values)
    whole = train(chosen, tmp_path / "whole", console=QUIET)
    restore = interrupted_after(2, monkeypatch)
    with pytest.raises(Stop):
        train(chosen, tmp_path / "parts", console=QUIET)
    restore()
    structure.unlink()
    parts = train(chosen, tmp_path / "parts", resume=True, console=QUIET)
    assert same(tmp_path / "whole", tmp_path / "parts") and whole["test_acc"] == parts["test_acc"]


def test_a_cut_network_is_not_searched_again() -> None:
    values = budgeted().model_dump()
    values["model"]["structure"] = "structure.json"
    with pytest.raises(ConfigError, match=r"model.structure: a cut network is not searched again"):
        Recipe.from_mapping(values)
