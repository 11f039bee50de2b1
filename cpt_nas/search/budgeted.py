"""What the update rules under budgets share: the bounds, what may be cut, and what is reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from cpt_nas.gates.bernoulli import BernoulliGate
from cpt_nas.search.allocation import Allocation, allocate
from cpt_nas.search.estimates import BranchEstimate, BranchState, MarginalCosts, all_kept
from cpt_nas.search.regularizer import Levels, Regularizer
from cpt_nas.search.schedules import BudgetSchedule

OFF = 0.1  # 1 - theta of an open branch while importance is estimated: often enough to tell it
OFF_UNITS = 2.0  # units of a group that are off at a time then; at most OFF
LEAST_OFF = 0.02  # of them


class Budgeted:
    """Upper bounds of costs, and the level of each.

    Args:
        regularizer: of the gated model.
        budgets: measure -> upper bound, in s or counts.
        charged: measure with a budget -> what its level is the price of.
        schedule: of the targets.
        channel_divisor: widths are multiples of it.

    Attributes:
        shares: measure -> budget over the dense network's cost.
        scales: measure -> the share of the dense cost that its budget takes away.
        OWN_STATE: the entry of a checkpoint that only this update rule writes.
    """

    OWN_STATE: ClassVar[str]

    def __init__(
        self,
        regularizer: Regularizer,
        budgets: Mapping[str, float],
        charged: Mapping[str, str],
        schedule: BudgetSchedule,
        channel_divisor: int,
    ) -> None:
        self.regularizer, self.schedule = regularizer, schedule
        self.budgets, self.charged = dict(budgets), dict(charged)
        self.channel_divisor = channel_divisor
        self.gated = regularizer.gated
        self.shares = {m: bound / regularizer.dense[m] for m, bound in budgets.items()}
        self.scales = {m: max(1.0 - share, 1e-6) for m, share in self.shares.items()}
        self.allocations: list[dict[str, Any]] = []
        self._log_gammas = dict.fromkeys(budgets, 0.0)

    @staticmethod
    def probing_theta(gate: BernoulliGate) -> float:
        """The most that theta may be while open gates must sometimes be off to be estimated."""
        # Units are many, and each tells of its group.
        return 1.0 - min(OFF, max(LEAST_OFF, OFF_UNITS / len(gate)))

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

    def levels(self, step: int) -> Levels:
        return [(self.charged[m], level) for m, level in self._log_gammas.items()]

    def meet_budgets(
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
        return self.meet_budgets(estimates, states).states

    def set_levels(self, allocation: Allocation) -> None:
        """Take over the levels at which exactly what an allocation closes is not worth its cost."""
        for measure in self.budgets:
            weight = allocation.weights.get(measure, 0.0)
            self._log_gammas[measure] = (
                weight * allocation.importance_per_cost / self.regularizer.layers
            )

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

    # ---- stopping and going on -----------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"log_gammas": dict(self._log_gammas), "allocations": self.allocations}

    def check_state(self, state: Mapping[str, Any]) -> None:
        others = state.get("log_gammas", {}).keys() != self.budgets.keys()
        if others or self.OWN_STATE not in state:
            raise ValueError("checkpoint: it was made under other budgets or by another method")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._log_gammas = dict(state["log_gammas"])
        self.allocations = list(state["allocations"])
