"""Which widths are timed."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from hwprofiles import LayerSpec, build, trace
from hwprofiles.plan import plan_chains, sweep_widths


@pytest.fixture(scope="module")
def specs() -> list[LayerSpec]:
    return trace(timm.create_model("resnet18"), torch.rand(1, 3, 64, 64))


def test_the_first_chain_is_the_dense_network(specs: list[LayerSpec]) -> None:
    assert plan_chains(specs, 8)[0] == [(s.in_channels, s.out_channels) for s in specs]


@pytest.mark.parametrize("divisor", [1, 8, 16])
def test_other_widths_are_multiples_of_the_divisor(specs: list[LayerSpec], divisor: int) -> None:
    for widths in plan_chains(specs, divisor):
        for spec, (cin, cout) in zip(specs, widths, strict=True):
            assert cin == spec.in_channels or (cin % divisor == 0 and 0 < cin < spec.in_channels)
            assert cout == spec.out_channels or (
                cout % divisor == 0 and 0 < cout < spec.out_channels
            )


def test_every_dense_layer_is_timed_at_enough_widths_to_fit(specs: list[LayerSpec]) -> None:
    chains = plan_chains(specs, 8)
    for i, spec in enumerate(specs):
        sizes = {chain[i] for chain in chains}
        if spec.form == "dense" and min(spec.in_channels, spec.out_channels) >= 64:
            rows = torch.tensor([[1, i, o, i * o] for i, o in sizes], dtype=torch.float64)
            assert torch.linalg.matrix_rank(rows / rows.abs().amax(0)) == 4
            assert len(sizes) >= 6
        if spec.form == "channel":
            assert len(sizes) == 5


def test_hidden_widths_narrow_what_lies_between(specs: list[LayerSpec]) -> None:
    narrow = dict(zip([s.name for s in specs], plan_chains(specs, 8)[6], strict=True))
    assert narrow["layer1.0.conv1"] == (64, 32)
    assert narrow["layer1.0.bn1"] == narrow["layer1.0.act1"] == (32, 32)
    assert narrow["layer1.0.conv2"] == (32, 64)
    assert narrow["layer1.0.bn2"] == (64, 64)


def test_every_planned_layer_can_be_built() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.GroupNorm(6, 24),
        nn.Conv2d(24, 48, 3, groups=6),
        nn.ReLU(),
        nn.Conv2d(48, 10, 1),
    )
    specs = trace(model, torch.rand(1, 3, 8, 8))
    for divisor in (1, 4, 32):
        for widths in plan_chains(specs, divisor):
            for spec, (cin, cout) in zip(specs, widths, strict=True):
                function, x = build(spec, cin, cout)
                assert torch.isfinite(function(x)).all()


@pytest.mark.parametrize("channels", [16, 32, 64, 256, 512, 2048])
def test_sweeps_hold_the_multiples_that_a_divisor_is_judged_by(channels: int) -> None:
    widths = sweep_widths(channels)
    assert widths == sorted(set(widths)) and widths[-1] == channels
    assert len(widths) <= 45
    step = 16 if channels > 32 else 4
    pairs = [(w, -(-w // step) * step) for w in widths]
    assert len({up for w, up in pairs if up in widths and up > w}) >= 2
