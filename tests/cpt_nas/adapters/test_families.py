"""The contract of every block family, one body for all: smallest models that hold the classes.

Add a family: an adapter file, and a line in families.py.
"""

from __future__ import annotations

import copy
import functools
import math
import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

import cpt_nas
from cpt_nas.adapters import MISSING
from cpt_nas.costs.cost_model import build_cost
from cpt_nas.pruning.export import export
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import cut_to
from hwprofiles.tracing import trace_all
from tests.support.families import FAMILIES, SLOW
from tests.support.networks import randomize_all
from tests.support.searches import close, close_some, fix_masks
from tests.support.tiny import lenet

CASES = [pytest.param(f, marks=pytest.mark.slow) if f in SLOW else f for f in sorted(FAMILIES)]
# The multiplying form is the reference, not what people run: a few families in the quick suite.
MULTIPLIED = {"convnext", "mobilenetv3", "regnet", "seresnet", "swin", "vit"}
FORMS = [
    pytest.param(
        family,
        fold,
        marks=[pytest.mark.slow] * (family in SLOW or not (fold or family in MULTIPLIED)),
    )
    for family in sorted(FAMILIES)
    for fold in (True, False)
]


def build(family: str) -> nn.Module:
    return copy.deepcopy(prototype(family))


@functools.cache
def prototype(family: str) -> nn.Module:
    name, kwargs, _ = FAMILIES[family]
    torch.manual_seed(0)
    kwargs = {"num_classes": 5, "drop_rate": 0.0, **kwargs}
    model = randomize_all(timm.create_model(name, **kwargs)).double()
    for module in model.modules():  # nothing random in train mode
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
    return model


def images(family: str) -> torch.Tensor:
    size = FAMILIES[family][2]
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1)).double()


def attach(model: nn.Module, family: str, **settings: Any) -> cpt_nas.Search:
    return cpt_nas.attach(model, images(family)[:1], log_gamma=0.1, **settings)


@pytest.mark.parametrize(("family", "fold"), FORMS)
def test_open_gates_are_the_plain_model(family: str, fold: bool) -> None:
    plain, gated, x = build(family), build(family), images(family)
    attach(gated, family, fold=fold)
    for training in (False, True):
        a, b = plain.train(training)(x), gated.train(training)(x)
        assert close(b, a)
    a.square().sum().backward()
    b.square().sum().backward()
    grads = {n: p.grad for n, p in plain.named_parameters()}
    for name, parameter in gated.named_parameters():
        wanted = grads.pop(name)
        assert (parameter.grad is None) == (wanted is None)
        if wanted is not None:
            assert torch.allclose(parameter.grad, wanted, rtol=1e-9, atol=1e-9)
    assert not grads


@pytest.mark.parametrize(("family", "fold"), FORMS)
def test_masked_is_cut_now_and_after_a_step(family: str, fold: bool) -> None:
    """Random masks; in one of two worlds the network is cut before the step, in one it is not."""
    x, y = images(family), torch.tensor([0, 1, 2, 3])
    finals, first = [], 0.0
    for cutting in (False, True):
        model = build(family)
        search = attach(model, family, fold=fold)
        close_some(search, seed=3)
        fix_masks(search)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        if cutting:
            assert search.cut(optimizer)
            held = {id(p) for g in optimizer.param_groups for p in g["params"]}
            assert held == {id(p) for p in model.parameters()}
        outputs = [model.eval()(x), model.train()(x)]
        nn.functional.cross_entropy(outputs[1], y).backward()
        # A step of about the same size in every family: batch norms over few values amplify.
        largest = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
        first = first or largest
        optimizer.param_groups[0]["lr"] = min(0.01, 0.01 / first)
        optimizer.step()
        outputs.append(model(x))
        if cutting:
            assert type(search.finish()) is type(build(family))
            outputs.append(model(x))
        finals.append([o.detach() for o in outputs])
    for masked, after in zip(*finals):
        assert close(after, masked)
    assert close(finals[1][3], finals[1][2])


@pytest.mark.parametrize("family", CASES)
def test_cost_is_the_count_of_the_cut_network(family: str) -> None:
    """Open gates: what the model holds and fvcore counts. Cut: what the cut model holds."""
    model, x = build(family), images(family)[:1]
    cost = build_cost(model, x, find_branches(model))
    search = attach(copy.deepcopy(model), family)
    traced = trace_all(model, x)
    assert math.isclose(
        search.regularizer.dense["macs"], sum(s.macs for s in traced.layers), rel_tol=1e-9
    )
    assert search.regularizer.dense["params"] == sum(p.numel() for p in model.parameters())
    close_some(search, seed=5)
    search.finish()
    structure = search.structure()
    smaller = cut_to(model, structure)
    expected = cost.of_structure(structure)
    held = sum(p.numel() for p in smaller.parameters())
    assert math.isclose(expected["params"], held, rel_tol=1e-9)
    counted = sum(s.macs for s in trace_all(smaller, x).layers)
    # Norms of query and key are charged whole: their parameters are shared by the heads.
    assert math.isclose(expected["macs"], counted, rel_tol=1e-2 if "norm" in family else 1e-9)


