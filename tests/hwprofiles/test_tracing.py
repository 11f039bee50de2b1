"""What trace() lists, and how it counts."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from hwprofiles import build, trace
from hwprofiles.tracing import trace_all
from tests.support.hwprofiles_counts import fvcore_total

MODELS = ("test_resnet", "test_efficientnet", "test_vit", "test_convnext", "resnet18")


def model_and_input(name: str, batch_size: int = 2) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    size = 160 if "vit" in name else 64
    return timm.create_model(name), torch.rand(batch_size, 3, size, size)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_macs_sum_to_fvcores_total(name: str) -> None:
    model, x = model_and_input(name)
    specs = trace(model, x)
    assert sum(s.macs for s in specs) == fvcore_total(model, x[:1])


@pytest.mark.parametrize("name", ("test_resnet", "test_efficientnet", "resnet18"))
def test_params_sum_to_the_models(name: str) -> None:
    model, x = model_and_input(name)
    assert sum(s.params for s in trace(model, x)) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ("resnet18", "test_efficientnet"))
def test_torchs_counter_is_twice_the_weight_layers_macs(name: str) -> None:
    model, x = model_and_input(name, batch_size=1)
    specs = trace(model, x)
    with FlopCounterMode(display=False) as counter:
        model.eval()(x)
    weight_macs = sum(s.macs for s in specs if s.type in ("conv2d", "linear"))
    assert counter.get_total_flops() == 2 * weight_macs


def test_names_types_and_forms(tiny: nn.Module) -> None:
    specs = trace(tiny, torch.rand(2, 3, 8, 8))
    assert [(s.name, s.type, s.form) for s in specs] == [
        ("stem", "conv2d", "dense"),
        ("conv1", "conv2d", "dense"),
        ("bn1", "batch_norm2d", "channel"),
        ("act", "relu", "channel"),
        ("conv2", "conv2d", "dense"),
        (":add", "add", "channel"),
        ("act#1", "relu", "channel"),
        ("pool", "adaptive_avg_pool2d", "channel"),
        ("fc", "linear", "dense"),
    ]
    assert trace_all(tiny, torch.rand(2, 3, 8, 8)).views == [":flatten"]


def test_the_signature_tells_layers_apart() -> None:
    base = nn.Conv2d(8, 8, 3, padding=1)
    others = [
        nn.Conv2d(8, 4, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.Conv2d(8, 8, 3, padding=1, stride=2),
        nn.Conv2d(8, 8, 5, padding=2),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.Conv2d(8, 8, 3),
    ]
    x = torch.rand(2, 8, 9, 9)
    signatures = [trace(m, x)[0].signature for m in [base, *others]]
    signatures.append(trace(base, torch.rand(2, 8, 10, 9))[0].signature)
    assert len(set(signatures)) == len(signatures)


@pytest.mark.parametrize("name", ("test_resnet", "test_vit"))
def test_signatures_do_not_depend_on_the_batch(name: str) -> None:
    model, x = model_and_input(name, batch_size=3)
    assert trace(model, x) == trace(model, x[:1])


def test_the_model_is_left_as_it_was(tiny: nn.Module) -> None:
    calls: list[int] = []
    tiny.conv1.register_forward_hook(lambda *_: calls.append(1))
    tiny.train()
    tiny.bn1.eval()
    before = copy.deepcopy(tiny.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trace(tiny, torch.zeros(2, 3, 8, 8))
    assert torch.equal(torch.rand(3), expected)
    assert tiny.training and not tiny.bn1.training
    assert len(tiny.conv1._forward_hooks) == 1 and not tiny.stem._forward_hooks
    assert calls == [1]
    for key, value in tiny.state_dict().items():
        assert torch.equal(value, before[key])


def test_hooks_and_mode_are_restored_after_an_error(tiny: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        trace(tiny.train(), torch.rand(2, 5, 8, 8))
    assert tiny.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny.modules())


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
