"""The law in force: what the gates are charged, its three numbers, and where each comes from.

The papers' law is 'complexity' (eqs. 9-13 of arXiv 2411.09127), with log_gamma, the pruning level,
alpha, computation against parameters, and kappa, layers against units. Where a profile's seconds a
layer or the measure of a budget are charged, alpha and kappa have no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cpt_nas.search.settings import (
    COMPLEXITY,
    LATENCY,
    SearchSettings,
    charged_cost,
    check_acting,
)
from hwprofiles import Profile

LOG_GAMMA, ALPHA, KAPPA = 0.02, 0.5, 0.0
"""What holds where neither the settings nor a profile say."""
MEANINGS = {COMPLEXITY: "eqs. 9-13", LATENCY: "the profile's seconds a layer"}


@dataclass(frozen=True)
class Number:
    """One of the law's three numbers.

    Attributes:
        value: None where it has no part in what is charged, or follows from a budget.
        origin: where it comes from, or why there is none.
    """

    value: float | None
    origin: str

    def __str__(self) -> str:
        return self.origin if self.value is None else f"{self.value:.4g} ({self.origin})"


@dataclass(frozen=True)
class Law:
    """What is charged.

    Attributes:
        cost: 'complexity', 'latency', or the budgets' measures joined by '+'.
        log_gamma: pruning level at the end of the ramp.
        alpha: computation (1) against parameters (0).
        kappa: layers against units.
        layers: L of eq. 13.
        notes: what is worth knowing beside the numbers.
    """

    cost: str
    log_gamma: Number
    alpha: Number
    kappa: Number
    layers: int
    notes: tuple[str, ...] = ()

    @property
    def numbers(self) -> Mapping[str, Number]:
        return {"log_gamma": self.log_gamma, "alpha": self.alpha, "kappa": self.kappa}

    def lines(self) -> list[str]:
        """The law in words, as a training prints it."""
        meaning = MEANINGS.get(self.cost, "what has a budget")
        numbers = ", ".join(f"{name} {number}" for name, number in self.numbers.items())
        return [f"charged: {self.cost} ({meaning}); {numbers}; L {self.layers}", *self.notes]

    def as_data(self) -> dict[str, Any]:
        """The law as result.json holds it."""
        numbers = {
            name: {"value": number.value, "origin": number.origin}
            for name, number in self.numbers.items()
        }
        return {"cost": self.cost, **numbers, "layers": self.layers, "notes": list(self.notes)}


def law_in_force(
    settings: SearchSettings, profile: Profile | None, gated_branches: int, layers: int
) -> Law:
    """The law that settings ask for.

    Args:
        settings: what is given.
        profile: whose alpha and kappa stand in for those that are not given.
        gated_branches: branches with a gate; kappa is their price.
        layers: L of eq. 13.

    Raises:
        ValueError: alpha or kappa is given and has no part in what is charged.
    """
    cost, measures = charged_cost(settings, profile is not None), settings.amounts()
    check_acting(settings, cost)
    if measures:
        level = Number(None, "follows from the budget")
    elif settings.log_gamma is None:
        level = Number(LOG_GAMMA, "default")
    else:
        level = Number(settings.log_gamma, "given")
    weights = None if profile is None else profile.weights
    held = None if weights is None else {"alpha": weights.alpha, "kappa": weights.kappa}
    source = "" if profile is None else f"profile {profile.name}"
    if cost != COMPLEXITY:
        numbers = {
            name: Number(None, f"not used ({source} has {held[name]:.4g})" if held else "not used")
            for name in ("alpha", "kappa")
        }
        return Law(cost, level, numbers["alpha"], numbers["kappa"], layers)

    numbers = {
        name: Number(held[name], source) if held else Number(default, "default")
        for name, default in (("alpha", ALPHA), ("kappa", KAPPA))
    }
    given = {"alpha": settings.alpha, "kappa": settings.kappa}
    numbers |= {name: Number(value, "given") for name, value in given.items() if value is not None}
    if not gated_branches:
        if settings.kappa:
            raise ValueError(
                f"kappa: {settings.kappa}, has no effect: it is the price of a branch, and none "
                "has a gate; leave it out"
            )
        numbers["kappa"] = Number(None, "not used: no branch has a gate")
    notes = []
    if weights is not None and weights.parameters_are_free and settings.alpha is None:
        notes.append(
            f"alpha is 1: by {source} parameters cost nothing that could be measured, so only "
            "multiply-adds and layers are charged; --alpha sets another"
        )
    return Law(cost, level, numbers["alpha"], numbers["kappa"], layers, tuple(notes))