@pytest.mark.parametrize("family", CASES)
def test_exported_and_reloaded_with_timms_conveniences(family: str, tmp_path) -> None:
    name, kwargs, _ = FAMILIES[family]
    kwargs = {"num_classes": 5, **kwargs}
    torch.manual_seed(0)
    model = randomize_all(timm.create_model(name, **kwargs))
    x = images(family).float()
    search = cpt_nas.attach(model, x[:1], model_kwargs=kwargs)
    close_some(search, seed=1)
    model = search.finish().eval()
    expected = model(x)
    folder = export(search.structure(), model.state_dict(), tmp_path / "out")
    back = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert type(back) is type(model)
    assert torch.equal(back(x), expected)

    features = back.forward_features(x)
    if hasattr(back, "forward_intermediates") and back.feature_info:
        final, steps = back.forward_intermediates(x)
        pairs = (
            [(final, features)]
            if isinstance(final, torch.Tensor)
            else zip(final, features, strict=True)
        )
        assert all(close(a, b) for a, b in pairs)  # some keep several
        assert len(steps) > 1
        widths = [i["num_chs"] for i in back.feature_info]
        assert [s.shape[1] for s in steps][-1] == widths[-1]
    if hasattr(back, "group_matcher"):
        timm.models.group_parameters(back, back.group_matcher(coarse=False))
    try:
        back.set_grad_checkpointing(True)
    except AssertionError:  # some models of timm have none
        pass
    else:
        back.train()(x).sum().backward()
        back.set_grad_checkpointing(False)
    back.reset_classifier(3)
    assert back(x).shape == (4, 3)


@pytest.mark.parametrize("family", CASES)
def test_extremes(family: str) -> None:
    """Everything closed that can be; and a single unit left in every group."""
    x = images(family)
    for one_left in (False, True):
        model = build(family)
        search = attach(model, family)
        for slot, gate in search.gates.items():
            is_branch = any(
                slot == f.name.replace(".", "/") for f in search.gated.branches.values()
            )
            gate.theta.data.fill_(float(one_left and is_branch))
            if one_left and not is_branch:
                gate.theta.data[-1] = 1.0
        masked = model.eval()(x)
        model = search.finish()
        assert model(x).isfinite().all()
        if one_left:
            assert close(model(x), masked)
            left = [
                len(u.kept) for b in search.structure().branches.values() for u in b.units.values()
            ]
            assert set(left) <= {1}
        else:
            removable = [b for b in search.structure().branches.values() if b.removable]
            assert not any(b.kept for b in removable)


def test_every_adapter_has_its_case() -> None:
    """A class with an adapter that no case above holds is not tested."""
    from cpt_nas.adapters import REGISTRY

    held = {type(m) for family in FAMILIES for m in build(family).modules()}
    from tests.support.networks import CASES as RESNETS
    from tests.support.networks import build as build_resnet

    held |= {type(m) for case in RESNETS for m in build_resnet(case).modules()}
    missing = sorted(c.__module__ + "." + c.__name__ for c in REGISTRY.adapters if c not in held)
    assert not missing


def test_gates_describe_the_models_own_units() -> None:
    found = {f.name: f for f in find_branches(build("vit")).branches}
    (heads,) = found["blocks.0.attn"].branch.groups
    assert (heads.kind, heads.size, heads.name) == ("heads", 2, "attn.heads")
    (hidden,) = found["blocks.0.mlp"].branch.groups
    assert (hidden.kind, hidden.size) == ("hidden", 192)


def test_a_plain_sequential_network_gets_unit_gates() -> None:
    """LeNet: every layer but the last; a linear layer reads 25 entries a filter."""
    x = torch.randn(2, 3, 32, 32).double()
    for fold in (True, False):
        torch.manual_seed(0)
        model = lenet().double()
        search = cpt_nas.attach(model, x[:1], fold=fold)
        sizes = {g.size for f in search.gated.branches.values() for g in f.branch.groups}
        assert sizes == {6, 16, 32}
        close_some(search, seed=2)
        fix_masks(search)
        masked = model(x)
        assert close(search.finish()(x), masked)
        assert model[3].in_channels < 6
        assert model[7].in_features == 25 * model[3].out_channels


def test_a_deep_stem_gets_unit_gates() -> None:
    found = {f.name: f for f in find_branches(timm.create_model("resnet26d")).branches}
    assert [g.size for g in found["conv1"].branch.groups] == [32, 32]
    assert "layer1.0.downsample" not in found


def test_no_family_is_missing_in_the_pinned_timm() -> None:
    assert MISSING == {}


def test_a_family_that_timm_does_not_have_does_not_stop_the_others() -> None:
    """In a fresh process, in which timm has no cspnext."""
    code = (
        "import sys, timm; sys.modules['timm.models.cspnext'] = None; import cpt_nas;"
        "from cpt_nas.adapters import MISSING; print(sorted(MISSING));"
        "from cpt_nas.pruning.search_space import find_branches;"
        "print(len(find_branches(timm.create_model('resnet18')).branches))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["['cspnext']", "8"]
