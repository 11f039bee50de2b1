"""What a search writes down while it lasts: search.csv, removed.csv and allocations.csv."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cpt_nas.gates.gated_model import GatedModel, slot_of
from cpt_nas.pruning.search_space import group_key
from cpt_nas.search.allocation import Allocation
from cpt_nas.search.estimates import BranchEstimate, BranchState, MarginalCosts

BINS = 10  # of theta's histogram
TRACE_COLUMNS = ("step", "branches", "units", "undecided", *(f"theta_{i}" for i in range(BINS)))
"""Of search.csv, beside log_gamma:NAME, target:NAME and cost:NAME of what is charged."""
REMOVED_COLUMNS = ("step", "branch", "at_freeze", "group", "gates", "theta", "driven_down")
ALLOCATION_COLUMNS = (
    *("step", "branch", "group", "theta", "importance", "noise", "marginal_cost", "params"),
    *("importance_per_cost", "threshold_importance_per_cost", "kept"),
)


def trace_row(
    step: int, levels: Mapping[str, float], gated: GatedModel, undecided: float
) -> dict[str, float]:
    """A row of search.csv.

    Args:
        levels: the update rule's own columns: levels, targets and expected costs.
        undecided: share of the gates that are.
    """
    structure = gated.structure
    row: dict[str, float] = {"step": step, **levels}
    row |= {"branches": structure.branches_left, "units": structure.units_left}
    row["undecided"] = undecided
    thetas = [g.theta.detach().float() for g in gated.all_gates()]
    counts = torch.histc(torch.cat(thetas), BINS, 0, 1) if thetas else torch.zeros(BINS)
    return row | {f"theta_{i}": int(n) for i, n in enumerate(counts.tolist())}


def removed_rows(
    step: int,
    gated: GatedModel,
    gradients: list[Tensor],
    estimates: Mapping[str, BranchEstimate],
    states: Mapping[str, BranchState],
    at_freeze: bool,
) -> list[dict[str, Any]]:
    """Rows of removed.csv: every branch and every group's units that go now.

    ``theta`` is the largest among them. ``driven_down`` is the share of them that the price has
    lately been pushing down harder than the loss has been asking for them. That is what Theorems
    5.1 and 5.2 of arXiv 2411.09127 rest on: inside their regions it stays so, and theta goes to 0.
    The regions themselves depend on bounds of the loss's gradient over all weights, which nobody
    knows; this is the part that can be computed.

    Args:
        gradients: of the regularizer, [K] a gate.
    """
    rows: list[dict[str, Any]] = []
    price = {slot: gradient.cpu() for slot, gradient in zip(gated.gates, gradients)}
    for name, state in states.items():
        estimate = estimates[name]
        same = {"step": step, "branch": name, "at_freeze": at_freeze}
        if not state.kept:
            row = {"group": "", "gates": 1, "theta": estimate.theta}
            driven = float(estimate.importance < float(price[slot_of(name)]))
            rows.append(same | row | {"driven_down": driven})
            continue
        for key, count in state.counts.items():
            group = estimate.groups[key]
            gone = group.order[count:]
            if len(gone):
                row = {"group": key, "gates": len(gone), "theta": float(group.theta[gone].max())}
                cheap = group.importance[gone] < price[slot_of(group_key(name, key))][gone]
                rows.append(same | row | {"driven_down": float(cheap.float().mean())})
    return rows


def allocation_rows(
    step: int,
    estimates: Mapping[str, BranchEstimate],
    allocation: Allocation,
    marginal: MarginalCosts,
) -> list[dict[str, Any]]:
    """Rows of allocations.csv: of every branch and group its importance, and what is to stay.

    ``importance`` is how much lower the loss is for the branch, or for one unit of the group in the
    mean, ``noise`` its standard error, with what it may yet change; ``marginal_cost`` and
    ``params`` are what it adds to the costs of what is still there, over the dense network's;
    ``threshold_importance_per_cost`` is that of the last that had to close.

    Args:
        marginal: marginal costs of all that is still there.
    """
    rows: list[dict[str, Any]] = []
    for name, estimate in estimates.items():
        state = allocation.states[name]
        parts = [(key, g.theta, g.importance, g.variance) for key, g in estimate.groups.items()]
        if estimate.removable:
            theta, importance = torch.tensor([[estimate.theta], [estimate.importance]])
            parts.insert(0, ("", theta, importance, estimate.variance))
        for key, theta, importance, variance in parts:
            cost, params = marginal.units[name, key] if key else marginal.branches[name]
            mean = float(importance.mean())
            kept = state.counts[key] if key else 1
            rows.append(
                {
                    "step": step,
                    "branch": name,
                    "group": key,
                    "theta": float(theta.mean()),
                    "importance": mean,
                    "noise": math.sqrt(variance),
                    "marginal_cost": cost,
                    "params": params,
                    "importance_per_cost": mean / max(cost, 1e-12),
                    "threshold_importance_per_cost": allocation.importance_per_cost,
                    "kept": kept if state.kept else 0,
                }
            )
    return rows
