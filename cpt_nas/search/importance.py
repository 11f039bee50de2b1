"""How important every gate is: what the samples say, averaged over steps and over processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed
from torch import Tensor

from cpt_nas.gates.bernoulli import BernoulliGate
from cpt_nas.gates.gated_model import GatedModel, Kept
from cpt_nas.pruning.search_space import group_key
from cpt_nas.search.estimates import (
    BranchEstimate,
    BranchState,
    GroupEstimate,
    shrink_to_group_mean,
)

CHANGE = 0.15  # of an importance: how far it may yet be another, whatever its noise
MEMORY = 1.25  # of the estimation: the steps that the gates' importances are averaged over
LEAST_MEMORY = 20  # steps


def shared_slopes(gates: Sequence[BernoulliGate]) -> list[Tensor]:
    """The loss's slopes at the present samples, [2, K] a gate: on and off.

    Under DDP they are the mean over the processes, which draw the same masks; the gates are not in
    the model that it wraps.
    """
    slopes = [gate.slopes() for gate in gates]
    if torch.distributed.is_available() and torch.distributed.is_initialized() and gates:
        flat = torch.cat(slopes, dim=1)
        flat /= torch.distributed.get_world_size()
        torch.distributed.all_reduce(flat)
        slopes = list(flat.split([len(g) for g in gates], dim=1))
    return slopes


def kept_memory(estimation_steps: float) -> float:
    """The share of a gate's memory that is kept in a step, 0..1."""
    return 1.0 - 1.0 / max(LEAST_MEMORY, MEMORY * estimation_steps)


def estimates(gated: GatedModel) -> dict[str, BranchEstimate]:
    """What is known of the branches that are still there."""
    found = {}
    for name, branch in gated.branches.items():
        if not gated.structure.branches[name].kept:
            continue
        gate = gated.gate(name)
        groups = {}
        for g in branch.branch.groups:
            units = gated.gate(group_key(name, g.name))
            assert units is not None, "a branch that is left has all its groups' gates"
            importance, variance = units.importance()
            importances = shrink_to_group_mean(importance, variance).cpu()
            noise = _uncertain(float(importance.mean()), float(variance.mean()) / len(variance))
            theta = units.theta.detach().cpu()
            groups[g.name] = GroupEstimate(theta, importances, g.width, noise)
        if gate is None:
            found[name] = BranchEstimate(1.0, 0.0, False, groups)
        else:
            mean, noise = (float(x) for x in gate.importance())
            noise = _uncertain(mean, noise)
            found[name] = BranchEstimate(float(gate.theta.detach()), mean, True, groups, noise)
    return found


def _uncertain(importance: float, variance: float) -> float:
    """The variance of what an importance will be: its noise, and what may yet change."""
    return variance + (CHANGE * importance) ** 2


def kept_positions(
    estimates: Mapping[str, BranchEstimate], states: Mapping[str, BranchState]
) -> Kept:
    """Of every branch the most important units, as many as its state says, or None."""
    return {
        name: {
            group: estimates[name].groups[group].order[:count].sort().values
            for group, count in state.counts.items()
        }
        if state.kept
        else None
        for name, state in states.items()
    }
