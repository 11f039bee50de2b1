"""Weights of a file: read without code, matched by name or order, refused where they fit badly."""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from cpt_nas import load_weights
from cpt_nas.pruning.probe import shaken

KWARGS = {"layers": [1, 1, 1], "channels": [4, 8, 8]}


def small(**kwargs: Any) -> nn.Module:
    return timm.create_model("cpt_resnet20", **(KWARGS | kwargs))


def trained(**kwargs: Any) -> nn.Module:
    """A network whose every number differs from a fresh one's."""
    return shaken(small(**kwargs), torch.float32)


def saved(content: Any, folder: Path, name: str = "w.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def outputs(model: nn.Module, channels: int = 3) -> Tensor:
    x = torch.randn(2, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(x)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


LAYOUTS: dict[str, tuple[Callable[[dict], Any], str]] = {
    "bare": (lambda s: s, ""),
    "DDP": (lambda s: {"state_dict": prefixed(s, "module.")}, "state_dict"),
    "compiled": (lambda s: {"model": prefixed(s, "module._orig_mod."), "epoch": 3}, "model"),
    "timm's training script": (
        lambda s: {
            "state_dict": {n: t * 0 for n, t in s.items()},
            "state_dict_ema": s,
            "args": argparse.Namespace(lr=0.1),
        },
        "state_dict_ema",
    ),
    "no average": (lambda s: {"state_dict": s, "state_dict_ema": None}, "state_dict"),
    "averaged model": (
        lambda s: {"ema": prefixed(s, "module.") | {"n_averaged": torch.tensor(3)}},
        "ema",
    ),
    "nested": (lambda s: {"ema": {"state_dict": s}}, "ema.state_dict"),
    "half precision": (lambda s: {n: t.half() if t.dim() else t for n, t in s.items()}, ""),
    "old, without counters": (lambda s: {n: t for n, t in s.items() if t.dim()}, ""),
}


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_the_weights_are_found_whatever_is_around_them(name: str, tmp_path: Path) -> None:
    layout, entry = LAYOUTS[name]
    source = trained()
    model = small()
    loaded = load_weights(model, saved(layout(dict(source.state_dict())), tmp_path))
    tolerance = 1e-3 if name == "half precision" else 0.0  # a half has 11 bits
    theirs = dict(source.named_parameters())
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, theirs[key], rtol=tolerance, atol=tolerance)
    assert loaded.entry == entry and loaded.matched == "name"
    assert not loaded.missing and not loaded.unexpected and not loaded.new_head


def test_safetensors_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    source, model = trained(), small()
    save_file(dict(source.state_dict()), tmp_path / "w.bin")
    load_weights(model, tmp_path / "w.bin")
    assert torch.equal(outputs(model), outputs(source))


def test_a_head_of_other_classes_is_replaced_and_said_so(tmp_path: Path) -> None:
    source = trained()
    model = small(num_classes=3)
    before = model.fc.weight.clone()
    loaded = load_weights(model, saved(source.state_dict(), tmp_path))
    assert loaded.new_head and "the head is new" in loaded.line()
    assert torch.equal(model.fc.weight, before)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(
        model.eval().forward_features(x), source.eval().forward_features(x), rtol=0, atol=0
    )


def test_a_head_of_another_name_is_the_head(tmp_path: Path) -> None:
    """As in the published CIFAR ResNets, which call it linear."""
    source, model = trained(), small()
    state = {n.replace("fc.", "linear."): t for n, t in source.state_dict().items()}
    assert not load_weights(model, saved(state, tmp_path)).new_head
    assert torch.equal(outputs(model), outputs(source))


def test_the_first_convolution_follows_the_channels(tmp_path: Path) -> None:
    source, model = trained(), small(in_chans=1)
    loaded = load_weights(model, saved(source.state_dict(), tmp_path))
    assert loaded.adapted == ["conv1.weight"]
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        grey, colour = model.eval()(x), source.eval()(x.expand(-1, 3, -1, -1))
    torch.testing.assert_close(grey, colour, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 7}, {"in_chans": 1}])
