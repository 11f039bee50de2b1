"""What trace() lists, and how it counts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import CondConv2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from hwprofiles import build, trace
from hwprofiles.tracing import trace_all
from tests.support import families  # noqa: F401  registers cpt_tiny_*
from tests.support.counted_models import MODELS as COUNTED
from tests.support.hwprofiles_counts import attention_total, fvcore_total

MODELS = ("test_resnet", "test_efficientnet", "test_vit", "test_convnext", "resnet18")
SWIN = {"embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4]}
SWIN |= {"img_size": 32, "patch_size": 2, "window_size": 4}
LEVIT = {"img_size": 64, "embed_dim": [16, 16, 32], "num_heads": [2, 2, 4], "depth": [1, 1, 1]}
DAVIT = {"depths": (1, 1), "embed_dims": (24, 48), "num_heads": (3, 6)}
# The first dimension is not the batch: windows, grids, patches, and sequences come first.
FOLDED: dict[str, tuple[str, dict[str, Any], int]] = {
    "swin": ("swin_tiny_patch4_window7_224", SWIN, 32),
    "swinv2": ("swinv2_tiny_window8_256", SWIN, 32),
    "mobilevit": ("mobilevit_xxs", {}, 64),
    "maxvit": ("test_maxvit", {"img_size": 64}, 64),
    "botnet": ("cpt_tiny_byob_attention", {"img_size": 64}, 64),
    "davit": ("davit_tiny", DAVIT, 64),
    "tiny_vit": ("cpt_tiny_tinyvit", {}, 64),
    "levit": ("levit_128s", LEVIT, 64),
}
LARGER = ("mobilevit", "maxvit", "davit")
FOLDED_CASES = [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGER)) for n in FOLDED]


def model_and_input(name: str, batch_size: int = 2) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if name in FOLDED:
        name, kwargs, size = FOLDED[name]
        return timm.create_model(name, **kwargs), torch.rand(batch_size, 3, size, size)
    size = 160 if "vit" in name else 64
    return timm.create_model(name), torch.rand(batch_size, 3, size, size)


@pytest.mark.parametrize("name", (*MODELS, *FOLDED))
@pytest.mark.filterwarnings("ignore")
def test_macs_sum_to_fvcores_total_and_attention(name: str) -> None:
    model, x = model_and_input(name)
    specs = trace(model, x)
    expected = fvcore_total(model, x[:1]) + attention_total(model, x[:1])
    assert sum(s.macs for s in specs) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COUNTED)
def test_macs_of_sixty_models(name: str) -> None:
    model = timm.create_model(name)
    x = torch.rand(1, *model.pretrained_cfg["input_size"])
    expected = fvcore_total(model, x) + attention_total(model, x)
    assert sum(s.macs for s in trace(model, x)) == expected


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


@pytest.mark.parametrize("name", ("test_resnet", "test_vit", *FOLDED_CASES))
def test_nothing_depends_on_the_batch(name: str) -> None:
    model, x = model_and_input(name, batch_size=8)
    first, *others = (trace(model, x[:b]) for b in (1, 2, 3, 5, 8))
    assert all(other == first for other in others)


def shapes_of_modules(model: nn.Module, x: Tensor) -> dict[str, tuple[int, ...]]:
    """What comes into each module without children, by name; of several calls the first."""
    seen: dict[str, tuple[int, ...]] = {}
    hooks = [
        m.register_forward_pre_hook(lambda _, args, n=n: seen.setdefault(n, args[0].shape) and None)
        for n, m in model.named_modules()
        if not list(m.children())
    ]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("batch", (1, 4))
@pytest.mark.parametrize("name", ("test_vit", *FOLDED_CASES))
def test_layers_run_alone_on_the_shapes_that_they_run_on(name: str, batch: int) -> None:
    model, x = model_and_input(name, batch_size=batch)
    seen = shapes_of_modules(model, x)
    compared = 0
    for spec in trace(model, x):
        function, given = build(spec, spec.in_channels, spec.out_channels, batch)
        function(given)
        if spec.name in seen:
            assert given.shape == seen[spec.name], spec.name
            compared += 1
    assert compared > 9


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


def test_caches_that_fill_in_eval_mode_are_left_as_they_were() -> None:
    """LeViT keeps its attention biases; one kept from before a training would be wrong after it."""
    model, x = model_and_input("levit")
    model.train()
    trace(model, x)
    assert not any(getattr(m, "attention_bias_cache", None) for m in model.modules())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("attention_biases"):
                parameter += 1 + torch.rand_like(parameter)
    with torch.no_grad():
        expected = copy.deepcopy(model).train().eval()(x)
        assert torch.equal(model.eval()(x), expected)


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
    assert calls == [1, 1]  # once at each batch size
    for key, value in tiny.state_dict().items():
        assert torch.equal(value, before[key])


def test_hooks_and_mode_are_restored_after_an_error(tiny: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"model, on 2 examples of shape \(5, 8, 8\): Runtime"):
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
