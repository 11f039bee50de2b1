"""A loop of one's own around a tiny search: the model, its search, its optimizer, a few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import cpt_nas

KWARGS = {"layers": [1, 2, 1], "channels": [8, 8, 16]}
X = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
Y = torch.randint(10, (8,), generator=torch.Generator().manual_seed(2))
FIXED = {"log_gamma": 0.05, "cut_interval": 5}
BUDGET = {"macs_budget": 0.6, "total_steps": 30, "ramp": 0.5, "freeze": 0.8, "cut_interval": 5}
CLOSING = {"log_gamma": 0.4, "theta_lr": 0.05, "cut_interval": 5}
"""Settings: units fall slowly; costs fall to a budget; units go within twenty steps."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("cpt_resnet20", **KWARGS)


def attach(model: nn.Module, **settings: Any) -> cpt_nas.Search:
    return cpt_nas.attach(model, X[:1], model_kwargs=KWARGS, **(settings or FIXED))


def sgd(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=0.01, momentum=0.9)


def loss(model: Callable[[Tensor], Tensor], search: cpt_nas.Search) -> Tensor:
    return nn.functional.cross_entropy(model(X), Y) + search.penalty()


def steps(
    number: int,
    model: Callable[[Tensor], Tensor],
    search: cpt_nas.Search,
    *optimizers: Optimizer,
    ema: Any = None,
) -> bool:
    """Steps as the guide has them. Returns whether the network was cut in them."""
    changed = False
    for _ in range(number):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss(model, search).backward(
            create_graph=any(getattr(o, "is_second_order", False) for o in optimizers)
        )
        for optimizer in optimizers:
            optimizer.step()
        given = optimizers[0] if len(optimizers) == 1 else list(optimizers)
        changed |= search.step(given, ema)
    return changed


def close_half(search: cpt_nas.Search, branches: Iterable[str] = ()) -> None:
    """theta of the last half of every group's units to 0, and that of the branches named."""
    for gate in search.gated.all_gates():
        if len(gate) > 1:
            gate.theta.data[len(gate) // 2 :] = 0.0
    for name in branches:
        search.gated.gate(name).theta.data.zero_()


def held(*optimizers: Optimizer) -> set[int]:
    return {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
