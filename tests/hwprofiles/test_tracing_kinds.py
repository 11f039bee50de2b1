"""Modules and functions of unusual kinds: called by keyword, taken apart, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import CondConv2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hwprofiles import build, trace
from tests.support import families  # noqa: F401  registers cpt_tiny_*
from tests.support.hwprofiles_counts import fvcore_total


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(input=self.conv(input=x).mean((2, 3)))


def test_modules_called_by_keyword() -> None:
    specs = trace(ByName(), torch.rand(1, 3, 8, 8))
    assert [s.name for s in specs] == ["conv", ":mean", "fc"]
    assert specs[0].macs == 8 * 3 * 9 * 36 and specs[2].macs == 80


class ByNameFunctions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.fc = nn.Parameter(torch.rand(8, 3, 3, 3)), nn.Parameter(torch.rand(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(weight=self.weight, input=x, padding=1)
        return F.linear(weight=self.fc, input=F.relu(input=x).mean(dim=(2, 3)))


def test_functions_called_by_keyword() -> None:
    specs = trace(ByNameFunctions(), torch.rand(2, 3, 8, 8))
    assert [(s.type, s.form, s.macs) for s in specs if s.macs] == [
        ("conv2d", "dense", 8 * 3 * 9 * 64),
        ("linear", "dense", 32),
    ]


class PerBatch(nn.Module):
    """Compares the examples with each other, in a layer or by running one layer an example."""

    def __init__(self, mixing: str) -> None:
        super().__init__()
        self.mixing, self.fc = mixing, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.mixing == "one more":
            return self.fc(torch.cat([x, x[:1]]))
        if self.mixing == "a call an example":
            return torch.stack([self.fc(one) for one in x])
        pairs = (x[:, None] - x[None]).reshape(len(x) ** 2, 4)
        return self.fc(pairs)


@pytest.mark.parametrize("mixing", ("one more", "a call an example", "pairs"))
def test_layers_that_mix_examples_are_refused(mixing: str) -> None:
    model = PerBatch(mixing).train()
    with pytest.raises(ValueError, match="not called example by example") as caught:
        trace(model, torch.rand(2, 4))
    assert "\n" not in str(caught.value)
    assert model.training and not model.fc._forward_hooks


class Factorised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.cholesky(x @ x.transpose(1, 2) + torch.eye(4))


def test_a_layer_that_does_not_run_alone_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"layer :\w*cholesky does not run alone") as caught:
        trace(Factorised(), torch.rand(2, 4, 4))
    assert "\n" not in str(caught.value)


def test_compiled_modules_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), torch.jit.trace(nn.Linear(4, 4), torch.rand(1, 4)))
    with pytest.raises(ValueError, match=r"model: 1 is compiled by torch\.jit"):
        trace(model, torch.rand(1, 4))


def test_the_input_is_left_as_it_was() -> None:
    x = -torch.rand(2, 4)
    before = x.clone()
    trace(nn.ReLU(inplace=True), x)
    assert torch.equal(x, before)


class Resized(nn.Module):
    def __init__(self, mode: str, factor: int) -> None:
        super().__init__()
        self.mode, self.factor = mode, factor

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.factor, mode=self.mode)


def test_functions_with_other_arguments_or_outputs_have_other_signatures() -> None:
    x = torch.rand(2, 4, 8, 8)
    models = [Resized("nearest", 2), Resized("bilinear", 2), Resized("nearest", 4)]
    models += [nn.Softmax(1), nn.Softmax(2)]
    specs = [spec for model in models for spec in trace(model, x)]
    assert len({s.signature for s in specs}) == len(models)
    assert [s.macs for s in specs[:3]] == [fvcore_total(m, x[:1]) for m in models[:3]]


@pytest.mark.parametrize(
    ("module", "shape", "types"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (4, 8, 8), ["pad", "conv2d"]),
        (nn.BatchNorm2d(4, track_running_stats=False), (4, 8, 8), ["batch_norm"]),
        (nn.MaxPool2d(2, return_indices=True), (4, 8, 8), ["max_pool2d_with_indices"]),
    ],
)
def test_a_layer_with_an_unusual_setting_is_taken_apart(
    module: nn.Module, shape: tuple[int, ...], types: list[str]
) -> None:
    specs = trace(module, torch.rand(2, *shape))
    assert [s.type for s in specs] == types
    if not isinstance(module, nn.MaxPool2d):
        assert sum(s.macs for s in specs) == fvcore_total(module, torch.rand(1, *shape))


def test_a_forward_of_one_instance_is_taken_apart() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].forward = lambda x: F.softmax(x, dim=-1)
    assert [s.type for s in trace(model, torch.rand(2, 4))] == ["softmax"]


@pytest.mark.parametrize("example", ("swin", (3, 8, 8), torch.rand(0, 4), torch.tensor(1.0), None))
def test_an_example_that_is_none_is_refused(example: Any) -> None:
    with pytest.raises(ValueError, match=r"example_input: .*allowed is a tensor of examples"):
        trace(nn.Linear(4, 4), example)


class Mixture(nn.Module):
    """Weights of every example's own: the batch is laid out as groups of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.routing, self.conv = nn.Linear(4, 3), CondConv2d(4, 6, 3, num_experts=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, self.routing(x.mean((2, 3))).sigmoid())


