"""What a search writes down while it lasts: search.csv, removed.csv and looks.csv."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from cpt_nas.cost import group_key
from cpt_nas.decide import Candidate, Decision, State, whole
from cpt_nas.gated import slot_of

if TYPE_CHECKING:
    from cpt_nas.search import Search

BINS = 10  # of theta's histogram


def trace_row(search: Search) -> dict[str, float]:
    """Levels, targets and expected costs, what is left, and the histogram of theta."""
    row: dict[str, float] = {"step": search.steps}
    shares = search.price.shares()
    for name, level in search.price.levels.items():
        row[f"log_gamma:{name}"] = level.level(search.steps)
        row[f"target:{name}"] = level.target(search.steps)
        row[f"cost:{name}"] = shares[name] if name in shares else search.expected_cost()
    structure = search.gated.structure
    row |= {"branches": structure.branches_left, "units": structure.units_left}
    row["undecided"] = search.undecided()
    thetas = [g.theta.detach().float() for g in search.gated.all_gates()]
    counts = torch.histc(torch.cat(thetas), BINS, 0, 1) if thetas else torch.zeros(BINS)
    return row | {f"theta_{i}": int(n) for i, n in enumerate(counts.tolist())}


def removed_rows(
    search: Search,
    candidates: Mapping[str, Candidate],
    states: Mapping[str, State],
    forced: bool,
) -> list[dict[str, Any]]:
    """A row for every branch and every group's units that go now.

    ``theta`` is the largest among them. ``driven_down`` is the share of them that the price has
    lately been pushing down harder than the loss has been asking for them. That is what Theorems
    5.1 and 5.2 of arXiv 2411.09127 rest on: inside their regions it stays so, and theta goes to 0.
    The regions themselves depend on bounds of the loss's gradient over all weights, which nobody
    knows; this is the part that can be computed.
    """
    rows: list[dict[str, Any]] = []
    gates = dict(search.gated.gates)
    gradients = search.price.gradients(search.steps)
    price = {key: g.cpu() for key, g in zip(gates, gradients)}
    for name, state in states.items():
        candidate = candidates[name]
        same = {"step": search.steps, "branch": name, "at_freeze": forced}
        if not state.kept:
            row = {"group": "", "gates": 1, "theta": candidate.theta}
            driven = float(candidate.benefit < float(price[slot_of(name)]))
            rows.append(same | row | {"driven_down": driven})
            continue
        for key, count in state.counts.items():
            group = candidate.groups[key]
            gone = group.order[count:]
            if len(gone):
                row = {"group": key, "gates": len(gone), "theta": float(group.theta[gone].max())}
                cheap = group.benefit[gone] < price[slot_of(group_key(name, key))][gone]
                rows.append(same | row | {"driven_down": float(cheap.float().mean())})
    return rows


def look_rows(
    search: Search, candidates: Mapping[str, Candidate], decision: Decision
) -> list[dict[str, Any]]:
    """A row for every branch and every group: what it is worth, and what was to stay in the end.

    ``benefit`` is how much lower the loss is for the branch, or for one unit of the group in the
    mean, ``noise`` its standard error, with what it may yet change; ``charge`` and ``params`` are
    what it adds to the costs of what is still there, over the dense network's; ``worth`` is the
    benefit over the charge, ``price`` the worth of the last that had to close.
    """
    rows: list[dict[str, Any]] = []
    budgets = search.price.budgets
    weights = decision.weights or {m: 1.0 / len(budgets) for m in budgets}
    charges = search.price.charges_of(whole(candidates), weights)
    for name, candidate in candidates.items():
        state = decision.states[name]
        parts = [(key, g.theta, g.benefit, g.variance) for key, g in candidate.groups.items()]
        if candidate.removable:
            theta, benefit = torch.tensor([[candidate.theta], [candidate.benefit]])
            parts.insert(0, ("", theta, benefit, candidate.variance))
        for key, theta, benefit, variance in parts:
            charge, params = charges.units[name, key] if key else charges.branches[name]
            mean = float(benefit.mean())
            kept = state.counts[key] if key else 1
            row = {"step": search.steps, "branch": name, "group": key}
            row |= {"theta": float(theta.mean()), "benefit": mean, "noise": math.sqrt(variance)}
            row |= {"charge": charge, "params": params, "worth": mean / max(charge, 1e-12)}
            rows.append(row | {"price": decision.worth, "kept": kept if state.kept else 0})
    return rows
