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
from cpt_nas.decide import Charges, Decision, State, filled
from cpt_nas.gated import GatedModel
from hwprofiles import Profile

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
        falling: measure -> its budget's target and level.
        levels: what is charged -> its log gamma: the same, or 'objective'.

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
        self.falling = {
            measure: settings.falling(bound / self.dense[measure])
            for measure, bound in self.budgets.items()
        }
        self.levels: dict[str, budget.Level] = {**self.falling}
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

    def charges_of(self, states: Mapping[str, State], weights: Mapping[str, float]) -> Charges:
        """What each branch and unit of ``states`` adds to what is charged, and to the parameters.

        Over the dense network's; exact for a single change, because every cost is multilinear. A
        closed branch is charged for coming back with its state's units.

        Args:
            weights: measure with a budget -> its share in the price.
        """
        zero = torch.zeros(1, dtype=torch.float64, device=self.cost.widths.device)
        branches: dict[str, Tensor] = {}
        units: dict[str, Tensor] = {}
        keys: list[tuple[str, str]] = []
        for name, left in self.gated.structure.branches.items():
            if not left.kept:
                continue
            state = states.get(name)
            branches[name] = (zero + float(state is None or state.kept)).requires_grad_()
            for group, kept in left.units.items():
                counts = state.counts if state is not None else {}
                count = counts.get(group, len(kept.kept))
                units[group_key(name, group)] = (zero + float(count)).requires_grad_()
                keys.append((name, group))
        with torch.enable_grad():
            costs = dict(zip(self.cost.names, self.cost(branches, units)))
            live = sum((branches[n] for n in self.gated.found if n in branches), zero).sum()
            parts = [w * self._charged(m, costs, live) for m, w in weights.items()]
            price = torch.stack(parts).sum() / len(self.gated.found)
            params = costs["params"] / self.dense["params"]
        leaves = [*branches.values(), *units.values()]
        charge, size = (
            [0.0 if g is None else float(g) for g in grads]
            for grads in (
                torch.autograd.grad(price, leaves, allow_unused=True, retain_graph=True),
                torch.autograd.grad(params, leaves, allow_unused=True),
            )
        )
        both = list(zip(charge, size, strict=True))
        return Charges(dict(zip(branches, both)), dict(zip(keys, both[len(branches) :])))

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

    def _charged(self, name: str, costs: Mapping[str, Tensor], branches: Tensor) -> Tensor:
        """What one level is the price of: the objective, or the measure of a budget."""
        if name == OBJECTIVE or self.settings.cost is not None:
            return self.objective(costs, branches)
        return len(self.gated.found) * costs[name] / self.dense[name]

    def penalty(self, step: int) -> Tensor:
        """The regularizer at a step, exact in theta, a float64 scalar.

        Under a budget theta does not follow its gradient, and it has none.
        """
        with torch.set_grad_enabled(not self.budgets):
            costs, branches = self.costs(), self.branch_sum()
            value = torch.zeros_like(self.cost.offsets[0])
            for name, level in self.levels.items():
                value = value + level.level(step) * self._charged(name, costs, branches)
            gates = self.gated.all_gates()
            if self.settings.polarize and not self.budgets and gates:
                hang = torch.stack([(g.charge * g.theta * (1 - g.theta)).sum() for g in gates])
                level = self.levels[OBJECTIVE]
                value = value + self.settings.polarize * level.level(step) * hang.sum()
        return value

    def gradients(self, step: int) -> list[Tensor]:
        """What the regularizer charges every gate at the present theta, log gamma included."""
        gates = self.gated.all_gates()
        if not gates:
            return []
        with torch.enable_grad():
            costs, branches = self.costs(), self.branch_sum()
            parts = [
                level.level(step) * self._charged(name, costs, branches)
                for name, level in self.levels.items()
            ]
            price = torch.stack(parts).sum()
        return list(torch.autograd.grad(price, [g.theta for g in gates]))

    @property
    def scales(self) -> dict[str, float]:
        """Measure -> the share of the dense cost that its budget takes away."""
        return {m: max(1.0 - level.budget, 1e-6) for m, level in self.falling.items()}

    def goals(self, step: int) -> dict[str, float]:
        """Measure -> the cost that its target asks for at a step."""
        return {m: level.target(step) * self.dense[m] for m, level in self.falling.items()}

    def set_levels(self, decision: Decision) -> None:
        """log gamma of every budget: what the last had to be worth that closed."""
        for measure, level in self.falling.items():
            weight = decision.weights.get(measure, 0.0)
            level.log_gamma = weight * decision.worth / len(self.gated.found)

    def log_gamma(self, step: int) -> float:
        """The pruning level, of the binding budget where there are several."""
        return self.levels[self.binding() or OBJECTIVE].level(step)

    def _charge_open(self) -> None:
        """Set every gate's charge to what it adds to the objective with everything open."""
        gates = self.gated.all_gates()
        if not gates or OBJECTIVE not in self.levels:
            return
        thetas = [gate.theta for gate in gates]
        before = [theta.detach().clone() for theta in thetas]
        for theta in thetas:
            theta.data.fill_(1.0)
        objective = self.objective(self.costs(), self.branch_sum())
        for gate, charge in zip(gates, torch.autograd.grad(objective, thetas)):
            gate.charge.copy_(charge)
        for theta, value in zip(thetas, before):
            theta.data.copy_(value)

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
