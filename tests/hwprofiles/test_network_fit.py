"""Costs of layers from whole networks: what is found, and how far it holds."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hwprofiles import trace
from hwprofiles.candidates import Executed
from hwprofiles.fit import fit_weights
from hwprofiles.layers import Coefficients, LayerSpec
from hwprofiles.network_fit import FOLDS, fit_network_weights, fit_networks

Network = list[Executed]


class _Blocks(nn.Module):
    """Eight residual blocks at two sizes; each can go, each has an inner width."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(self._block(16, 16) for _ in range(4))
        self.down = nn.Conv2d(16, 32, 3, 2, 1)
        self.second = nn.ModuleList(self._block(32, 64) for _ in range(4))

    @staticmethod
    def _block(width: int, inner: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(width, inner, 3, padding=1), nn.ReLU(), nn.Conv2d(inner, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.first:
            x = x + block(x)
        x = self.down(x)
        for block in self.second:
            x = x + block(x)
        return x


SPECS = trace(_Blocks(), torch.zeros(1, 16, 16, 16))


def _networks(count: int, seed: int) -> list[Network]:
    rng = random.Random(seed)
    networks = []
    for i in range(count):
        network = []
        for block in [f"{s}.{i}" for s in ("first", "second") for i in range(4)]:
            share = 1.0 if i == 0 else rng.choice([0, 0.25, 0.5, 0.75, 1.0])
            for spec in (s for s in SPECS if block in s.name):
                inner = {".0": (1, share), ".1": (share, share), ".2": (share, 1)}
                a, b = next((v for k, v in inner.items() if spec.name.endswith(k)), (1, 1))
                if share:
                    network.append(
                        Executed(spec.signature, a * spec.in_channels, b * spec.out_channels)
                    )
        rest = [s for s in SPECS if not s.name.startswith(("first", "second"))]
        network += [Executed(s.signature, s.in_channels, s.out_channels) for s in rest]
        networks.append(network)
    return networks


def _seconds(networks: list[Network], cost: Callable[[LayerSpec, Executed], float]) -> list[float]:
    by_signature = {s.signature: s for s in SPECS}
    return [sum(cost(by_signature[e.signature], e) for e in network) for network in networks]


def _machine(seed: int) -> Callable[[LayerSpec, Executed], float]:
    """A device that charges each signature its own constant, and its own rates."""
    rng = random.Random(seed)
    rates = {s.signature: [rng.uniform(0, 1e-4) for _ in range(4)] for s in SPECS}

    def cost(spec: LayerSpec, e: Executed) -> float:
        u, v = e.in_channels / spec.in_channels, e.out_channels / spec.out_channels
        a, b, c, d = rates[spec.signature]
        return a + b * u + (c * v + d * u * v if spec.form == "dense" else 0.0)

    return cost


BY_SIGNATURE = {s.signature: s for s in SPECS}


def _errors(count: int, cost: Callable[[LayerSpec, Executed], float], noise: float) -> np.ndarray:
    rng = random.Random(5)
    fitted, unseen = _networks(count, 1), _networks(30, 2)
    seconds = [t * rng.gauss(1, noise) for t in _seconds(fitted, cost)]
    fit = fit_networks(BY_SIGNATURE, fitted, seconds)
    predicted = [
        sum(fit.coefficients[e.signature].at(e.in_channels, e.out_channels) for e in network)
        for network in unseen
    ]
    return np.abs(np.array(predicted) / _seconds(unseen, cost) - 1)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_multilinear_machine_is_found_from_its_networks(seed: int) -> None:
    assert _errors(60, _machine(seed), noise=0.0).mean() < 0.01


def test_noise_is_averaged_not_followed() -> None:
    errors = _errors(60, _machine(0), noise=0.03)
    assert errors.mean() < 0.02  # below what single readings are off


def test_padded_widths_are_met_on_average() -> None:
    """A device that computes 16 channels for 9 is no multilinear one."""

    def padded(spec: LayerSpec, e: Executed) -> float:
        up = [16 * np.ceil(w / 16) for w in (e.in_channels, e.out_channels)]
        return 1e-6 + 1e-9 * float(up[0] * up[1])

    assert _errors(80, padded, noise=0.0).mean() < 0.05


def test_few_networks_still_give_what_work_costs() -> None:
    """With fewer networks than unknowns the prior decides: so much a layer, a MAC and a byte."""

    def work(spec: LayerSpec, e: Executed) -> float:
        macs = spec.macs_coefficients.at(e.in_channels, e.out_channels)
        return 1e-5 + 1e-9 * macs

    assert _errors(12, work, noise=0.0).mean() < 0.03


def test_nothing_is_negative_and_the_left_out_error_is_that_of_unseen_networks() -> None:
    fitted = _networks(60, 3)
    rng = random.Random(1)
    seconds = [t * rng.gauss(1, 0.05) for t in _seconds(fitted, _machine(4))]
    fit = fit_networks(BY_SIGNATURE, fitted, seconds)
    for c in fit.coefficients.values():
        assert min(c.const, c.per_in, c.per_out, c.per_in_out) >= 0
    # Each is off by its own noise, 4 % on average, at the least.
    assert 0.03 < fit.left_out_error < 0.07 and fit.left_out_p95 > fit.left_out_error


def test_a_width_that_never_varies_has_no_coefficient() -> None:
    fitted = _networks(30, 1)
    fit = fit_networks(BY_SIGNATURE, fitted, _seconds(fitted, _machine(2)))
    (down,) = [s for s in SPECS if s.name == "down"]
    c = fit.coefficients[down.signature]
    assert c.const > 0 and (c.per_in, c.per_out, c.per_in_out) == (0, 0, 0)


def test_too_few_networks_are_refused() -> None:
    fitted = _networks(FOLDS - 1, 1)
    with pytest.raises(ValueError, match=r"networks: 9, allowed are 10 or more"):
        fit_networks(BY_SIGNATURE, fitted, [1.0] * len(fitted))


def _coarsely(spec: LayerSpec) -> Coefficients:
    """2e-5 s a layer, 1e-10 a multiply-add, 3e-10 a byte of parameters."""
    macs, params = spec.macs_coefficients, spec.params_coefficients
    per_layer = 2e-5 * (spec.type in ("conv2d", "linear"))
    return Coefficients(
        per_layer + 1e-10 * macs.const + 1.2e-9 * params.const,
        1e-10 * macs.per_in + 1.2e-9 * params.per_in,
        1e-10 * macs.per_out + 1.2e-9 * params.per_out,
        1e-10 * macs.per_in_out + 1.2e-9 * params.per_in_out,
    )


COARSE = {spec.signature: _coarsely(spec) for spec in SPECS}


def _coarse(networks: list[Network]) -> list[float]:
    """Seconds of networks that cost exactly that."""
    return _seconds(
        networks, lambda spec, e: COARSE[spec.signature].at(e.in_channels, e.out_channels)
    )


def test_weights_are_those_that_the_networks_were_charged() -> None:
    networks = _networks(40, 6)

    alone = fit_weights([SPECS], COARSE, 4)
    fit = fit_network_weights(BY_SIGNATURE, networks, _coarse(networks), alone, 4, dense=1)
    assert fit.seconds_per_layer == pytest.approx(2e-5, rel=1e-3)
    assert fit.seconds_per_mac == pytest.approx(1e-10, rel=1e-3)
    assert fit.seconds_per_param_byte == pytest.approx(3e-10, rel=1e-3)
    assert sum(fit.shares) == pytest.approx(1) and fit.error < 1e-3
    layers = sum(s.type in ("conv2d", "linear") for s in SPECS)
    whole = _coarse(networks[:1])[0]
    assert fit.shares[0] == pytest.approx(layers * 2e-5 / whole, rel=1e-2)


def test_weights_where_one_layer_costs_nothing() -> None:
    """As the fit to networks may say of a layer whose neighbour takes its cost."""
    networks = _networks(40, 6)

    def free(spec: LayerSpec, e: Executed) -> float:
        return 0.0 if spec.name == "down" else 1e-5

    costs = {s.signature: Coefficients(0.0 if s.name == "down" else 1e-5) for s in SPECS}
    alone = fit_weights([SPECS], costs, 4)
    fit = fit_network_weights(BY_SIGNATURE, networks, _seconds(networks, free), alone, 4, dense=1)
    assert np.isfinite([*fit.shares, fit.error, fit.kappa, fit.alpha]).all()


def test_the_share_of_parameters_is_not_that_of_noise() -> None:
    """Networks alone hardly tell multiply-adds from parameters: both go with the widths."""
    alone = fit_weights([SPECS], COARSE, 4)
    rng = np.random.default_rng(0)
    networks = _networks(11, 6)
    for _ in range(20):
        noisy = np.array(_coarse(networks)) * rng.normal(1.0, 0.02, len(networks))
        fit = fit_network_weights(BY_SIGNATURE, networks, list(noisy), alone, 4, dense=1)
        assert fit.alpha == pytest.approx(alone.alpha, abs=1e-3)
        assert fit.seconds_per_layer == pytest.approx(2e-5, rel=0.2)
