"""Theorem 3.1: theta ends at 0 or 1, where its gradient is that of a multilinear loss.

The weights make the loss curved in a gate: trained with it on, they leave its slope there at zero,
and all that closing it costs is in the slope where it is off. The loss is then
``worth * (1 - z)**2``, and of a single gate, whose price is ``price``, the papers' objective is
``worth * (1 - theta) + price * theta``: linear, so its least is at 1 where the gate is worth its
price, else at 0.
"""

from __future__ import annotations

import pytest
import torch

from cpt_nas.gates.bernoulli import BernoulliGate

PRICE, GATES, STEPS, RATE = 1.0, 200, 1500, 0.01


def ends(estimator: str, worth: float, start: float = 0.8) -> torch.Tensor:
    """theta of many gates alike after projected stochastic gradient."""
    generator = torch.Generator().manual_seed(0)
    gate = BernoulliGate(GATES, theta=start, estimator=estimator)
    optimizer = torch.optim.Adam([gate.theta], lr=RATE)
    for _ in range(STEPS):
        gate.sample(torch.rand(GATES, generator=generator))
        value = gate.value(True)
        (worth * (1 - value).square()).sum().backward()
        gate.theta.grad = gate.gradient(gate.slopes()) + PRICE
        gate.forget()
        optimizer.step()
        gate.project()
    return gate.theta.detach()


@pytest.mark.parametrize(("worth", "end"), [(3.0, 1.0), (0.5, 0.0)])
def test_the_endpoint_estimator_ends_deterministic(worth: float, end: float) -> None:
    theta = ends("endpoint", worth)
    # At 1 the floor of the estimate leaves a margin that counts as decided.
    assert float(((theta - end).abs() < 0.1).float().mean()) > 0.95


@pytest.mark.parametrize("worth", [3.0, 1.5])
def test_straight_through_hangs_where_its_mean_is_zero(worth: float) -> None:
    """theta * 0 + (1 - theta) * (-2 worth) + price = 0: an interior point, and a stable one."""
    fixed = 1 - PRICE / (2 * worth)
    for start in (0.4, 0.95):
        theta = ends("straight_through", worth, start)
        assert float(theta.mean()) == pytest.approx(fixed, abs=0.08)
        assert 0.1 < fixed < 0.9
