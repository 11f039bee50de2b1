"""Costs: fvcore's counts, multilinear, right gradients, right at every structure."""

from __future__ import annotations

import logging

import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from tests.support.networks import build
from tests.support.searches import attach, close_some


def fvcore_macs(model: torch.nn.Module) -> float:
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    count = FlopCountAnalysis(model.eval(), torch.zeros(1, 3, 32, 32).double())
    return count.unsupported_ops_warnings(False).total()


def test_open_gates_cost_what_fvcore_counts(case: str) -> None:
    plain = build(case)
    search = attach(build(case))
    costs = {k: v.item() for k, v in search.costs().items()}
    assert costs["macs"] == fvcore_macs(plain)
    assert costs["params"] == sum(p.numel() for p in plain.parameters())
    assert search.expected_cost() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_cost_at_a_structure_is_the_cut_networks(case: str, seed: int) -> None:
    model = build(case)
    search = attach(model)
    close_some(search, seed)
    soft = {k: v.item() for k, v in search.costs().items()}
    cut_model = search.finish()
    live = search.live_costs()
    assert live["macs"] == fvcore_macs(cut_model)
    assert live["params"] == sum(p.numel() for p in cut_model.parameters())
    # theta is float32 and its sums are exact at 0 and 1
    assert soft == pytest.approx(live, rel=1e-12)


def test_the_cost_is_multilinear_in_every_theta(case: str) -> None:
    search = attach(build(case), alpha=0.3, kappa=0.7)
    generator = torch.Generator().manual_seed(0)
    for gate in search.gates.values():
        gate.theta.data = torch.rand(len(gate), generator=generator).double()
    for gate in search.gates.values():
        values = []
        for theta in (0.0, 0.5, 1.0):
            gate.theta.data[0] = theta
            values.append(torch.stack(list(search.costs().values())).detach())
        second = values[0] - 2 * values[1] + values[2]
        assert (second.abs() <= 1e-10 * values[2]).all()
        assert (values[2] >= values[0]).all()  # opening a gate never costs less


def test_the_penaltys_gradient_is_its_finite_difference() -> None:
    import cpt_nas

    model = build("bottleneck")
    x = torch.zeros(1, 3, 32, 32).double()
    search = cpt_nas.attach(model, x, log_gamma=0.1, alpha=0.4, kappa=0.5)
    generator = torch.Generator().manual_seed(0)
    for gate in search.gates.values():
        gate.theta.data = torch.rand(len(gate), generator=generator).double()

    def value() -> torch.Tensor:
        total = search.regularizer.objective(search.costs(), search.regularizer.branch_sum())
        return search.log_gamma * total

    search.penalty().backward()
    h = 1e-5
    for gate in search.gates.values():
        before = float(gate.theta.data[0])
        gate.theta.data[0] = before + h
        up = float(value())
        gate.theta.data[0] = before - h
        down = float(value())
        gate.theta.data[0] = before
        # penalty() is float32 at its end: 1e-6 relative
        assert float(gate.theta.grad[0]) == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-9)


def test_eq_13_with_everything_open() -> None:
    """log gamma * L * (alpha + 1 - alpha) + log gamma * kappa * L."""
    search = attach(build("basic"), kappa=0.25, alpha=0.8)
    layers = 5
    assert float(search.penalty()) == pytest.approx(0.1 * layers * 1.25, rel=1e-6)


def test_log_gamma_ramps_from_zero() -> None:
    search = attach(build("basic"), warmup_steps=10, ramp_steps=20)
    levels = []
    for steps in (0, 10, 20, 30, 99):
        search.steps = steps
        levels.append(search.log_gamma)
    assert levels == pytest.approx([0, 0, 0.05, 0.1, 0.1])