def test_torchvisions_names_by_order_with_the_same_outputs(tmp_path: Path, kwargs: dict) -> None:
    source = shaken(torchvision.models.mobilenet_v2(num_classes=10), torch.float32)
    model = timm.create_model("mobilenetv2_100", **({"num_classes": 10} | kwargs))
    loaded = load_weights(model, saved(source.state_dict(), tmp_path))
    assert loaded.matched == "order" and "MobileNetV2" in loaded.verified_by
    assert loaded.new_head is ("num_classes" in kwargs)
    if not kwargs:
        x = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(x), source(x), rtol=1e-4, atol=1e-4)


def test_the_same_shapes_with_other_outputs_are_refused(tmp_path: Path) -> None:
    source = torchvision.models.mobilenet_v2(num_classes=10)
    model = timm.create_model("mobilenetv2_100", num_classes=10, act_layer="silu")
    with pytest.raises(ValueError, match="gives other outputs with these weights"):
        load_weights(model, saved(source.state_dict(), tmp_path))


def test_position_embeddings_are_resampled_by_timm(tmp_path: Path) -> None:
    kwargs = {"num_classes": 3, "depth": 1, "embed_dim": 24, "num_heads": 2, "patch_size": 8}
    source = timm.create_model("vit_tiny_patch16_224", img_size=32, **kwargs)
    model = timm.create_model("vit_tiny_patch16_224", img_size=48, **kwargs)
    loaded = load_weights(model, saved(source.state_dict(), tmp_path))
    assert loaded.matched == "timm" and not loaded.missing
    assert torch.equal(model.blocks[0].mlp.fc1.weight, source.blocks[0].mlp.fc1.weight)


def refused(model: nn.Module, file: Path) -> str:
    """The one line with which a file is refused; the model is as it was."""
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_weights(model, file, field="model.checkpoint")
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    line = str(caught.value)
    assert line.startswith(f"model.checkpoint: {file}") and "\n" not in line
    return line


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"layers": [2, 2, 2]}, "unexpected 30"),
        ({"channels": [4, 8, 16]}, "(layer3.0.conv1.weight is (16, 8, 3, 3), here (8, 8, 3, 3))"),
        ({"shortcut": "B"}, "unexpected 1"),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, theirs: dict, said: str) -> None:
    file = saved(small(**theirs).state_dict(), tmp_path)
    assert said in refused(small(), file)
    if "layers" in theirs:
        saved(small().state_dict(), tmp_path)
        assert "missing 30" in refused(small(**theirs), file)


def test_another_family_is_refused(tmp_path: Path) -> None:
    state = timm.create_model("test_efficientnet").state_dict()
    assert "missing" in refused(small(), saved(state, tmp_path))


def test_an_input_size_that_the_weights_cannot_take_is_refused(tmp_path: Path) -> None:
    """LeNet-5 flattens its last channels."""
    there, here = (timm.create_model("cpt_lenet5", img_size=side) for side in (28, 32))
    assert "another input size" in refused(here, saved(there.state_dict(), tmp_path))


class RunsCode:
    def __reduce__(self) -> Any:
        return os.system, ("echo never > /dev/null",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": RunsCode()}, "posix.system"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ([1, 2], "holds a list"),
        ({"epoch": 3}, "holds the entries epoch"),
        ({}, "holds the entries of nothing"),
        ({"conv1.weight": torch.ones(2), "fc": 3}, "'fc' is a int among weights"),
    ],
)
def test_what_holds_no_plain_weights_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    assert said in refused(small(), saved(content, tmp_path))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = dict(small().state_dict())
    state["conv1.weight"] = state["conv1.weight"] * float("nan")
    assert "conv1.weight holds values that are not finite" in refused(
        small(), saved(state, tmp_path)
    )


@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, kind: str) -> None:
    file, state = tmp_path / "w.pth", dict(small().state_dict())
    if kind == "safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
    whole = file.read_bytes()
    rng = random.Random(0)
    for end in (0, 1, 7, 100, *(rng.randrange(len(whole)) for _ in range(8)), len(whole) - 1):
        file.write_bytes(whole[:end])
        assert "damaged" in refused(small(), file)
    file.write_bytes(b"hello world" * 20)
    assert "damaged" in refused(small(), file)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "No such file" in refused(small(), tmp_path / "none.pth")
    assert "directory" in refused(small(), tmp_path)
