"""The papers' update rule: stochastic gradient on theta at a fixed pruning level.

Algorithm 1 of arXiv 2411.09127: the regularizer's exact gradient and the loss's estimated one
(eqs. 14-21), Adam at a constant rate, projection to [0, 1], removal of what falls to the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cpt_nas.gates.bernoulli import BernoulliGate
from cpt_nas.search.estimates import BranchEstimate, BranchState
from cpt_nas.search.regularizer import OBJECTIVE, Levels, Regularizer
from cpt_nas.search.schedules import LevelSchedule


class FixedLevel:
    """theta follows its gradient; log gamma rises to a fixed level.

    Args:
        regularizer: of the gated model.
        schedule: of log gamma.
        rate: Adam's, for theta.
    """

    def __init__(self, regularizer: Regularizer, schedule: LevelSchedule, rate: float) -> None:
        self.regularizer, self.schedule = regularizer, schedule
        self.gated = regularizer.gated
        self.budgets: dict[str, float] = {}
        self.allocations: list[dict[str, Any]] = []
        self._dense_objective = regularizer.dense_objective()
        thetas = [gate.theta for gate in self.gated.all_gates()]
        self.theta_optimizer = torch.optim.Adam(thetas, lr=rate)

    def levels(self, step: int) -> Levels:
        return [(OBJECTIVE, self.schedule.level(step))]

    def penalty(self, step: int) -> Tensor:
        return self.regularizer.value(self.levels(step))

    def update(self, step: int, slopes: Sequence[Tensor]) -> None:
        add_gradients(self.gated.all_gates(), slopes)
        self.theta_optimizer.step()
        self.theta_optimizer.zero_grad(set_to_none=True)

    def highest_theta(self, step: int, gate: BernoulliGate) -> float:
        return 1.0

    def select(
        self, estimates: Mapping[str, BranchEstimate], states: Mapping[str, BranchState]
    ) -> dict[str, BranchState]:
        return dict(states)

    def select_final(
        self, estimates: Mapping[str, BranchEstimate], states: Mapping[str, BranchState]
    ) -> dict[str, BranchState]:
        return dict(states)

    @torch.no_grad()
    def expected(self) -> float:
        regularizer = self.regularizer
        objective = regularizer.objective(regularizer.costs(), regularizer.branch_sum())
        return float(objective) / self._dense_objective

    def binding(self) -> str | None:
        return None

    def log_gamma(self, step: int) -> float:
        return self.schedule.level(step)

    def trace(self, step: int) -> dict[str, float]:
        return {
            f"log_gamma:{OBJECTIVE}": self.schedule.level(step),
            f"target:{OBJECTIVE}": math.nan,
            f"cost:{OBJECTIVE}": self.expected(),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"theta_optimizer": self.theta_optimizer.state_dict()}

    def check_state(self, state: Mapping[str, Any]) -> None:
        if "theta_optimizer" not in state or "log_gammas" in state:
            raise ValueError("checkpoint: it was made under other budgets")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.theta_optimizer.load_state_dict(state["theta_optimizer"])


def add_gradients(gates: Sequence[BernoulliGate], slopes: Sequence[Tensor]) -> None:
    """Add to every theta's gradient, which is the regularizer's, the loss's estimated one.

    Args:
        slopes: the loss's at the present samples, [2, K] a gate.
    """
    for gate, new in zip(gates, slopes, strict=True):
        gradient = gate.gradient(new)
        gate.theta.grad = gradient + (0.0 if gate.theta.grad is None else gate.theta.grad)