def test_weights_of_every_examples_own() -> None:
    x = torch.rand(5, 4, 8, 8)
    specs = trace(Mixture(), x)
    spec = next(s for s in specs if s.type == "conv2d")
    assert spec.macs == 4 * 6 * 9 * 64 and not spec.scalable
    assert specs == trace(Mixture(), x[:1])
    assert sum(s.macs for s in specs) == fvcore_total(Mixture(), x[:1])
    for batch in (1, 3):
        function, given = build(spec, spec.in_channels, spec.out_channels, batch)
        assert given.shape == (1, 4 * batch, 8, 8) and function(given).shape == (1, 6 * batch, 8, 8)


class WithoutBatch(nn.Module):
    """One picture at a time: [C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv2d(3, 8, 3), nn.Parameter(torch.rand(3, 9, 9))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.table).mean()


def test_a_layer_that_sees_no_batch() -> None:
    spec = next(s for s in trace(WithoutBatch(), torch.rand(4, 5)) if s.type == "conv2d")
    assert (spec.in_channels, spec.out_channels) == (3, 8)
    assert spec.signature.startswith("conv2d(3->8, fixed 3x9x9, ")
    for batch in (1, 4):
        assert build(spec, 3, 8, batch)[1].shape == (3, 9, 9)


def test_double_precision(tiny: nn.Module) -> None:
    single = trace(tiny, torch.rand(2, 3, 8, 8))
    double = trace(tiny.double(), torch.rand(2, 3, 8, 8, dtype=torch.float64))
    assert [s.signature for s in double] == [s.signature for s in single]
    assert [s.activation_bytes for s in double] == [2 * s.activation_bytes for s in single]


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.ones(1))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.gate


def test_a_parametrized_layer_is_the_plain_layer(tiny: nn.Module) -> None:
    x = torch.rand(2, 3, 8, 8)
    plain = trace(tiny, x)
    parametrize.register_parametrization(tiny.conv1, "weight", Doubled())
    assert trace(tiny, x) == plain


def test_a_subclass_with_its_own_forward_is_taken_apart() -> None:
    specs = trace(Conv2dSame(4, 6, 3, stride=2), torch.rand(2, 4, 8, 8))
    assert [s.type for s in specs] == ["pad", "conv2d"]
    assert specs[1].form == "dense" and specs[1].params == 4 * 6 * 9 + 6


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(18, 12))
        self.gamma = nn.Parameter(torch.rand(18))
        self.norm = nn.LayerNorm(18)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.linear(x, self.weight))
        x += x * self.gamma
        return torch.softmax(x.reshape(len(x), -1, 18), dim=-1)


def test_functions_are_listed_counted_and_can_be_narrower() -> None:
    model, x = Functional(), torch.rand(2, 5, 12)
    specs = trace(model, x)
    assert [s.name for s in specs] == [":linear", "norm", ":mul", ":add", ":softmax"]
    assert sum(s.params for s in specs) == sum(p.numel() for p in model.parameters())
    for spec in specs[1:]:
        assert spec.scalable and spec.in_channels == 18
        function, given = build(spec, 6, 6, batch_size=4)
        assert given.shape == (4, 5, 6) and function(given).shape == (4, 5, 6)
    assert "inplace" in specs[3].signature and "inplace" not in specs[2].signature


class PaddedShortcut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))


def test_a_function_that_changes_the_channels_costs_a_constant() -> None:
    (spec,) = trace(PaddedShortcut(), torch.rand(2, 8, 6, 6))
    assert (spec.name, spec.in_channels, spec.out_channels) == (":pad", 8, 16)
    assert not spec.scalable


def test_repeated_work_in_place_stays_finite() -> None:
    for module, shape in ((nn.SiLU(inplace=True), (4, 3, 3)), (Functional(), (5, 12))):
        for spec in trace(module, torch.rand(2, *shape)):
            function, x = build(spec, spec.in_channels, spec.out_channels)
            for _ in range(200):
                assert torch.isfinite(function(x)).all()


def test_a_model_without_layers() -> None:
    with pytest.raises(ValueError, match="Identity: no layer"):
        trace(nn.Identity(), torch.rand(1, 3))


def test_dropout_and_identity_cost_nothing() -> None:
    model = nn.Sequential(
        nn.Linear(4, 4), nn.Identity(), nn.Dropout(0.5), timm.layers.DropPath(0.5)
    )
    assert [s.name for s in trace(model, torch.rand(2, 4))] == ["0"]
