"""A layer by itself: its counts are exact at every width, and it can be run there."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from hwprofiles import LayerSpec, build, trace
from tests.support.hwprofiles_counts import fvcore_total


def widths_of(spec: LayerSpec) -> list[tuple[int, int]]:
    def narrower(channels: int) -> int:
        step = spec.channel_multiple
        return max(step, channels // 3 // step * step)

    if spec.form == "channel":
        return [(narrower(spec.in_channels), spec.out_channels_at(narrower(spec.in_channels)))]
    ins, outs = narrower(spec.in_channels), narrower(spec.out_channels)
    return [(ins, spec.out_channels), (spec.in_channels, outs), (ins, outs)]


LAYERS = {
    "conv": (nn.Conv2d(12, 18, 3, stride=2, padding=1, bias=False), (12, 9, 9)),
    "conv with bias": (nn.Conv2d(12, 18, 5, dilation=2), (12, 11, 11)),
    "depthwise": (nn.Conv2d(12, 12, 3, groups=12), (12, 9, 9)),
    "depthwise, two filters a channel": (nn.Conv2d(12, 24, 3, groups=12, bias=False), (12, 9, 9)),
    "grouped": (nn.Conv2d(24, 48, 3, groups=6), (24, 9, 9)),
    "linear": (nn.Linear(12, 18), (12,)),
    "linear on tokens, no bias": (nn.Linear(12, 18, bias=False), (7, 12)),
    "batch norm": (nn.BatchNorm2d(12), (12, 5, 5)),
    "batch norm, not affine": (nn.BatchNorm2d(12, affine=False), (12, 5, 5)),
    "batch norm and activation": (timm.layers.BatchNormAct2d(12), (12, 5, 5)),
    "group norm and activation": (timm.layers.GroupNormAct(12, 4), (12, 5, 5)),
    "layer norm": (nn.LayerNorm(12), (7, 12)),
    "layer norm of pictures": (timm.layers.LayerNorm2d(12), (12, 5, 5)),
    "group norm": (nn.GroupNorm(4, 12), (12, 5, 5)),
    "activation": (nn.SiLU(inplace=True), (12, 5, 5)),
    "pool": (nn.MaxPool2d(3, stride=2), (12, 9, 9)),
    "average": (nn.AdaptiveAvgPool2d(1), (12, 9, 9)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_counts_are_exact_at_other_widths(name: str) -> None:
    module, shape = LAYERS[name]
    (spec,) = trace(copy.deepcopy(module), torch.rand(2, *shape))
    for cin, cout in widths_of(spec):
        narrow, x = build(spec, cin, cout, batch_size=2)
        assert isinstance(narrow, nn.Module)
        assert narrow(x).shape[0] == 2
        assert spec.params_coefficients.at(cin, cout) == sum(p.numel() for p in narrow.parameters())
        assert spec.macs_coefficients.at(cin, cout) == pytest.approx(
            fvcore_total(narrow, x[:1]), rel=1e-12
        )


@pytest.mark.parametrize("name", LAYERS)
def test_a_built_layer_computes_shapes_like_the_traced_one(name: str) -> None:
    module, shape = LAYERS[name]
    x = torch.rand(2, *shape)
    (spec,) = trace(copy.deepcopy(module), x)
    function, given = build(spec, spec.in_channels, spec.out_channels, batch_size=3)
    expected = copy.deepcopy(module).eval()(x.clone())
    assert given.shape == (3, *shape)
    assert function(given).shape == (3, *expected.shape[1:])
    assert spec.activation_bytes == expected.numel() // 2 * 4


def test_channels_last_and_dtype_are_used() -> None:
    (spec,) = trace(nn.Conv2d(4, 6, 3), torch.rand(2, 4, 8, 8))
    function, x = build(spec, 4, 6, 2, torch.bfloat16, channels_last=True)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert function(x).dtype == torch.bfloat16
    assert function(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("widths", [(10, 10), (0, 4), (3, 3)])
def test_widths_that_a_layer_cannot_have(widths: tuple[int, int]) -> None:
    (spec,) = trace(nn.Conv2d(16, 16, 3, groups=4), torch.rand(1, 16, 8, 8))
    with pytest.raises(ValueError, match="multiples of 4"):
        build(spec, *widths)
