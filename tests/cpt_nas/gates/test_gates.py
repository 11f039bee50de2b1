"""The gates alone: estimators against a known function."""

from __future__ import annotations

import pytest
import torch

from cpt_nas.gates.bernoulli import ENDPOINT_FLOOR, BernoulliGate, endpoint


def mean_gradient(estimator: str, theta: float, samples: int) -> torch.Tensor:
    """Mean gradient to theta of a quadratic C(z) = 3 z^2 - z, whose C(1) - C(0) is 2."""
    gate = BernoulliGate(samples, theta=theta, estimator=estimator)
    gate.sample(torch.rand(samples, generator=torch.Generator().manual_seed(0)))
    z = gate.value(training=True)
    (3 * z**2 - z).sum().backward()
    return gate.gradient(gate.slopes()).mean()


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
    on, off = endpoint(theta)
    assert [float(on[0]), float(off[1])] == pytest.approx([0.5 / ENDPOINT_FLOOR] * 2)


def quadratic(gate: BernoulliGate, uniform: torch.Tensor) -> None:
    gate.sample(uniform)
    gate.count()
    z = gate.value(training=True)
    (3 * z**2 - z).sum().backward()


@pytest.mark.parametrize("theta", [0.9, 0.98])
def test_the_benefit_is_the_difference_however_seldom_a_gate_is_off(theta: float) -> None:
    """C(1) - C(0) = 2, so being on makes it worse by 2; 400 samples of one gate."""
    gate = BernoulliGate(1, theta=theta)
    assert float(gate.importance()[0]) == 0.0
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        quadratic(gate, torch.rand(1, generator=generator))
        gate.remember(keep=0.99)
    importance, variance = gate.importance()
    assert float(importance) == pytest.approx(-2.0, abs=1e-5)
    assert float(variance) == pytest.approx(0.0, abs=1e-5)  # no sample differs from another
    straight = BernoulliGate(1, theta=theta, estimator="straight_through")
    straight.memory = gate.memory.clone()
    assert float(straight.importance()[0]) == pytest.approx(-(5 * theta - (1 - theta)), abs=1e-4)


def test_a_gate_that_was_never_off_is_judged_by_its_slope_at_1() -> None:
    gate = BernoulliGate(2)
    quadratic(gate, torch.tensor([0.5, 0.5]))
    gate.remember(keep=0.9)
    assert gate.importance()[0].tolist() == pytest.approx([-5.0, -5.0])


def test_a_unit_that_was_never_off_is_taken_to_be_as_the_others_were_then() -> None:
    gate = BernoulliGate(3, theta=0.5)
    quadratic(gate, torch.tensor([0.1, 0.1, 0.9]))  # on, on, off
    gate.remember(keep=1.0)
    quadratic(gate, torch.tensor([0.1, 0.9, 0.1]))
    gate.remember(keep=1.0)
    assert gate.memory[1].tolist() == [0, 1, 1]
    assert gate.importance()[0].tolist() == pytest.approx([-2.0, -2.0, -2.0])


def test_several_forwards_in_one_step_are_several_samples() -> None:
    gate = BernoulliGate(1, theta=0.5)
    for uniform in (0.1, 0.2, 0.9):  # on, on, off
        quadratic(gate, torch.tensor([uniform]))
    # Slopes: 5 at 1, -1 at 0; weights 1.
    assert float(gate.gradient(gate.slopes())) == pytest.approx(5 + 5 - 1)
    gate.remember(keep=0.9)
    assert gate.memory.flatten().tolist() == pytest.approx([2, 1, 10, -1, 50, 1])


@pytest.mark.parametrize("passes", [1, 2, 4, 8])
def test_what_has_no_noise_has_no_variance(passes: int) -> None:
    """The loss falls by exactly 1/passes with every unit that is on, in every pass of a step."""
    gate = BernoulliGate(6, theta=0.7)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        for _ in range(passes):
            gate.sample(torch.rand(6, generator=generator))
            gate.count()
            (-gate.value(training=True).sum() / passes).backward()
        gate.remember(keep=0.99)
    importance, variance = gate.importance()
    assert torch.allclose(importance, torch.full((6,), 1 / passes))
    assert float(variance.max()) < 1e-8


def test_the_variance_of_a_benefit_is_what_repeated_measurements_show() -> None:
    """500 gates alike, each measured 200 times under noise: spread of the benefits, and said."""
    gate = BernoulliGate(500, theta=0.7)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        gate.sample(torch.rand(500, generator=generator))
        gate.count()
        noise = torch.randn(500, generator=generator)
        (gate.value(training=True) * (noise - 1.0)).sum().backward()
        gate.remember(keep=1.0)
    importance, variance = gate.importance()
    assert float(importance.mean()) == pytest.approx(1.0, abs=0.02)
    assert float(variance.mean()) == pytest.approx(float(importance.var()), rel=0.2)


def test_units_are_not_judged_while_their_branch_is_off() -> None:
    branch, units = BernoulliGate(1, theta=0.5), BernoulliGate(2, theta=0.5)
    units.belongs_to(branch)
    for uniform in (0.9, 0.1):  # the branch is off, then on
        branch.sample(torch.tensor([uniform]))
        units.sample(torch.tensor([0.1, 0.9]))
        units.count()
        (branch.mask * units.value(training=True) * torch.tensor([1.0, 3.0])).sum().backward()
        units.remember(keep=1.0)
    assert units.memory[:2].tolist() == [[1, 0], [0, 1]]
    assert units.importance()[0].tolist() == pytest.approx([-2.0, -2.0])  # slopes 1 on, 3 off
    assert list(units.state_dict()) == list(branch.state_dict())  # no gate holds another


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


def test_an_unknown_estimator_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"estimator: 'reinforce' is not one of straight_through"):
        BernoulliGate(1, estimator="reinforce")
