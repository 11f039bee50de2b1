"""The gates alone: estimators against a known function, folding against multiplying."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from cpt_nas.gates import ENDPOINT_FLOOR, BernoulliGate, Fold, Multiply, endpoint


def mean_gradient(estimator: str, theta: float, samples: int) -> torch.Tensor:
    """Mean gradient to theta of a quadratic C(z) = 3 z^2 - z, whose C(1) - C(0) is 2."""
    gate = BernoulliGate(samples, theta=theta, estimator=estimator)
    gate.sample(torch.rand(samples, generator=torch.Generator().manual_seed(0)))
    z = gate.value(training=True)
    (3 * z**2 - z).sum().backward()
    assert gate.theta.grad is not None
    return gate.theta.grad.mean()


@pytest.mark.parametrize("theta", [0.1, 0.5, 0.9])
def test_endpoint_mean_is_the_exact_difference_of_a_quadratic(theta: float) -> None:
    # Slopes: 5 at 1, -1 at 0; weights 1/(2 theta), 1/(2 (1-theta)). 200k samples: 3 sigma < 0.06.
    assert mean_gradient("endpoint", theta, 200_000) == pytest.approx(2.0, abs=0.06)


@pytest.mark.parametrize("theta", [0.1, 0.9])
def test_straight_through_mean_is_not(theta: float) -> None:
    expected = 5 * theta - (1 - theta)  # the slopes averaged theta : (1 - theta)
    mean = mean_gradient("straight_through", theta, 200_000)
    assert mean == pytest.approx(expected, abs=0.06)
    assert abs(mean - 2.0) > 1


def test_endpoint_weights_stay_bounded_at_the_ends() -> None:
    theta = torch.tensor([0.0, 1.0])
    weights = endpoint(theta, torch.tensor([1.0, 0.0]))
    assert weights.tolist() == pytest.approx([0.5 / ENDPOINT_FLOOR] * 2)


def test_samples_follow_theta_and_eval_decides_at_one_half() -> None:
    gate = BernoulliGate(4)
    gate.theta.data = torch.tensor([0.0, 0.5, 0.51, 1.0])
    draws = torch.zeros(4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        gate.sample(torch.rand(4, generator=generator))
        draws += gate.mask
    assert draws[0] == 0
    assert draws[3] == 2000
    assert draws[1] / 2000 == pytest.approx(0.5, abs=0.05)
    assert gate.value(training=False).tolist() == [0, 0, 1, 1]


def test_project_brings_theta_back() -> None:
    gate = BernoulliGate(3)
    gate.theta.data = torch.tensor([-0.2, 0.4, 1.3])
    gate.project()
    assert gate.theta.tolist() == pytest.approx([0, 0.4, 1])


def test_folding_gives_the_output_and_every_gradient_of_multiplying() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).double()
    x = torch.randn(2, 3, 9, 9).double()
    results = []
    for fold in (True, False):
        model = copy.deepcopy(plain)
        gate = BernoulliGate(3, theta=0.6, estimator="straight_through").double()
        gate.sample(torch.tensor([0.1, 0.9, 0.2]))
        if fold:
            parametrize.register_parametrization(model[2], "weight", Fold(gate, 1, 2))
        else:
            model[1].register_forward_hook(Multiply(gate, 1, 2))
        out = model(x)
        out.square().sum().backward()
        weights = model[2].parametrizations.weight.original if fold else model[2].weight
        results.append((out, gate.theta.grad, model[0].weight.grad, weights.grad))
    for folded, multiplied in zip(*results, strict=True):
        # float64: sums in another order, nothing else
        assert torch.allclose(folded, multiplied, rtol=1e-12, atol=1e-12)
    # a closed unit gets a gradient too: it can reopen
    assert results[0][1][1] != 0


def test_a_copy_of_the_model_shares_the_live_gate() -> None:
    conv = nn.Conv2d(2, 2, 1, bias=False)
    gate = BernoulliGate(2)
    parametrize.register_parametrization(conv, "weight", Fold(gate, 1))
    clone = copy.deepcopy(conv).eval()
    gate.theta.data = torch.tensor([1.0, 0.0])
    assert clone.weight[:, 1].abs().sum() == 0
    assert clone.weight[:, 0].abs().sum() > 0


def test_an_unknown_estimator_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"estimator: 'reinforce' is not one of straight_through"):
        BernoulliGate(1, estimator="reinforce")
