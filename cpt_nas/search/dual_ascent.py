"""The papers' update rule under budgets: theta by its stochastic gradient, log gamma by the bounds.

A budget is a constraint of the papers' problem, and its log gamma the multiplier. theta follows
eqs. 14-21 of arXiv 2411.09127 under the present log gamma, and log gamma ascends the dual: it rises
while the expected cost is above its target and falls while it is below, by factors, because nobody
knows its size beforehand. It starts at what an allocation says of the gates' importance
(:mod:`cpt_nas.search.allocation`). What theta leaves open at the freeze is allocated, so that the
bounds hold as under the other rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cpt_nas.gates.bernoulli import BernoulliGate
from cpt_nas.search import importance, records
from cpt_nas.search.budgeted import Budgeted
from cpt_nas.search.estimates import all_kept
from cpt_nas.search.fixed_level import add_gradients
from cpt_nas.search.regularizer import Regularizer
from cpt_nas.search.schedules import BudgetSchedule

GAIN = 4.0  # log of the factor by which a level would rise while the targets fall, and none did
LEAST = 1e-3  # a level to begin with, where the allocation closes what costs the loss nothing


class DualAscent(Budgeted):
    """theta follows its gradient; log gamma follows how far the costs are from their targets.

    Args:
        regularizer, budgets, charged, schedule, channel_divisor: of :class:`Budgeted`.
        rate: Adam's, for theta.
    """

    OWN_STATE = "theta_optimizer"

    def __init__(
        self,
        regularizer: Regularizer,
        budgets: Mapping[str, float],
        charged: Mapping[str, str],
        schedule: BudgetSchedule,
        channel_divisor: int,
        rate: float,
    ) -> None:
        super().__init__(regularizer, budgets, charged, schedule, channel_divisor)
        thetas = [gate.theta for gate in self.gated.all_gates()]
        self.theta_optimizer = torch.optim.Adam(thetas, lr=rate)

    def penalty(self, step: int) -> Tensor:
        return self.regularizer.value(self.levels(step))

    def highest_theta(self, step: int, gate: BernoulliGate) -> float:
        is_estimating = self.schedule.warmup <= step < self.schedule.begin
        return self.probing_theta(gate) if is_estimating else 1.0

    def update(self, step: int, slopes: Sequence[Tensor]) -> None:
        if step < self.schedule.begin:
            self.theta_optimizer.zero_grad(set_to_none=True)
            return
        if step == self.schedule.begin:
            self._estimate_levels(step)
        add_gradients(self.gated.all_gates(), slopes)
        self.theta_optimizer.step()
        self.theta_optimizer.zero_grad(set_to_none=True)
        self._ascend(step)

    @torch.no_grad()
    def _estimate_levels(self, step: int) -> None:
        """Begin at the price at which the gates that are to close are not worth their cost."""
        estimates = importance.estimates(self.gated)
        kept = all_kept(estimates)
        final = self.meet_budgets(estimates, kept)
        equal = dict.fromkeys(self.budgets, 1.0 / len(self.budgets))
        marginal = self.marginal_costs(kept, final.weights or equal)
        self.allocations += records.allocation_rows(step, estimates, final, marginal)
        self.set_levels(final)
        for measure, level in self._log_gammas.items():
            self._log_gammas[measure] = max(LEAST, level)

    def _ascend(self, step: int) -> None:
        """Move every level by how much of what its target takes away is still there."""
        shares = self.regularizer.shares()
        gain = GAIN / max(1, self.schedule.end - self.schedule.begin)
        for measure, level in self._log_gammas.items():
            beyond = shares[measure] - self.schedule.target(step, self.shares[measure])
            part = min(1.0, max(-1.0, beyond / self.scales[measure]))
            self._log_gammas[measure] = level * math.exp(gain * part)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {self.OWN_STATE: self.theta_optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.theta_optimizer.load_state_dict(state[self.OWN_STATE])
