"""LeNet-300-100, LeNet-5 and VGG-16: published sizes, skips, and gates on every unit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

import cpt_nas
from cpt_nas.cli.inspection import reach
from cpt_nas.models.chain_net import ChainNet, Section
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import cut_to
from hwprofiles.tracing import trace
from tests.support.networks import randomize_all
from tests.support.searches import close, fix_masks

PUBLISHED = {
    # parameters, MACs of convolutions and linear layers, counted by hand
    "cpt_lenet300": (266_610, 784 * 300 + 300 * 100 + 100 * 10),
    "cpt_lenet5": (431_080, 24**2 * 25 * 20 + 8**2 * 25 * 20 * 50 + 800 * 500 + 500 * 10),
    "cpt_vgg16": (14_987_210, 313_463_808),
}
UNITS = {
    "cpt_lenet300": [300, 100],
    "cpt_lenet5": [20, 50, 500],
    "cpt_vgg16": [64, 64, 128, 128, *[256] * 3, *[512] * 6, 512],
}
SMALL: dict[str, Any] = {"channels": ((6, 6), (8, 8, 8)), "hidden": (10, 10, 6), "img_size": 12}


def small(**kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("cpt_vgg16", **(SMALL | {"skip": True} | kwargs))
    return randomize_all(model).double()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters_and_macs(name: str) -> None:
    model = timm.create_model(name).eval()
    params, macs = PUBLISHED[name]
    assert sum(p.numel() for p in model.parameters()) == params
    layers = trace(model, torch.zeros(1, *model.pretrained_cfg["input_size"]))
    assert sum(x.macs for x in layers if x.type in ("conv2d", "linear")) == macs


@pytest.mark.parametrize("name", UNITS)
def test_all_units_have_gates(name: str) -> None:
    """Those of every weight layer but the classifier."""
    (branch,) = find_branches(timm.create_model(name)).branches
    assert [g.size for g in branch.branch.groups] == UNITS[name]
    assert branch.branch.remove is None


@pytest.mark.parametrize(("name", "sections"), [("lenet300", 2), ("lenet5", 3), ("vgg16", 14)])
def test_with_skips_every_section_has_a_gate(name: str, sections: int) -> None:
    model = timm.create_model(f"cpt_{name}", skip=True)
    space = find_branches(model)
    assert [b.name for b in space.branches] == [
        "features",
        *(f"features.{i}" for i in range(sections)),
    ]
    assert all(b.branch.remove is not None for b in space.branches[1:])
    plain = timm.create_model(f"cpt_{name}")
    assert {g.size for g in space.branches[0].branch.groups} == set(UNITS[f"cpt_{name}"])
    # The paths around are cheap: a small part of what they lead around. Of LeNet-300-100 they are
    # linear maps of 49 and of 300 numbers.
    macs = [
        sum(x.macs for x in trace(m, torch.zeros(1, *m.pretrained_cfg["input_size"])))
        for m in (model, plain)
    ]
    assert macs[1] < macs[0] < (1.2 if name == "lenet300" else 1.03) * macs[1]


def test_what_gates_reach_is_counted_once() -> None:
    """Units run through sections that can go: their parameters are not counted with both."""
    model = timm.create_model("cpt_lenet5", skip=True)
    space = find_branches(model)
    assert not any(b.branch.uncut for b in space.branches)
    counted = reach(model, space)
    search = cpt_nas.attach(model, torch.zeros(1, 1, 28, 28), log_gamma=0.1)
    for gate in search.gates.values():
        gate.theta.data[min(1, len(gate) - 1) :] = 0.0
    left = sum(p.numel() for p in search.finish().parameters())
    assert counted.total - counted.by_all == left


def test_what_leads_around_a_section() -> None:
    """Identity where the shape stays; pooling where it shrinks; 1x1 where the width changes."""
    model = timm.create_model("cpt_vgg16", skip=True)
    assert isinstance(model.features[8].skip, nn.Identity)
    assert [type(m) for m in model.features[12].skip] == [nn.AvgPool2d]
    assert [type(m) for m in model.features[2].skip] == [nn.Conv2d]
    # What a 5x5 convolution and a pooling see together is 6x6 pixels, every second one.
    pool, conv = timm.create_model("cpt_lenet5", skip=True).features[0].skip
    assert (pool.kernel_size, pool.stride, conv.kernel_size) == (6, 2, (1, 1))


def test_without_its_sections_a_network_is_linear() -> None:
    model, x = small(), torch.randn(2, 3, 12, 12).double()
    search = cpt_nas.attach(model, x[:1], log_gamma=0.1, gate="layers")
    for gate in search.gates.values():
        gate.theta.data.zero_()
    model = search.finish().eval()
    assert not any(isinstance(m, nn.ReLU | Section) for m in model.modules())
    with torch.no_grad():
        assert close(model(2 * x) - model(x), model(x) - model(0 * x))


def close_units(search: cpt_nas.Search, slot: str, which: slice) -> None:
    gate = search.gates[slot]
    gate.theta.data[which] = 0.0
    gate.mask = gate.mask.clone()  # a new sample, not a change of the last
    gate.mask[which] = 0.0


def test_units_are_cut_after_a_section_that_they_ran_through_has_gone() -> None:
    """Sections first, units later, a step of training in between; as if all were cut in the end."""
    x, y = torch.randn(4, 3, 12, 12).double(), torch.tensor([0, 1, 2, 3])
    finals = []
    for cutting in (False, True):
        model = small().train()
        search = cpt_nas.attach(model, x[:1], log_gamma=0.1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
        fix_masks(search)  # after a cut, masks are sampled again: of thetas of 0 and 1
        for part in ("features/1", "features/3", "features/6"):
            close_units(search, part, slice(None))
        if cutting:
            assert search.cut(optimizer)
            held = {id(p) for g in optimizer.param_groups for p in g["params"]}
            assert held == {id(p) for p in model.parameters()}
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        for slot, gate in search.gates.items():
            if len(gate) > 1:
                close_units(search, slot, slice(0, None, 2))
        if cutting:
            assert search.cut(optimizer)
            held = {id(p) for g in optimizer.param_groups for p in g["params"]}
            assert held == {id(p) for p in model.parameters()}
        finals.append(model(x).detach())
        if cutting:
            structure = search.structure()
            state = search.finish().state_dict()
            again = cut_to(small(), structure)
            again.load_state_dict(state)
            assert torch.equal(model.eval()(x), again.eval()(x))
    assert close(finals[1], finals[0])


def test_units_and_a_section_that_they_run_through_go_at_once() -> None:
    model, x = small(), torch.randn(4, 3, 12, 12).double()
    search = cpt_nas.attach(model, x[:1], log_gamma=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    search.gates["features/1"].theta.data.zero_()
    for gate in search.gates.values():
        if len(gate) > 1:
            gate.theta.data[::2] = 0.0
    masked = model.eval()(x)
    assert search.cut(optimizer)
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert close(model(x), masked)


def test_without_a_classifier_the_last_units_stay() -> None:
    model, x = small(num_classes=0), torch.randn(2, 3, 12, 12).double()
    search = cpt_nas.attach(model, x[:1], log_gamma=0.1)
    for gate in search.gates.values():
        gate.theta.data[1:] = 0.0
    assert search.finish()(x).shape == (2, 6)


def test_a_named_row_of_modules_is_one() -> None:
    """A subclass of nn.Sequential that only has another name gets gates like it."""

    class Row(nn.Sequential):
        pass

    class Odd(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)]
    (branch,) = find_branches(Row(*layers)).branches
    assert [g.size for g in branch.branch.groups] == [6]
    odd = find_branches(Odd(*layers))
    assert not odd.branches


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"weight_init": "zeros"}, "weight_init"),
        ({"channels": (), "hidden": ()}, "channels"),
        ({"channels": ((4,), ())}, "channels"),
        ({"img_size": 2}, "img_size"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}.*must be"):
        timm.create_model("cpt_vgg16", **kwargs)


def test_first_weights_differ_by_their_initialisation() -> None:
    deviations = {}
    for name in ("kaiming_normal", "kaiming_uniform", "xavier_uniform"):
        model = timm.create_model("cpt_lenet300", weight_init=name)
        deviations[name] = float(model.features[0].linear.weight.std())
    # He et al.: variance 2 / inputs; Glorot: 2 / (inputs + outputs). 235,200 draws.
    assert deviations["kaiming_normal"] == pytest.approx((2 / 784) ** 0.5, rel=0.01)
    assert deviations["kaiming_uniform"] == pytest.approx((2 / 784) ** 0.5, rel=0.01)
    assert deviations["xavier_uniform"] == pytest.approx((2 / 1084) ** 0.5, rel=0.01)


@pytest.mark.parametrize("skip", [False, True])
def test_features_only(skip: bool) -> None:
    """A map behind every stage, of the network and of a cut one, as timm's features say."""
    x = torch.zeros(2, 3, 12, 12)
    features = timm.create_model("cpt_vgg16", features_only=True, **(SMALL | {"skip": skip}))
    assert [m.shape[1] for m in features(x)] == features.feature_info.channels() == [6, 8]
    assert [12 // m.shape[2] for m in features(x)] == features.feature_info.reduction() == [2, 4]
    first = timm.create_model("cpt_vgg16", features_only=True, out_indices=(0,), **SMALL)
    assert [m.shape[1] for m in first(x)] == [6]
    assert len(first.model.features) == 2
    model = small(skip=skip)
    final, maps = model.forward_intermediates(x.double(), indices=[0, 1], stop_early=True)
    assert torch.equal(final, maps[1])


def test_features_only_without_convolutions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^features_only: True, must be"):
        timm.create_model("cpt_lenet300", features_only=True)


def test_timms_ways_with_a_model() -> None:
    model = timm.create_model("cpt_lenet5", num_classes=7)
    assert isinstance(model, ChainNet)
    assert model.get_classifier() is model.fc
    x = torch.zeros(2, 1, 28, 28)
    assert model(x).shape == (2, 7)
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, 500)
    model.reset_classifier(0)
    assert model(x).shape == (2, 500)
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(3, global_pool="avg")
    assert copy.deepcopy(model).head_hidden_size == 500
    wide = timm.create_model("cpt_lenet5", img_size=(32, 36), in_chans=3)
    assert wide(torch.zeros(2, 3, 32, 36)).shape == (2, 10)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", ["cpt_lenet300", "cpt_lenet5"])
def test_first_logits_are_small(name: str, skip: bool) -> None:
    """Or the first steps leave a network most of whose filters never pass anything again."""
    torch.manual_seed(0)
    model = timm.create_model(name, skip=skip)
    with torch.no_grad():
        assert float(model(torch.randn(64, 1, 28, 28)).std()) < 2
