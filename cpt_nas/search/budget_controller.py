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
from cpt_nas.search.allocation import Allocation, allocate, allocate_partial
from cpt_nas.search.estimates import BranchEstimate, BranchState, MarginalCosts, all_kept
from cpt_nas.search.regularizer import Levels, Regularizer
from cpt_nas.search.schedules import BudgetSchedule

OFF = 0.1  # 1 - theta of an open branch while the targets fall: often enough to estimate it
OFF_UNITS = 2.0  # units of a group that are off at a time, while the targets fall; at most OFF
LEAST_OFF = 0.02  # of them
SETTLING = 3.0  # of theta's range, in which every gate settles before the freeze


class BudgetController:
    """theta moves in the directions of the last allocation.

    Args:
        regularizer: of the gated model.
        budgets: measure -> upper bound, in s or counts.
        charged: measure with a budget -> what its level is the price of.
        schedule: of the targets.
        rate: what theta moves in a step while the targets fall, 0..1.
        settling_steps: from the end of the ramp to the freeze.
        channel_divisor: widths are multiples of it.

    Attributes:
        shares: measure -> budget over the dense network's cost.
        scales: measure -> the share of the dense cost that its budget takes away.
    """

    theta_optimizer = None

    def __init__(
        self,
        regularizer: Regularizer,
        budgets: Mapping[str, float],
        charged: Mapping[str, str],
        schedule: BudgetSchedule,
        rate: float,
        settling_steps: int,
        channel_divisor: int,
    ) -> None:
        self.regularizer, self.schedule = regularizer, schedule
        self.budgets, self.charged = dict(budgets), dict(charged)
        self.rate, self.settling_steps = rate, settling_steps
        self.channel_divisor = channel_divisor
        self.gated = regularizer.gated
        self.shares = {m: bound / regularizer.dense[m] for m, bound in budgets.items()}
        self.scales = {m: max(1.0 - share, 1e-6) for m, share in self.shares.items()}
        self.allocations: list[dict[str, Any]] = []
        self._log_gammas = dict.fromkeys(budgets, 0.0)
        self._allocated: dict[str, BranchState] = {}  # at the last allocation
        for gate in self.gated.all_gates():
            gate.register_buffer("direction", torch.zeros_like(gate.theta.detach()))

    # ---- what allocation asks of costs ---------------------------------------------------------

    def costs_of(self, states: Mapping[str, BranchState]) -> dict[str, float]:
        """Measure -> cost of the network if it were cut to ``states``."""
        return self.regularizer.costs_of(states)

    def marginal_costs(
        self, states: Mapping[str, BranchState], weights: Mapping[str, float]
    ) -> MarginalCosts:
        """Marginal costs of ``states``, where each budget's measure has this weight."""
        levels = [(self.charged[m], weight) for m, weight in weights.items()]
        return self.regularizer.marginal_costs(states, levels)

    # ---- the rule ------------------------------------------------------------------------------

    def levels(self, step: int) -> Levels:
        return [(self.charged[m], level) for m, level in self._log_gammas.items()]

    @torch.no_grad()
    def penalty(self, step: int) -> Tensor:
        """The regularizer's value. theta does not follow its gradient, so it has none."""
        return self.regularizer.value(self.levels(step))

    def highest_theta(self, step: int, gate: BernoulliGate) -> float:
        if not self.schedule.is_probing(step):
            return 1.0
        # Units are many, and each tells of its group.
        return 1.0 - min(OFF, max(LEAST_OFF, OFF_UNITS / len(gate)))

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
        final = self._meet_budgets(estimates, all_kept(estimates), self._allocated)
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
            for measure in self.budgets:
                weight = now.weights.get(measure, 0.0)
                self._log_gammas[measure] = (
                    weight * now.importance_per_cost / self.regularizer.layers
                )
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

    def _meet_budgets(
        self,
        estimates: Mapping[str, BranchEstimate],
        states: Mapping[str, BranchState],
        before: Mapping[str, BranchState] | None = None,
    ) -> Allocation:
        """From ``states``, so that the budgets hold and are made use of."""
        return allocate(
            estimates,
            states,
            self.channel_divisor,
            self,
            self.budgets,
            self.scales,
            before=before,
        )

    def select(
        self, estimates: Mapping[str, BranchEstimate], states: Mapping[str, BranchState]
    ) -> dict[str, BranchState]:
        """Without the changes that would take the network below all its budgets.

        What has closed may have to reopen then. Branches that are about to close do not count:
        a branch comes back as a whole or not at all, which seldom fills a budget.
        """
        selected = all_kept(estimates)
        closing = {
            name: BranchState(False, {})
            for name, estimate in estimates.items()
            if estimate.removable and estimate.theta <= 0.5
        }
        for name in sorted(states, key=lambda n: estimates[n].theta):
            unchanged = selected[name]
            selected[name] = states[name]
            costs = self.costs_of(selected | closing)
            if all(costs[m] < bound for m, bound in self.budgets.items()):
                selected[name] = unchanged
        return selected

    def select_final(
        self, estimates: Mapping[str, BranchEstimate], states: Mapping[str, BranchState]
    ) -> dict[str, BranchState]:
        return self._meet_budgets(estimates, states).states

    # ---- what is reported ----------------------------------------------------------------------

    def binding(self) -> str | None:
        shares, dense = self.regularizer.shares(), self.regularizer.dense
        return max(self.budgets, key=lambda m: shares[m] * dense[m] / self.budgets[m])

    def expected(self) -> float:
        measure = self.binding()
        assert measure is not None
        return self.regularizer.shares()[measure]

    def log_gamma(self, step: int) -> float:
        measure = self.binding()
        assert measure is not None
        return self._log_gammas[measure]

    def trace(self, step: int) -> dict[str, float]:
        shares = self.regularizer.shares()
        row = {}
        for measure, level in self._log_gammas.items():
            row[f"log_gamma:{measure}"] = level
            row[f"target:{measure}"] = self.schedule.target(step, self.shares[measure])
            row[f"cost:{measure}"] = shares[measure]
        return row

    def state_dict(self) -> dict[str, Any]:
        return {
            "log_gammas": dict(self._log_gammas),
            "allocated": {name: (s.kept, s.counts) for name, s in self._allocated.items()},
            "allocations": self.allocations,
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        if state.get("log_gammas", {}).keys() != self._log_gammas.keys():
            raise ValueError("checkpoint: it was made under other budgets")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._log_gammas = dict(state["log_gammas"])
        self._allocated = {name: BranchState(*s) for name, s in state["allocated"].items()}
        self.allocations = list(state["allocations"])
