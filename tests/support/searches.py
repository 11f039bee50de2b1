"""Searches whose gates are decided by hand, and what counts as the same output."""

from __future__ import annotations

import torch
from torch import nn

import cpt_nas

# float64 with sums in another order: far below this; a wrong slice is far above.
EXACT = 1e-12


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) <= EXACT


def attach(model: nn.Module, **settings: object) -> cpt_nas.Search:
    x = torch.zeros(1, 3, 32, 32).double()
    return cpt_nas.attach(model, x, log_gamma=0.1, **settings)


def close_some(search: cpt_nas.Search, seed: int, share: float = 0.4) -> None:
    """Decide every gate at random; at least one branch goes, at least one unit a group stays."""
    generator = torch.Generator().manual_seed(seed)
    branches = []
    for slot, gate in search.gates.items():
        theta = (torch.rand(len(gate), generator=generator) > share).float()
        if len(gate) > 1:
            theta[0] = 1
        else:
            branches.append(slot)
        gate.theta.data = theta
        gate.mask = theta.clone()
    if branches:
        for slot, value in ((branches[-1], 0.0), (branches[0], 1.0)):
            search.gates[slot].theta.data.fill_(value)
            search.gates[slot].mask.fill_(value)


class FixedMask:
    """Stands in for the sampler: the masks stay as set."""

    def __call__(self, module: nn.Module, inputs: object) -> None:
        pass


def fix_masks(search: cpt_nas.Search) -> None:
    search.gated._handles.pop().remove()  # the sampler is mounted last
