"""The update rule under budgets: what is least important for its cost closes until they are met.

While the targets fall, it is decided anew at each allocation what stays in the end, and of the rest
as much closes as the targets ask for (:mod:`cpt_nas.search.allocation`). Every theta moves at a
constant rate in the direction that the allocation gives it. log gamma is not a setting but follows:
it is the price of the cost at which exactly so much closes. When the targets have arrived, every
gate settles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cpt_nas.gates.bernoulli import BernoulliGate
from cpt_nas.pruning.search_space import group_key
from cpt_nas.search import importance, records
from cpt_nas.search.allocation import allocate_partial
from cpt_nas.search.budgeted import Budgeted
from cpt_nas.search.estimates import BranchEstimate, BranchState, all_kept
from cpt_nas.search.regularizer import Regularizer
from cpt_nas.search.schedules import BudgetSchedule

SETTLING = 3.0  # of theta's range, in which every gate settles before the freeze


class BudgetController(Budgeted):
    """theta moves in the directions of the last allocation.

    Args:
        regularizer, budgets, charged, schedule, channel_divisor: of :class:`Budgeted`.
        rate: what theta moves in a step while the targets fall, 0..1.
        settling_steps: from the end of the ramp to the freeze.
    """

    OWN_STATE = "allocated"
    theta_optimizer = None

    def __init__(
        self,
        regularizer: Regularizer,
        budgets: Mapping[str, float],
        charged: Mapping[str, str],
        schedule: BudgetSchedule,
        channel_divisor: int,
        rate: float,
        settling_steps: int,
    ) -> None:
        super().__init__(regularizer, budgets, charged, schedule, channel_divisor)
        self.rate, self.settling_steps = rate, settling_steps
        self._allocated: dict[str, BranchState] = {}  # at the last allocation
        for gate in self.gated.all_gates():
            gate.register_buffer("direction", torch.zeros_like(gate.theta.detach()))

    @torch.no_grad()
    def penalty(self, step: int) -> Tensor:
        """The regularizer's value. theta does not follow its gradient, so it has none."""
        return self.regularizer.value(self.levels(step))

    def highest_theta(self, step: int, gate: BernoulliGate) -> float:
        return self.probing_theta(gate) if self.schedule.is_probing(step) else 1.0

    def update(self, step: int, slopes: Sequence[Tensor]) -> None:
        schedule = self.schedule
        if step < schedule.begin:
            return
        if schedule.is_allocation(step):
            self._allocate(step)
        rate = self.rate if step < schedule.end else SETTLING / self.settling_steps
        for gate in self.gated.all_gates():
            gate.move(gate.get_buffer("direction"), rate)

    @torch.no_grad()
    def _allocate(self, step: int) -> None:
        """Decide what stays in the end, and what of the rest goes by the next allocation."""
        estimates = importance.estimates(self.gated)
        final = self.meet_budgets(estimates, all_kept(estimates), self._allocated)
        self._allocated = final.states
        weights = final.weights or {m: 1.0 / len(self.budgets) for m in self.budgets}
        marginal = self.marginal_costs(all_kept(estimates), weights)
        self.allocations += records.allocation_rows(step, estimates, final, marginal)
        now = allocate_partial(
            estimates,
            final.states,
            self.channel_divisor,
            self,
            self._targets(step + self.schedule.interval),
            self.scales,
        )
        if now.importance_per_cost:
            self.set_levels(now)
        self._direct(estimates, now.states)

    def _direct(
        self, estimates: Mapping[str, BranchEstimate], states: Mapping[str, BranchState]
    ) -> None:
        """Give every gate the direction in which it moves: 1 to open, -1 to closed."""
        for name, positions in importance.kept_positions(estimates, states).items():
            gate = self.gated.gate(name)
            if gate is not None:
                gate.get_buffer("direction").fill_(-1.0 if positions is None else 1.0)
            for group in estimates[name].groups:
                units = self.gated.gate(group_key(name, group))
                assert units is not None
                direction = units.get_buffer("direction")
                # What closes with its branch goes with it, all of it.
                direction.fill_(1.0 if positions is None else -1.0)
                if positions is not None:
                    direction[positions[group].to(direction.device)] = 1.0

    def _targets(self, step: int) -> dict[str, float]:
        """Measure -> the cost that its target asks for at a step."""
        dense = self.regularizer.dense
        return {m: self.schedule.target(step, s) * dense[m] for m, s in self.shares.items()}

    def state_dict(self) -> dict[str, Any]:
        allocated = {name: (s.kept, s.counts) for name, s in self._allocated.items()}
        return super().state_dict() | {self.OWN_STATE: allocated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._allocated = {name: BranchState(*s) for name, s in state[self.OWN_STATE].items()}
