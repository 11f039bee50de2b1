"""The contract: open = plain; masked = cut = exported and reloaded; a step after a cut."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.utils import ModelEmaV3
from torch import nn

import cpt_nas
from cpt_nas.pruning.export import export
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import cut_to
from tests.support.networks import build, randomize
from tests.support.searches import attach, close, close_some, fix_masks


@pytest.mark.parametrize("fold", [True, False])
def test_open_gates_are_the_plain_model(case: str, images: torch.Tensor, fold: bool) -> None:
    model = build(case)
    for training in (False, True):
        plain = copy.deepcopy(model).train(training)
        gated = copy.deepcopy(model).train(training)
        search = attach(gated, fold=fold)
        a, b = plain(images), gated(images)
        assert close(b, a)
        a.square().sum().backward()
        b.square().sum().backward()
        grads = {n: p.grad for n, p in plain.named_parameters()}
        for name, parameter in gated.named_parameters():
            assert close(parameter.grad, grads[name])
        assert set(gated.state_dict()) == set(plain.state_dict())
        assert len(list(gated.parameters())) == len(grads)
        assert search.undecided() == 0


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_masked_is_cut(case: str, images: torch.Tensor, fold: bool, seed: int) -> None:
    masked, model = build(case), build(case)
    for network in (masked, model):
        search = attach(network, fold=fold)
        close_some(search, seed)
        fix_masks(search)
    cut_model = search.finish()
    assert type(cut_model) is type(build(case))
    assert not [n for n in cut_model.state_dict() if "parametrizations" in n]
    structure = search.structure()
    assert structure.branches_left < len(structure.branches)
    for training in (False, True):
        a = masked.train(training)(images)
        assert close(cut_model.train(training)(images), a)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_cut_is_exported_and_reloaded(shortcut: str, tmp_path) -> None:
    kwargs = {"shortcut": shortcut, "num_classes": 5, "in_chans": 1}
    torch.manual_seed(0)
    model = randomize(timm.create_model("cpt_resnet20", **kwargs))
    images = torch.randn(2, 1, 16, 16)
    search = cpt_nas.attach(model, images, model_kwargs=kwargs)
    close_some(search, 0)
    cut_model = search.finish().eval()
    expected = cut_model(images)
    folder = export(search.structure(), cut_model.state_dict(), tmp_path / "out")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors"}

    back = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(back(images), expected)
    assert type(back).__name__ == "CifarResNet"

    other_head = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7).eval()
    assert other_head(images).shape == (2, 7)
    assert torch.equal(other_head.forward_features(images), back.forward_features(images))

    features = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    maps = features(images)
    assert [f.shape[1] for f in maps] == features.feature_info.channels()
    assert torch.equal(maps[-1], back.forward_features(images))


def test_imagenet_resnets_export_too(tmp_path) -> None:
    model = timm.create_model("resnet10t", num_classes=3)
    images = torch.randn(1, 3, 64, 64)
    search = cpt_nas.attach(model, images, model_kwargs={"num_classes": 3})
    close_some(search, 1)
    cut_model = search.finish().eval()
    export(search.structure(), cut_model.state_dict(), tmp_path / "out")
    back = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert torch.equal(back(images), cut_model(images))
    assert type(back) is timm.models.ResNet


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
def test_a_step_after_a_cut_is_the_step_of_the_masked_network(
    case: str, images: torch.Tensor, opt: str
) -> None:
    """Two steps with masks fixed; in one of the two worlds a cut happens between them."""
    y = torch.tensor([0, 1, 2, 3])

    def optimizer_for(model: nn.Module) -> torch.optim.Optimizer:
        if opt == "sgd":
            # No decay: it would move the masked reference's dead weights, to no effect.
            return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        return torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(images), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss  # alive on purpose: it holds the old graph

    finals = []
    for cutting in (False, True):
        model = build(case).train()
        search = attach(model)
        optimizer = optimizer_for(model)
        close_some(search, seed=3)
        fix_masks(search)
        loss = step(model, optimizer)
        if cutting:
            assert search.cut(optimizer)
            held = {id(p) for g in optimizer.param_groups for p in g["params"]}
            assert held == {id(p) for p in model.parameters()}
        loss = step(model, optimizer)
        finals.append((loss.detach(), model(images).detach()))
    assert close(finals[1][0], finals[0][0])
    # Adam divides by the root of squares: rounding differences grow where gradients are tiny.
    assert float((finals[1][1] - finals[0][1]).abs().max()) < (1e-10 if opt == "sgd" else 1e-7)


def test_an_averaged_copy_is_cut_alongside(case: str, images: torch.Tensor) -> None:
    model = build(case)
    search = attach(model, fold=case != "basic_blur")  # one case by multiplying hooks
    ema = ModelEmaV3(model, decay=0.5)
    for parameter in model.parameters():
        parameter.data += 0.1
    ema.update(model)
    assert not search.cut(None, ema)  # nothing has closed yet; the copy follows from now on
    close_some(search, 0)
    masked = ema.module.eval()(images)
    assert search.cut(None, ema)
    assert close(ema.module(images), masked)
    search.freeze(None, ema)
    assert close(ema.module(images), masked)
    assert not close(model.eval()(images), masked)  # its weights are its own
    assert list(ema.module.state_dict()) == list(model.state_dict())
    ema.update(model)


def test_the_channel_divisor_rounds_up_without_changing_the_function(images: torch.Tensor) -> None:
    model = build("basic")
    search = attach(model, channel_divisor=8)
    close_some(search, 2)
    masked = model.eval()(images)
    cut_model = search.finish().eval()
    assert close(cut_model(images), masked)
    for branch in search.structure().branches.values():
        for units in branch.units.values() if branch.kept else ():
            assert len(units.kept) % 8 == 0


def test_an_empty_group_takes_its_branch_along() -> None:
    model = build("basic")
    search = attach(model)
    search.gates["layer1/1/act1"].theta.data.fill_(0.05)
    assert search.cut(None)
    assert not search.structure().branches["layer1.1"].kept
    assert isinstance(model.layer1[1], nn.Identity)


def test_everything_closed_still_runs(case: str, images: torch.Tensor) -> None:
    model = build(case)
    search = attach(model)
    for gate in search.gates.values():
        gate.theta.data.zero_()
    out = search.finish()(images)
    assert out.isfinite().all()
    assert search.structure().branches_left == 0


@pytest.mark.parametrize("gate", ["layers", "units"])
def test_one_kind_only(gate: str, images: torch.Tensor) -> None:
    model = build("basic")
    search = attach(model, gate=gate)
    is_unit = ["act1" in slot for slot in search.gates]
    assert all(is_unit) if gate == "units" else not any(is_unit)
    for g in search.gates.values():
        g.theta.data.zero_()
    out = search.finish()(images)
    assert out.isfinite().all()
    left = search.structure()
    assert left.branches_left == (0 if gate == "layers" else len(left.branches))


def test_structure_cuts_dense_weights_like_the_search(images: torch.Tensor) -> None:
    dense = build("bottleneck")
    model = copy.deepcopy(dense)
    search = attach(model)
    close_some(search, 5)
    a = search.finish().eval()(images)
    b = cut_to(dense, search.structure()).eval()(images)
    assert close(a, b)


def test_timm_conveniences_survive(images: torch.Tensor) -> None:
    model = build("basic_projected")
    search = attach(model)
    close_some(search, 1)
    search.cut(None)
    model.eval()
    features = model.forward_features(images)
    final, intermediates = model.forward_intermediates(images)
    assert close(final, features)
    assert len(intermediates) == 4
    model.set_grad_checkpointing(True)
    model.train()(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.reset_classifier(3)
    assert model(images).shape == (4, 3)


def test_gradient_checkpointing_recomputes_the_same_masks(images: torch.Tensor) -> None:
    grads = []
    for checkpointing in (False, True):
        model = build("basic").train()
        attach(model, theta_init=0.5, seed=4)
        model.set_grad_checkpointing(checkpointing)
        model(images).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)


def test_nothing_to_gate_says_so() -> None:
    with pytest.raises(ValueError, match="nothing can be gated in Sequential"):
        attach(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.5}, "alpha"),
        ({"kappa": -1}, "kappa"),
        ({"estimator": "magic"}, "must be one of straight_through, endpoint"),
        ({"cost": "latency"}, "needs a profile"),
        ({"gamma": 1}, "gamma: unknown key"),
        ({"include": ("nothing*",)}, "include: 'nothing\\*' matches no branch"),
    ],
)
def test_bad_settings_name_the_field(settings: dict, message: str) -> None:
    model = build("basic")
    with pytest.raises(ValueError, match=message):
        cpt_nas.attach(model, torch.zeros(1, 3, 32, 32).double(), **settings)
    assert not [n for n in model.state_dict() if "parametrizations" in n]


def test_include_and_exclude() -> None:
    model = build("basic")
    found = find_branches(model).select(include=("layer2.*",), exclude=("layer2.0",))
    assert [f.name for f in found.branches] == ["layer2.1"]
    assert found.refusals["layer2.0"] == "excluded by pattern"


def test_theta_falls_under_price_alone_and_branches_leave_the_forward(images) -> None:
    """With no loss, the price closes everything; each step is Adam's, so a known number do it."""
    model = build("basic").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    search = attach(model, theta_lr=0.1, cut_interval=1, ramp_steps=2)
    for _ in range(14):
        loss = 0 * model(images).sum() + search.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        search.step(optimizer)
    assert search.structure().branches_left == 0
    assert len(search.gates) == 0
    assert not search.penalty().requires_grad
