"""Fits on made-up times."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hwprofiles import trace
from hwprofiles.fit import (
    Point,
    find_channel_divisor,
    fit_layer,
    fit_scale,
    fit_weights,
    relative_nnls,
    weight_layers,
)
from hwprofiles.layers import Coefficients


def points(truth: Coefficients, ins: list[int], outs: list[int]) -> list[Point]:
    return [Point(i, o, truth.at(i, o)) for i in ins for o in outs]


def test_exact_times_give_exact_coefficients() -> None:
    truth = Coefficients(1e-5, 2e-7, 3e-7, 4e-9)
    fit = fit_layer(points(truth, [8, 32, 64], [16, 32, 64]), "dense", (64, 64))
    c = fit.coefficients
    assert [c.const, c.per_in, c.per_out, c.per_in_out] == pytest.approx(
        [truth.const, truth.per_in, truth.per_out, truth.per_in_out], rel=1e-6
    )
    assert fit.error < 1e-6


def test_a_width_that_never_varied_gets_no_coefficient() -> None:
    truth = Coefficients(1e-5, 2e-7, 3e-7, 4e-9)
    c = fit_layer(points(truth, [3], [16, 32, 64]), "dense", (3, 64)).coefficients
    assert c.per_in == c.per_in_out == 0
    assert c.at(3, 48) == pytest.approx(truth.at(3, 48))
    constant = fit_layer([Point(8, 16, 2e-5)], "channel", (8, 16)).coefficients
    assert constant == Coefficients(pytest.approx(2e-5))


def test_channel_form_has_one_slope() -> None:
    samples = [Point(c, 2 * c, 1e-6 + 1e-8 * c) for c in (4, 8, 16)]
    c = fit_layer(samples, "channel", (16, 32)).coefficients
    assert (c.per_out, c.per_in_out) == (0, 0)
    assert (c.const, c.per_in) == pytest.approx((1e-6, 1e-8))


def test_coefficients_are_never_negative() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        samples = [Point(i, o, rng.uniform(1e-6, 1e-3)) for i in (4, 8, 16) for o in (4, 8, 16)]
        c = fit_layer(samples, "dense", (16, 16)).coefficients
        assert min(c.const, c.per_in, c.per_out, c.per_in_out) >= 0


def test_small_times_count_as_much_as_large_ones() -> None:
    # No constant fits 1 and 100; the relative error is least near the small one.
    x = relative_nnls(np.ones((2, 1)), np.array([1.0, 100.0]))
    assert x[0] == pytest.approx((1 + 0.01) / (1 + 0.0001))


def staircase(channels: int, divisor: int, widths: range) -> dict[int, float]:
    return {w: 1e-5 + 1e-6 * (-(-w // divisor) * divisor) for w in widths if w <= channels}


@pytest.mark.parametrize("divisor", [1, 4, 8, 16])
def test_the_divisor_of_a_staircase_is_found(divisor: int) -> None:
    rng = np.random.default_rng(1)
    clean = [staircase(64, divisor, range(32, 65)), staircase(128, divisor, range(64, 129))]
    noisy = [{w: t * rng.normal(1, 0.01) for w, t in sweep.items()} for sweep in clean]
    assert find_channel_divisor(clean) == divisor
    assert find_channel_divisor(noisy) == divisor


def test_what_is_coarser_than_blocks_has_to_be_seen_twice() -> None:
    one = staircase(192, 64, range(64, 193))
    assert find_channel_divisor([one]) == 16
    assert find_channel_divisor([one, staircase(256, 64, range(64, 257))]) == 64


def test_no_sweep_means_no_divisor() -> None:
    assert find_channel_divisor([]) == 1
    assert find_channel_divisor([{16: 1e-5}]) == 1


def test_faster_at_multiples_is_a_divisor_too() -> None:
    # A library that is slow off the grid: not a staircase, but rounding up pays all the more.
    sweep = {w: (1e-5 + 1e-6 * w) * (1 if w % 8 == 0 else 1.5) for w in range(32, 65)}
    assert find_channel_divisor([sweep]) == 8


def network() -> nn.Module:
    def layer(cin: int, cout: int) -> list[nn.Module]:
        return [nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]

    return nn.Sequential(*layer(8, 16), nn.MaxPool2d(2), *layer(16, 64), *layer(64, 64))


def test_a_layer_takes_what_follows_it_along() -> None:
    specs = trace(network(), torch.rand(1, 8, 16, 16))
    groups = weight_layers(specs)
    assert [[s.type for s in g] for g in groups] == [
        ["conv2d", "batch_norm2d", "relu", "max_pool2d"],
        ["conv2d", "batch_norm2d", "relu"],
        ["conv2d", "batch_norm2d", "relu"],
    ]


def test_the_three_weights_are_recovered() -> None:
    specs = trace(network(), torch.rand(1, 8, 16, 16))
    per_layer, per_mac, per_byte = 2e-5, 1e-11, 4e-10
    costs: dict[str, Coefficients] = {}
    for spec in specs:
        macs, params = spec.macs_coefficients, spec.params_coefficients
        scaled = [
            per_mac * m + 4 * per_byte * p
            for m, p in zip(
                (macs.const, macs.per_in, macs.per_out, macs.per_in_out),
                (params.const, params.per_in, params.per_out, params.per_in_out),
            )
        ]
        scaled[0] += per_layer if spec.type == "conv2d" else 0
        costs[spec.signature] = Coefficients(*scaled)
    fit = fit_weights([specs], costs, bytes_per_param=4)
    assert fit.seconds_per_layer == pytest.approx(per_layer, rel=1e-6)
    assert fit.seconds_per_mac == pytest.approx(per_mac, rel=1e-6)
    assert fit.seconds_per_param_byte == pytest.approx(per_byte, rel=1e-6)
    # equations.md: shares of the dense latency, alpha and kappa from them.
    macs, params = sum(s.macs for s in specs), sum(s.params for s in specs)
    c0, cf, cp = 3 * per_layer, per_mac * macs, per_byte * 4 * params
    total = c0 + cf + cp
    assert fit.shares == pytest.approx((c0 / total, cf / total, cp / total))
    assert fit.alpha == pytest.approx(cf / (cf + cp))
    assert fit.kappa == pytest.approx(c0 / (cf + cp))


def test_where_only_layers_cost_kappa_stays_finite() -> None:
    specs = trace(network(), torch.rand(1, 8, 16, 16))
    costs = {s.signature: Coefficients(1e-5 if s.type == "conv2d" else 0.0) for s in specs}
    fit = fit_weights([specs], costs, bytes_per_param=4)
    assert fit.kappa == pytest.approx(1000) and 0 <= fit.alpha <= 1


def test_scale_of_one_network_is_exact() -> None:
    assert fit_scale([3.0], [2.0]) == pytest.approx(1.5)
    assert fit_scale([3.0, 3.0], [2.0, 3.0]) == pytest.approx(1.2, abs=0.05)
