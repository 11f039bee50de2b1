"""The law in force: its three numbers, where each comes from, and where one has no effect."""

from __future__ import annotations

import pytest
import torch

import cpt_nas
from hwprofiles import Profile
from tests.support.networks import build
from tests.support.profiles import synthetic_profile
from tests.support.tiny import lenet

X = torch.zeros(1, 3, 32, 32).double()


def profile(alpha: float, kappa: float) -> Profile:
    made = synthetic_profile(build("basic"))
    weights = made.weights.model_copy(update={"alpha": alpha, "kappa": kappa})
    return made.model_copy(update={"weights": weights})


def test_the_profiles_numbers_are_charged() -> None:
    """Ten times the kappa is ten times the price of a branch, all else alike."""
    prices = []
    for kappa in (1.0, 10.0):
        search = cpt_nas.attach(
            build("basic"), X, profile(0.25, kappa), cost="complexity", log_gamma=0.1
        )
        search.penalty().backward()
        prices.append({slot: gate.theta.grad for slot, gate in search.gates.items()})
        assert search.law.alpha.value == 0.25 and search.law.alpha.origin == "profile made_up"
    for slot, low in prices[0].items():
        more = 0.1 * 9.0 if len(low) == 1 else 0.0
        assert torch.allclose(prices[1][slot], low + more, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "cost", "numbers", "origins"),
    [
        ({}, "complexity", (0.02, 0.5, 0), ("default", "default", "default")),
        (
            {"log_gamma": 0.3, "alpha": 0.1, "kappa": 2.0},
            "complexity",
            (0.3, 0.1, 2.0),
            ("given", "given", "given"),
        ),
        (
            {"profile": True, "cost": "complexity", "kappa": 2.0},
            "complexity",
            (0.02, 0.25, 2.0),
            ("default", "profile made_up", "given"),
        ),
        (
            {"profile": True},
            "latency",
            (0.02, None, None),
            ("default", "not used (profile made_up has 0.25)", "not used (profile made_up has 3)"),
        ),
        (
            {"macs_budget": 0.5, "ramp_steps": 9},
            "macs",
            (None, None, None),
            ("follows from the budget", "not used", "not used"),
        ),
        (
            {"macs_budget": 0.5, "ramp_steps": 9, "cost": "complexity", "alpha": 1.0},
            "complexity",
            (None, 1.0, 0.0),
            ("follows from the budget", "given", "default"),
        ),
        (
            {"gate": "units", "profile": True, "cost": "complexity"},
            "complexity",
            (0.02, 0.25, None),
            ("default", "profile made_up", "not used: no branch has a gate"),
        ),
    ],
)
def test_every_number_says_where_it_comes_from(
    settings: dict, cost: str, numbers: tuple, origins: tuple
) -> None:
    source = profile(0.25, 3.0) if settings.get("profile") else None
    search = cpt_nas.attach(
        build("basic"), X, source, **{k: v for k, v in settings.items() if k != "profile"}
    )
    law = search.law
    assert law.cost == cost and law.layers == 5
    assert tuple(n.value for n in law.numbers.values()) == numbers
    assert tuple(n.origin for n in law.numbers.values()) == origins
    told = " ".join(law.lines())
    assert cost in told and all(origin in told for origin in origins)
    assert search.summary()["law"] == law.as_data()
    assert [search.summary()[n] for n in ("alpha", "kappa")] == list(numbers[1:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"profile": True, "kappa": 100.0}, "kappa: 100.0, has no effect where latency is charged"),
        ({"profile": True, "alpha": 0.5}, "alpha: 0.5, has no effect where latency"),
        ({"macs_budget": 0.5, "ramp_steps": 9, "alpha": 0.5}, "alpha: 0.5, .* macs is charged"),
        ({"profile": True, "cost": "latency", "kappa": 0.0}, "kappa: 0.0, has no effect"),
        ({"gate": "units", "kappa": 1.0}, "kappa: 1.0, has no effect: it is the price of a branch"),
    ],
)
def test_a_number_without_an_effect_is_refused(settings: dict, message: str) -> None:
    source = profile(0.25, 3.0) if settings.pop("profile", False) else None
    model = build("basic")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        cpt_nas.attach(model, X, source, **settings)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_free_parameters_are_said() -> None:
    free = cpt_nas.attach(build("basic"), X, profile(1.0, 0.1), cost="complexity")
    assert any(
        "parameters cost nothing that could be measured" in line for line in free.law.lines()
    )
    for source, settings in ((profile(0.9, 0.1), {}), (profile(1.0, 0.1), {"alpha": 1.0})):
        search = cpt_nas.attach(build("basic"), X, source, cost="complexity", **settings)
        assert not search.law.notes


def test_a_chain_has_no_price_of_a_branch() -> None:
    search = cpt_nas.attach(lenet().double(), X, log_gamma=0.1)
    assert search.law.kappa.value is None and search.law.layers == 4
