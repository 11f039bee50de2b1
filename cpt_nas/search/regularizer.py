"""The regularizer: what the gates are charged, from costs and theta.

With the law 'complexity' it is eq. 11 of arXiv 2411.09127 with eq. 13 put in; with 'latency' the
profile's seconds stand in its place. One measure alone can be charged as well, the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from cpt_nas.costs.cost_model import CostModel
from cpt_nas.gates.gated_model import GatedModel
from cpt_nas.pruning.search_space import group_key
from cpt_nas.search.estimates import BranchState, MarginalCosts, make_divisible
from cpt_nas.search.law import Law
from cpt_nas.search.settings import LATENCY

OBJECTIVE = "objective"
"""The name of what is charged by the law, beside the measures' own names."""

Levels = Iterable[tuple[str, float]]
"""(OBJECTIVE or a measure, its log gamma)."""


class Regularizer:
    """Costs of a gated model, and what its gates are charged for them.

    Args:
        gated: the model with its gates.
        cost: its costs, with 'latency' where that is charged or has a budget.
        law: what OBJECTIVE means.

    Attributes:
        dense: the dense network's costs: s or counts.
        layers: L of eq. 13.
    """

    def __init__(self, gated: GatedModel, cost: CostModel, law: Law) -> None:
        self.gated, self.cost, self.law = gated, cost, law
        self.dense = cost.of_structure(gated.structure)
        self.layers = law.layers

    # ---- costs --------------------------------------------------------------------------------

    def costs(self) -> dict[str, Tensor]:
        """Expected 'macs', 'params' (and 'latency', seconds), differentiable in theta."""
        return dict(zip(self.cost.names, self.cost(*self.gated.theta())))

    def live_costs(self) -> dict[str, float]:
        """Costs of the network as it is cut now, whatever its gates say."""
        return self.cost.of_structure(self.gated.structure)

    @torch.no_grad()
    def shares(self) -> dict[str, float]:
        """Every expected cost over the dense network's."""
        return {m: float(cost) / self.dense[m] for m, cost in self.costs().items()}

    def costs_of(self, states: Mapping[str, BranchState]) -> dict[str, float]:
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

    def lowest_costs(self, channel_divisor: int) -> dict[str, float]:
        """Costs with everything closed that may be."""
        closed = {
            name: BranchState(
                found.branch.remove is None,
                {
                    g.name: make_divisible(1, g.size, channel_divisor, g.width)
                    for g in found.branch.groups
                },
            )
            for name, found in self.gated.branches.items()
        }
        return self.costs_of(closed)

    def marginal_costs(self, states: Mapping[str, BranchState], levels: Levels) -> MarginalCosts:
        """What each branch and unit of ``states`` adds to what is charged, and to the parameters.

        Over the dense network's; exact for a single change, because every cost is multilinear. A
        closed branch is charged for coming back with its state's units.

        Args:
            states: of the branches that are still there; those without one stay as they are.
            levels: what is charged, and its share in the price.
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
            live = sum((branches[n] for n in self.gated.branches if n in branches), zero).sum()
            parts = [w * self.charged(m, costs, live) for m, w in levels]
            price = torch.stack(parts).sum() / self.layers
            params = costs["params"] / self.dense["params"]
        leaves = [*branches.values(), *units.values()]
        marginal, size = (
            [0.0 if g is None else float(g) for g in grads]
            for grads in (
                torch.autograd.grad(price, leaves, allow_unused=True, retain_graph=True),
                torch.autograd.grad(params, leaves, allow_unused=True),
            )
        )
        both = list(zip(marginal, size, strict=True))
        return MarginalCosts(dict(zip(branches, both)), dict(zip(keys, both[len(branches) :])))

    # ---- what is charged -----------------------------------------------------------------------

    def objective(self, costs: Mapping[str, Tensor], branches: Tensor | float) -> Tensor:
        """The regularizer over log gamma: eq. 11 with eq. 13 put in, or latency in its place."""
        alpha, kappa = self.law.alpha.value, self.law.kappa.value
        if alpha is None:
            return self.layers * costs[LATENCY] / self.dense[LATENCY]
        work = alpha * costs["macs"] / self.dense["macs"]
        size = (1.0 - alpha) * costs["params"] / self.dense["params"]
        return self.layers * (work + size) + (kappa or 0.0) * branches

    def charged(self, name: str, costs: Mapping[str, Tensor], branches: Tensor) -> Tensor:
        """What one level is the price of: the objective, or one measure's share a layer."""
        if name == OBJECTIVE:
            return self.objective(costs, branches)
        return self.layers * costs[name] / self.dense[name]

    def dense_objective(self) -> float:
        """The objective with every gate open: L, or L (1 + kappa)."""
        full = dict(zip(self.cost.names, self.cost(*self.gated.theta(dense=True))))
        return float(self.objective(full, self.layers))

    def branch_sum(self) -> Tensor:
        """The expected number of layers: L less what the branches' gates close."""
        branches, _ = self.gated.theta()
        closed = self.cost.widths.new_zeros(())
        for name, found in self.gated.branches.items():
            if found.branch.remove is not None:
                closed = closed + (1.0 - branches[name].double().sum() if name in branches else 1.0)
        return self.layers - closed

    def value(self, levels: Levels) -> Tensor:
        """The regularizer, exact in theta, a float64 scalar."""
        costs, branches = self.costs(), self.branch_sum()
        value = self.cost.widths.new_zeros(())
        for name, level in levels:
            value = value + level * self.charged(name, costs, branches)
        return value

    def gradients(self, levels: Levels) -> list[Tensor]:
        """What the regularizer charges every gate at the present theta, log gamma included."""
        gates = self.gated.all_gates()
        if not gates:
            return []
        with torch.enable_grad():
            costs, branches = self.costs(), self.branch_sum()
            parts = [level * self.charged(name, costs, branches) for name, level in levels]
            price = torch.stack(parts).sum()
        return list(torch.autograd.grad(price, [g.theta for g in gates]))
