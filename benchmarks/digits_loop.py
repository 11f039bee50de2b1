"""A search in a plain loop on scikit-learn's digits, which several benchmarks share.

Small networks on 8x8 images, one thread: some seconds a search, so that seeds can be afforded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import cpt_nas

BATCH = 64
TEST = 360  # of the 1,797 images
STEPS_AN_EPOCH = 23


@dataclass(frozen=True)
class Images:
    """Training and test images [N, 1, 8, 8] in -1..1, with their classes."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def images() -> Images:
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return Images(x[TEST:], y[TEST:], x[:TEST], y[:TEST])


def lenet() -> nn.Module:
    """LeNet-300-100."""
    layers = [nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def resnet(channels: tuple[int, int, int] = (8, 16, 32)) -> nn.Module:
    """Six residual branches."""
    return timm.create_model("cpt_resnet20", layers=[2, 2, 2], channels=channels, in_chans=1)


Hook = Callable[[cpt_nas.Search, Tensor, Tensor, int, float], None]
"""Called before every ``search.step`` with the search, the batch, the step and the loss."""


def search(
    make: Callable[[], nn.Module],
    data: Images,
    steps: int,
    seed: int,
    profile: Any = None,
    before_step: Hook | None = None,
    **settings: Any,
) -> tuple[cpt_nas.Search, dict[str, Any]]:
    """Train and search.

    Args:
        settings: of attach; none: the network is trained as it is.

    Returns:
        The search, frozen, and a row: accuracy (percent of the test images), macs_ratio and
        params_ratio (over the dense network's), branches, units, undecided (share of the gates
        that were left, at the freeze) and the same of units and branches, train_load, seconds.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = make()
    attached = cpt_nas.attach(model, data.x[:1], profile, seed=seed, **settings)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    began, spent, open_units, open_branches = time.perf_counter(), 0.0, 0.0, 0.0
    dense = attached.live_costs()
    live = dense["macs"]
    for step in range(steps):
        if not attached.frozen:
            open_units, open_branches = undecided(attached)
        model.train()
        batch = torch.randint(len(data.x), (BATCH,))
        x, y = data.x[batch], data.y[batch]
        loss = functional.cross_entropy(model(x), y)
        total = loss + attached.penalty()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        spent += live
        if before_step is not None and not attached.frozen:
            before_step(attached, x, y, step, float(loss.detach()))
        if attached.step(optimizer):
            live = attached.live_costs()["macs"]
    attached.finish(optimizer)
    left, costs = attached.structure(), attached.live_costs()
    row = {
        "accuracy": accuracy(model, data),
        "macs_ratio": costs["macs"] / dense["macs"],
        "params_ratio": costs["params"] / dense["params"],
        "branches": left.branches_left,
        "units": left.units_left,
        "undecided": attached.undecided_at_freeze,
        "undecided_units": open_units,
        "undecided_branches": open_branches,
        "forced": attached.forced,
        "train_load": spent / (dense["macs"] * steps),
        "seconds": time.perf_counter() - began,
    }
    return attached, row


@torch.no_grad()
def accuracy(model: nn.Module, data: Images) -> float:
    """Percent of the test images."""
    right = model.eval()(data.test_x).argmax(1) == data.test_y
    return 100 * float(right.float().mean())


def undecided(attached: cpt_nas.Search) -> tuple[float, float]:
    """Share of the gates that are left with theta inside the threshold: of units, of branches."""
    low = attached.settings.threshold
    shares = []
    for is_unit in (True, False):
        of_kind = [
            g for slot, g in attached.gates.items() if (not is_branch(attached, slot)) == is_unit
        ]
        theta = torch.cat([torch.ones(0), *(g.theta.detach() for g in of_kind)])
        inside = (theta > low) & (theta < 1 - low)
        shares.append(float(inside.float().mean()) if len(theta) else 0.0)
    return shares[0], shares[1]


def is_branch(attached: cpt_nas.Search, slot: str) -> bool:
    """Whether the gate of that slot is a branch's."""
    return slot.replace("/", ".") in attached.gated.branches
