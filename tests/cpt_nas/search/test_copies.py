"""Copies of a model that is searched: averaged ones follow, all others stand on their own."""

from __future__ import annotations

import copy
import io
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

import cpt_nas
from tests.support.families import FAMILIES
from tests.support.loops import CLOSING, X, attach, close_half, network, sgd, steps

SCALED = ("xcit", "cait", "beit", "eva02", "eva_rope", "vit_layerscale_qknorm", "convnext", "swin")
"""Families whose blocks hold scales of their own, and two that do not."""


def saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize("way", [copy.deepcopy, saved_and_loaded])
@pytest.mark.parametrize("fold", [True, False])
def test_a_snapshot_gives_the_same_after_a_cut_and_after_the_end(way: Any, fold: bool) -> None:
    model = network()
    search, optimizer = attach(model, log_gamma=0.0, fold=fold), sgd(model)
    steps(2, model, search, optimizer)
    search.gates["layer1/0/act1"].theta.data[:3] = 0.2  # closed, and not cut
    snapshot = way(model)
    expected = model.eval()(X)
    close_half(search, ["layer2.1"])
    for change in (search.cut, search.finish):
        assert change()
        assert torch.equal(snapshot.eval()(X), expected)
        again = copy.deepcopy(snapshot)
        assert torch.equal(again(X), expected)
        again.train()(X).sum().backward()
    assert not torch.equal(model.eval()(X), expected)


@pytest.mark.parametrize("family", SCALED)
def test_an_averaged_copy_loses_its_branches_alike(family: str) -> None:
    name, kwargs, size = FAMILIES[family]
    torch.manual_seed(0)
    kwargs = {"num_classes": 5, **kwargs}
    model = timm.create_model(name, **kwargs)
    x = torch.randn(2, 3, size, size)
    search = cpt_nas.attach(model, x[:1], log_gamma=0.0, model_kwargs=kwargs)
    ema = ModelEmaV3(model, decay=0.5)
    branches = [n for n in search.gated.branches if search.gated.gate(n) is not None]
    (model(x).sum() + search.penalty()).backward()
    search.step(sgd(model), ema)
    close_half(search, branches[:2])
    assert search.cut()
    ema.update(model)
    before = ema.module.eval()(x)
    search.finish()
    assert torch.allclose(ema.module(x), before, rtol=1e-4, atol=1e-5)  # float32
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (model, ema.module)]
    assert shapes[0] == shapes[1]
    assert not [m for m in ema.module.modules() if m._forward_pre_hooks]


def averaged(kind: str, model: nn.Module) -> Any:
    if kind == "before attach":
        return SimpleNamespace(module=copy.deepcopy(model))
    made = {"timm": lambda: ModelEmaV3(model, decay=0.5), "torch": lambda: AveragedModel(model)}
    return [m() for m in made.values()] if kind == "both" else made[kind]()


@pytest.mark.parametrize("kind", ["timm", "torch", "both", "before attach"])
def test_every_kind_of_averaged_copy_shows_what_is_decided_and_follows(kind: str) -> None:
    model = network()
    early = averaged(kind, model) if kind == "before attach" else None
    search, optimizer = attach(model, **CLOSING), sgd(model)
    ema = early or averaged(kind, model)
    copies = ema if isinstance(ema, list) else [ema]
    steps(1, model, search, optimizer, ema=ema)
    search.gates["layer1/0/act1"].theta.data[:3] = 0.2
    for each in copies:
        each.module.load_state_dict(model.state_dict())
        assert torch.equal(each.module.eval()(X), model.eval()(X))
    model.train()
    steps(24, model, search, optimizer, ema=ema)
    search.finish()
    for each in copies:
        each.module.load_state_dict(model.state_dict())
        assert torch.equal(each.module.eval()(X), model.eval()(X))
        model.train()


@pytest.mark.parametrize(
    ("ema", "message"),
    [
        ("x", "ema: a str has no .module"),
        (nn.Linear(1, 1), "ema: a Linear has no .module"),
        (SimpleNamespace(module=3), "has no .module"),
        (SimpleNamespace(module=nn.Sequential(network())), "is no copy of the searched model"),
    ],
)
def test_what_is_no_averaged_copy_is_refused(ema: Any, message: str) -> None:
    model = network()
    search = attach(model)
    with pytest.raises(ValueError, match=message) as caught:
        steps(1, model, search, sgd(model), ema=ema)
    assert "\n" not in str(caught.value) and search.steps == 0


def test_a_cut_is_all_or_nothing() -> None:
    """A copy that has lost a layer cannot follow; then nothing is cut."""
    model = network()
    search, optimizer, ema = attach(model), sgd(model), ModelEmaV3(model)
    steps(1, model, search, optimizer, ema=ema)
    ema.module.fc = nn.Identity()
    close_half(search, ["layer2.1"])
    before = search.structure(), [p.shape for p in model.parameters()], len(search.gates)
    for change in (search.cut, search.finish):
        with pytest.raises(ValueError, match=r"ema: its module is no copy .* fc\.weight"):
            change()
        after = search.structure(), [p.shape for p in model.parameters()], len(search.gates)
        assert after == before and not search.frozen and not search.removed
    steps(1, model, search, optimizer)


def test_a_copy_that_was_not_told_of_a_cut_is_refused_before_the_next() -> None:
    model = network()
    search, optimizer, ema = attach(model), sgd(model), ModelEmaV3(model)
    steps(1, model, search, optimizer)
    close_half(search)
    search.cut()
    with pytest.raises(ValueError, match=r"ema: .* It must be given at every step"):
        search.finish(optimizer, ema)
    assert not search.frozen
