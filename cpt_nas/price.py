"""What the gates are charged: the regularizer over the mean loss, from costs, levels and theta.

Without a budget it is log gamma times the objective (eq. 11 of arXiv 2411.09127 with eq. 13 put in,
or the profile's latency in its place). With budgets each has a level of its own, and charges its
own measure. A polarising term is zero where every theta is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cpt_nas import budget
from cpt_nas.config import LOG_GAMMA, SearchSettings
from cpt_nas.cost import Cost, group_key
from cpt_nas.decide import State, filled
from cpt_nas.gated import GatedModel
from hwprofiles import Profile

RECHARGE = 5  # steps between looks at what a gate costs now, where there is a budget
OBJECTIVE = "objective"
"""What is charged where no budget names a measure."""


def cost_name(settings: SearchSettings, profile: Profile | None) -> str:
    """What is charged: 'latency', 'complexity', or the budgets' measures joined by '+'.

    Raises:
        ValueError: it needs a profile and there is none.
    """
    measures = settings.amounts()
    if profile is None and (settings.cost == "latency" or "latency" in measures):
        name = "latency_budget" if "latency" in measures else "cost: 'latency'"
        raise ValueError(f"{name}: needs a profile; cpt-nas profile MODEL measures one")
    default = "latency" if profile is not None else "complexity"
    return settings.cost or "+".join(measures) or default


class Price:
    """The price of one model's gates.

    Args:
        gated: the uncut model; its gates are put in place.
        cost: its costs, with 'latency' where that is charged or has a budget.
        settings: budgets or level, alpha, kappa and the times.
        profile: for alpha and kappa, where the settings do not say.
        channel_step: widths are multiples of it.

    Attributes:
        dense: the dense network's costs.
        budgets: measure -> upper bound, in s or counts.
        levels: what is charged -> its log gamma: a budget's measure, or 'objective'.

    Raises:
        BudgetError: a budget cannot be met; the model is as it was.
    """

    def __init__(
        self,
        gated: GatedModel,
        cost: Cost,
        settings: SearchSettings,
        profile: Profile | None,
        channel_step: int,
    ) -> None:
        self.gated, self.cost, self.settings = gated, cost, settings
        self.cost_name = cost_name(settings, profile)
        weights = profile.weights if profile is not None else None
        default_alpha = weights.alpha if weights is not None else 0.5
        default_kappa = weights.kappa if weights is not None else 0.0
        self.alpha = default_alpha if settings.alpha is None else settings.alpha
        self.kappa = default_kappa if settings.kappa is None else settings.kappa
        self.dense = cost.of_structure(gated.structure)
        lowest = self.lowest_costs(channel_step)
        self.budgets = budget.resolve(settings.amounts(), self.dense, lowest)
        gated.mount()
        self.levels: dict[str, budget.Level] = {
            measure: budget.Controller(
                bound / self.dense[measure],
                settings.warmup_steps,
                settings.ramp_steps,
                1.0 / settings.rate(),
            )
            for measure, bound in self.budgets.items()
        }
        if not self.levels:
            level = LOG_GAMMA if settings.log_gamma is None else settings.log_gamma
            ramp = budget.Ramp(level, settings.warmup_steps, settings.ramp_steps)
            self.levels[OBJECTIVE] = ramp
        full = dict(zip(cost.names, cost(*gated.theta(dense=True))))
        self._dense_objective = float(self.objective(full, len(gated.found)))
        self._charge_open()

    # ---- costs --------------------------------------------------------------------------------

    def costs(self) -> dict[str, Tensor]:
        """Expected 'macs', 'params' (and 'latency', seconds), differentiable in theta."""
        return dict(zip(self.cost.names, self.cost(*self.gated.theta())))

    def live_costs(self) -> dict[str, float]:
        """Costs of the network as it is cut now, whatever its gates say."""
        return self.cost.of_structure(self.gated.structure)

    def costs_of(self, states: Mapping[str, State]) -> dict[str, float]:
        """Costs of the network if it were cut to ``states``; branches without one stay."""
        branches, units = [], {}
        for name, left in self.gated.structure.branches.items():
            state = states.get(name)
            if not left.kept or (state is not None and not state.kept):
                continue
            branches.append(name)
            for group, kept in left.units.items():
                counts = state.counts if state is not None else {}
                units[group_key(name, group)] = counts.get(group, len(kept.kept))
        return self.cost.of_counts(branches, units)

    def lowest_costs(self, channel_step: int) -> dict[str, float]:
        """Costs with everything closed that may be."""
        closed = {
            name: State(
                found.branch.remove is None,
                {g.name: filled(1, g.size, channel_step, g.width) for g in found.branch.groups},
            )
            for name, found in self.gated.found.items()
        }
        return self.costs_of(closed)

    @torch.no_grad()
    def shares(self) -> dict[str, float]:
        """Every expected cost over the dense network's."""
        return {m: float(cost) / self.dense[m] for m, cost in self.costs().items()}

    def binding(self) -> str | None:
        """The budget that is nearest to being broken, or furthest beyond; None without any."""
        if not self.budgets:
            return None
        shares = self.shares()
        return max(self.budgets, key=lambda m: shares[m] * self.dense[m] / self.budgets[m])

    @torch.no_grad()
    def expected(self) -> float:
        """The charged cost over the dense network's, 0..1; the binding budget's, if any."""
        measure = self.binding()
        if measure is not None:
            return self.shares()[measure]
        return float(self.objective(self.costs(), self.branch_sum())) / self._dense_objective

    # ---- the regularizer ----------------------------------------------------------------------

    def objective(self, costs: Mapping[str, Tensor], branches: Tensor | float) -> Tensor:
        """The regularizer over log gamma: eq. 11 with eq. 13 put in, or latency in its place."""
        layers = len(self.gated.found)
        if self.cost_name == "latency":
            return layers * costs["latency"] / self.dense["latency"]
        work = self.alpha * costs["macs"] / self.dense["macs"]
        size = (1.0 - self.alpha) * costs["params"] / self.dense["params"]
        return layers * (work + size) + self.kappa * branches

    def branch_sum(self) -> Tensor:
        """The expected number of branches."""
        branches, _ = self.gated.theta()
        live = [branches[n].double().sum() for n in self.gated.found if n in branches]
        return torch.stack([torch.zeros_like(self.cost.offsets[0]), *live]).sum()

    def _charged(self, name: str, costs: Mapping[str, Tensor]) -> Tensor:
        """What one level is the price of: the objective, or the measure of a budget."""
        if name == OBJECTIVE or self.settings.cost is not None:
            return self.objective(costs, self.branch_sum())
        return len(self.gated.found) * costs[name] / self.dense[name]

    def penalty(self, step: int) -> Tensor:
        """The regularizer at a step, exact in theta, a float64 scalar."""
        costs = self.costs()
        value = torch.zeros_like(self.cost.offsets[0])
        for name, level in self.levels.items():
            value = value + level.level(step) * self._charged(name, costs)
        gates = self.gated.all_gates()
        if self.settings.polarize and gates:
            hang = torch.stack([(g.charge * g.theta * (1 - g.theta)).sum() for g in gates])
            most = max(level.polarizing(step) for level in self.levels.values())
            value = value + self.settings.polarize * most * hang.sum()
        return value

    def log_gamma(self, step: int) -> float:
        """The pruning level, of the binding budget where there are several."""
        return self.levels[self.binding() or OBJECTIVE].level(step)

    def update(self, step: int) -> None:
        """Let the controllers look at the costs; after theta's step."""
        if not self.budgets:
            return
        shares = self.shares()
        for measure, level in self.levels.items():
            level.update(step, shares[measure])
        if step % RECHARGE == 0:
            self._recharge(step)

    @torch.no_grad()
    def _charge_open(self) -> None:
        """Set every gate's charge to what it adds to the price with everything open."""
        gates = self.gated.all_gates()
        before = [gate.theta.detach().clone() for gate in gates]
        for gate in gates:
            gate.theta.fill_(1.0)
        self._recharge(0)
        for gate, theta in zip(gates, before):
            gate.theta.copy_(theta)

    @torch.enable_grad()
    def _recharge(self, step: int) -> None:
        """Set every gate's charge to what it adds to the price at the present theta."""
        gates = self.gated.all_gates()
        if not gates:
            return
        costs = self.costs()
        weights = {n: level.polarizing(step) for n, level in self.levels.items()}
        most = max(weights.values())
        shares = {n: w / most if most > 0 else 1.0 / len(weights) for n, w in weights.items()}
        price = torch.stack([shares[n] * self._charged(n, costs) for n in self.levels]).sum()
        for gate, charge in zip(gates, torch.autograd.grad(price, [g.theta for g in gates])):
            gate.charge.detach().copy_(charge)

    def state_dict(self) -> dict[str, Any]:
        return {name: level.state_dict() for name, level in self.levels.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Raises:
            ValueError: it was made under other budgets.
        """
        if state.keys() != self.levels.keys():
            raise ValueError("checkpoint: it was made under other budgets")
        for name, level in self.levels.items():
            level.load_state_dict(state[name])
