"""A model is compared with what timm makes of its name and arguments, before anything trains."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import cpt_nas
from cpt_nas.pruning.export import export
from cpt_nas.pruning.origin import difference
from tests.support.searches import close_some

Edit = Callable[[nn.Module], object]
SMALL = {"num_classes": 4, "img_size": 32}


def no_maxpool(model: nn.Module) -> None:
    model.maxpool = nn.Identity()


def small_stem(model: nn.Module) -> None:
    model.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)


def leaky(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.ReLU):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.LeakyReLU(0.2))


def pooled(model: nn.Module) -> None:
    model.reset_classifier(4, "max")


def more_classes(model: nn.Module) -> None:
    model.reset_classifier(7)


def scaled(model: nn.Module) -> None:
    """An attribute that no module and no tensor shows."""
    model.global_pool = "avg"


# name, how it is made, what is told of it, an edit, what is said
CASES = {
    "maxpool": ("test_resnet", {}, {}, no_maxpool, "maxpool is Identity, there MaxPool2d"),
    "stem": ("test_resnet", {}, {}, small_stem, "conv1"),
    "activation": ("test_resnet", {}, {}, leaky, "LeakyReLU, there ReLU"),
    "pool": ("test_resnet", {"num_classes": 4}, {"num_classes": 4}, pooled, "MaxPool2d, there"),
    "head": ("test_resnet", {"num_classes": 4}, {"num_classes": 4}, more_classes, "(7, "),
    "act_layer": ("test_resnet", {"act_layer": "silu"}, {}, None, "SiLU, there ReLU"),
    "num_classes": ("test_resnet", {"num_classes": 4}, {}, None, "fc.weight is (4, "),
    "in_chans": ("test_resnet", {"in_chans": 1}, {}, None, "conv1"),
    "attribute": ("test_vit", SMALL, SMALL, scaled, "its output is not"),
    "class": ("test_resnet", {"act_layer": nn.SiLU}, {"act_layer": nn.SiLU}, None, "no file holds"),
    "features": ("test_resnet", {"features_only": True}, None, None, "a feature extractor"),
    "unknown": ("test_resnet", {}, {"no_such": 1}, None, "no_such"),
}


def attach(model: nn.Module, told: dict | None, channels: int = 3) -> cpt_nas.Search:
    x = torch.zeros(1, channels, 32, 32)
    return cpt_nas.attach(model, x, model_kwargs=told)


@pytest.mark.parametrize("case", CASES)
def test_what_differs_is_said_at_attach_and_not_exported(case: str, tmp_path: Path) -> None:
    name, kwargs, told, edit, said = CASES[case]
    model = timm.create_model(name, **kwargs)
    if edit is not None:
        edit(model)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.warns(UserWarning, match="no exported folder") as told_of:
        search = attach(model, told, kwargs.get("in_chans", 3))
    assert said in str(told_of[0].message)
    assert all(torch.equal(t, before[n]) for n, t in search.finish().state_dict().items())
    structure = search.structure()
    json.dumps(structure.model_dump())
    with pytest.raises(ValueError, match=r"^structure: .* can be saved"):
        export(structure, model.state_dict(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"^structure: "):
        timm.create_model("cpt_pruned", base=name, structure=structure.model_dump())


@pytest.mark.parametrize("told", [None, {"num_classes": 4, "act_layer": "silu"}])
def test_what_timm_makes_again_is_not_spoken_of(told: dict | None, tmp_path: Path) -> None:
    """Without arguments, those that timm remembers are taken."""
    model = timm.create_model("test_resnet", num_classes=4, act_layer="silu")
    state = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search = attach(model, told)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert search.structure().model_kwargs == {"num_classes": 4, "act_layer": "silu"}
    close_some(search, seed=0)
    model = search.finish().eval()
    folder = export(search.structure(), model.state_dict(), tmp_path / "out")
    back = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(back(x), model(x))


def test_where_weights_come_from_is_left_out_with_a_line() -> None:
    told = {"num_classes": 4, "pretrained": True, "pretrained_cfg_overlay": {"file": "x.pth"}}
    with pytest.warns(UserWarning, match="pretrained, pretrained_cfg_overlay: where weights"):
        search = attach(timm.create_model("test_resnet", num_classes=4), told)
    assert search.structure().model_kwargs == {"num_classes": 4}
    assert search.structure().differs == ""


def test_scales_near_zero_hide_no_difference() -> None:
    """Freshly made, both would put out the same: the branches are all but gone."""
    model = timm.create_model("test_resnet", zero_init_last=True)
    model.layer2[0].act1 = nn.Sequential(nn.ReLU(), nn.Identity())
    x = torch.zeros(1, 3, 32, 32)
    assert difference(model, "test_resnet", {"zero_init_last": True}, x)


def test_an_input_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"^example_input: \(1, 4, 32, 32\) does not fit"):
        attach(timm.create_model("test_resnet"), None, channels=4)


def test_a_network_of_ones_own_is_cut_from_itself(tmp_path: Path) -> None:
    """What is said of it and saved is enough: its structure and its weights."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        body = timm.create_model("test_resnet", num_classes=0)
        return nn.Sequential(body, nn.Linear(body.num_features, 16), nn.ReLU(), nn.Linear(16, 3))

    with pytest.warns(UserWarning, match="Sequential is not made by timm under a name"):
        search = attach(make(), None)
    close_some(search, seed=1)
    model = search.finish().eval()
    search.structure().save(tmp_path / "found.json")
    again = cpt_nas.cut_to(make(), cpt_nas.load_structure(tmp_path / "found.json")).eval()
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))
