"""What a search writes down while it lasts: search.csv and removed.csv of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from cpt_nas.decide import Candidate, State

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
    step: int, candidates: Mapping[str, Candidate], states: Mapping[str, State], forced: bool
) -> list[dict[str, Any]]:
    """A row for every branch and every group's units that go now.

    ``theta`` is the largest among them. ``driven_down`` is the share of them that the price has
    lately been pushing down harder than the loss has been asking for them. That is what Theorems
    5.1 and 5.2 of arXiv 2411.09127 rest on: inside their regions it stays so, and theta goes to 0.
    The regions themselves depend on bounds of the loss's gradient over all weights, which nobody
    knows; this is the part that can be computed.
    """
    rows: list[dict[str, Any]] = []
    for name, state in states.items():
        candidate = candidates[name]
        same = {"step": step, "branch": name, "at_freeze": forced}
        if not state.kept:
            row = {"group": "", "gates": 1, "theta": candidate.theta}
            rows.append(same | row | {"driven_down": float(candidate.use < 0)})
            continue
        for key, count in state.counts.items():
            group = candidate.groups[key]
            gone = group.order[count:]
            if len(gone):
                row = {"group": key, "gates": len(gone), "theta": float(group.theta[gone].max())}
                share = float((group.use[gone] < 0).float().mean())
                rows.append(same | row | {"driven_down": share})
    return rows
