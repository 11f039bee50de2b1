"""The papers' update rule at a fixed level: its price at theta = 1, and what it prunes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

import cpt_nas
from tests.support.networks import build
from tests.support.profiles import synthetic_profile

X = torch.zeros(1, 3, 32, 32).double()


@pytest.mark.parametrize("gate", ["both", "layers", "units"])
@pytest.mark.parametrize("cost", ["complexity", "latency"])
@pytest.mark.parametrize("step", [5, 10, 1000])
def test_the_slope_at_open_is_the_marginal_cost(cost: str, gate: str, step: int) -> None:
    """At theta = 1 every gate pays log gamma times what closing it would save, and nothing else.

    The cost is linear in one theta, so the saving is a difference of two structures.
    """
    model = build("basic")
    numbers = {"alpha": 0.3, "kappa": 0.7 * (gate != "units")} if cost == "complexity" else {}
    search = cpt_nas.attach(
        model,
        X,
        synthetic_profile(model),
        **{"cost": cost, "gate": gate, "log_gamma": 0.2, "ramp_steps": 10, "freeze_step": 2000},
        **numbers,
    )
    search.steps = step
    search.penalty().backward()

    def objective() -> float:
        regularizer = search.regularizer
        with torch.no_grad():
            return float(regularizer.objective(search.costs(), regularizer.branch_sum()))

    assert search.log_gamma == pytest.approx(0.1 if step == 5 else 0.2)
    whole = objective()
    for one in search.gated.all_gates():
        for unit in (0, len(one) - 1):
            one.theta.data[unit] = 0.0
            saved = whole - objective()
            one.theta.data[unit] = 1.0
            slope = float(one.theta.grad[unit])
            # penalty() is float32 at its end
            assert slope == pytest.approx(search.log_gamma * saved, rel=1e-5) and slope > 0


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    return images, torch.tensor(found.target)


def lenet300() -> nn.Module:
    layers = [nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def resnet() -> nn.Module:
    return timm.create_model("cpt_resnet20", layers=[2, 2, 2], channels=[8, 16, 16], in_chans=1)


def searched(model: nn.Module, steps: int, **settings: object) -> tuple[cpt_nas.Search, float]:
    """A search on the digits, and the accuracy on a fifth of them, percent."""
    x, y = digits()
    held = torch.arange(len(x)) % 5 == 0
    kept = (~held).nonzero().flatten()
    same = {"ramp_steps": steps // 10, "warmup_steps": steps // 10, "cut_interval": 10}
    search = cpt_nas.attach(model, x[:1], **same, **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        batch = kept[torch.randint(len(kept), (64,), generator=generator)]
        loss = functional.cross_entropy(model(x[batch]), y[batch]) + search.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        search.step(optimizer)
    search.finish(optimizer)
    model.eval()
    with torch.no_grad():
        right = model(x[held]).argmax(1) == y[held]
    return search, 100 * float(right.float().mean())


@pytest.mark.parametrize(("gate", "level"), [("layers", 0.3), ("units", 0.2), ("both", 0.2)])
def test_each_kind_of_gate_prunes_the_digits(gate: str, level: float) -> None:
    torch.manual_seed(0)
    search, accuracy = searched(resnet(), 240, gate=gate, log_gamma=level, theta_lr=0.03)
    left, dense = search.structure(), search.dense
    macs = search.live_costs()["macs"] / search.regularizer.dense["macs"]
    assert macs < 0.8 and accuracy > 80
    if gate == "layers":
        assert 0 < left.branches_left < dense.branches_left
        kept = [b for b in left.branches.values() if b.kept]
        assert all(len(u.kept) == u.total for b in kept for u in b.units.values())
    elif gate == "units":
        assert left.branches_left == dense.branches_left and left.units_left < dense.units_left
    else:
        assert left.units_left < dense.units_left


def test_a_chain_of_linear_layers_is_pruned_to_a_few_units() -> None:
    torch.manual_seed(0)
    search, accuracy = searched(lenet300(), 600, log_gamma=0.3)
    assert search.structure().units_left < 120 and accuracy > 90
    assert search.undecided_at_freeze < 0.3
