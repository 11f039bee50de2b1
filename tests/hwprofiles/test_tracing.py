"""What trace() lists, and how it counts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
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
