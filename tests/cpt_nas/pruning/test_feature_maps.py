"""``feature_info`` of what was cut tells the widths that the feature maps have, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models._features import FeatureGetterNet
from torch import nn

import cpt_nas
from cpt_nas.pruning.export import export
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import Structure, cut_to, dense_structure
from tests.support.families import FAMILIES, SLOW

CASES = [pytest.param(f, marks=pytest.mark.slow) if f in SLOW else f for f in sorted(FAMILIES)]


def build(family: str, **kwargs: Any) -> nn.Module:
    name, own, _ = FAMILIES[family]
    return timm.create_model(name, **({"num_classes": 5} | own | kwargs)).eval()


def images(family: str) -> torch.Tensor:
    size = FAMILIES[family][2]
    return torch.zeros(1, 3, size, size)


def halved(model: nn.Module) -> Structure:
    """Half of the units of every group."""
    structure = dense_structure(find_branches(model), "", {})
    for branch in structure.branches.values():
        for units in branch.units.values():
            units.kept = units.kept[: max(1, units.total // 2)]
    return structure


def emptied(model: nn.Module) -> Structure:
    """No branch that can go; half of the units of the others."""
    structure = halved(model)
    for branch in structure.branches.values():
        branch.kept = not branch.removable
        for units in branch.units.values():
            units.kept = units.kept if branch.kept else []
    return structure


@torch.no_grad()
def shapes(model: nn.Module, x: torch.Tensor) -> dict[int, torch.Size]:
    """Entry of feature_info -> the shape of what the module that it names puts out."""
    modules, found, handles = dict(model.named_modules()), {}, []

    def see(index: int, tensor: Any) -> None:
        if isinstance(tensor, torch.Tensor):  # some put out several
            found[index] = tensor.shape

    for index, info in enumerate(model.feature_info):
        module = modules.get(info["module"])
        if module is None or module is model:  # timm's own slips
            continue
        hook = module.register_forward_hook(lambda m, xs, y, i=index: see(i, y))
        handles.append(hook)
    model(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("family", CASES)
def test_it_tells_the_widths(family: str) -> None:
    for structure_of in (halved, emptied):
        model, x = build(family), images(family)
        said = [info["num_chs"] for info in model.feature_info]
        before = shapes(model, x)
        after = shapes(cut_to(model, structure_of(model)), x)
        for index, shape in before.items():
            along = [dim for dim in (1, -1) if shape[dim] == said[index]]
            if along:
                told = model.feature_info[index]["num_chs"]
                assert after[index][along[0]] == told, model.feature_info[index]


@pytest.mark.parametrize("family", ["vovnet", "xception", "lenet5", "vgg16_skip"])
def test_of_exported_networks(family: str, tmp_path) -> None:
    """features_only of the folder of a network that was searched."""
    kwargs = FAMILIES[family][1]
    model, x = build(family), images(family)
    search = cpt_nas.attach(model, x, log_gamma=0.1, model_kwargs={"num_classes": 5, **kwargs})
    for gate in search.gates.values():
        gate.theta.data[len(gate) // 2 + 1 :] = 0.0
    uncut = [info["num_chs"] for info in model.feature_info]
    state = search.finish().state_dict()
    folder = export(search.structure(), state, tmp_path / "out")
    back = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    told = back.feature_info.channels()
    assert [m.shape[1] for m in back(x)] == told
    assert told == [info["num_chs"] for info in model.feature_info] != uncut


def test_of_a_network_wrapped_for_its_feature_maps() -> None:
    """timm's FeatureGetterNet has a list of its own beside the network's."""
    features = FeatureGetterNet(build("vovnet"), out_indices=(0, 1, 2)).eval()
    uncut = features.feature_info.channels()
    cut_to(features, halved(features))
    told = features.feature_info.channels()
    assert [m.shape[1] for m in features(images("vovnet"))] == told != uncut
    assert [info["num_chs"] for info in features.model.feature_info[:3]] == told


def test_another_model_made_from_the_same_list_keeps_its_own() -> None:
    """SelecSLS hands on the list of its definition."""
    one, other = build("selecsls"), build("selecsls")
    assert one.feature_info is other.feature_info
    cut_to(one, halved(one))
    assert [info["num_chs"] for info in other.feature_info] == [32, 24, 24, 16]
    assert one.feature_info[2]["num_chs"] == 12
