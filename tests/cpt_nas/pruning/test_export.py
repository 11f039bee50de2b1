"""Exported folders: what they may say is a closed list, and they are as usable as timm's own."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import cpt_nas
from cpt_nas.pruning.export import check_export, export
from tests.support.families import FAMILIES
from tests.support.networks import randomize_all
from tests.support.searches import close_some

# family -> arguments that make it small, and a larger input
SIZES = {"vit": 64, "swin": 64, "swinv2": 64, "eva02": 56, "beit": 64, "eva_rope": 64}
SIZES |= {"vit_relpos": 64, "maxvit": 128, "coatnet": 128, "swinv2_cr": 64}


def cut_model(
    family: str, more: dict[str, Any] | None = None, channels: int = 3
) -> tuple[nn.Module, cpt_nas.Structure, dict[str, Any]]:
    name, kwargs, size = FAMILIES[family]
    kwargs = {"num_classes": 5, **kwargs, **(more or {})}
    torch.manual_seed(0)
    model = randomize_all(timm.create_model(name, **kwargs))
    search = cpt_nas.attach(model, torch.zeros(1, channels, size, size), model_kwargs=kwargs)
    close_some(search, seed=1)
    return search.finish().eval(), search.structure(), kwargs


def exported(family: str, folder: Path, more: dict[str, Any] | None = None) -> nn.Module:
    channels = (more or {}).get("in_chans", 3)
    model, structure, _ = cut_model(family, more, channels)
    export(structure, model.state_dict(), folder)
    return model


def load(folder: Path, **kwargs: Any) -> nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **kwargs).eval()


@pytest.mark.parametrize("family", SIZES)
def test_another_input_size_is_as_timm_sets_it(family: str, tmp_path: Path) -> None:
    """At loading, and after it: also where the first attention is gone."""
    name, kwargs, size = FAMILIES[family]
    torch.manual_seed(0)
    model = randomize_all(timm.create_model(name, num_classes=5, **kwargs))
    search = cpt_nas.attach(model, torch.zeros(1, 3, size, size))
    close_some(search, seed=1)
    first = next(b for b in search.gated.branches if b.endswith("attn"))
    search.gated.gate(first).theta.data.fill_(0.0)
    model = search.finish().eval()
    export(search.structure(), model.state_dict(), tmp_path / "out")
    x = torch.randn(2, 3, SIZES[family], SIZES[family])
    at_loading = load(tmp_path / "out", img_size=SIZES[family])(x)
    later = load(tmp_path / "out")
    later.set_input_size(img_size=SIZES[family])
    assert at_loading.shape == (2, 5) and at_loading.isfinite().all()
    if not family.startswith("swin"):  # where timm chooses other windows at loading
        torch.testing.assert_close(later(x), at_loading)


@pytest.mark.parametrize(("channels", "asked"), [(3, 1), (1, 3), (4, 4), (2, 2), (4, 1), (1, 1)])
def test_other_channels(channels: int, asked: int, tmp_path: Path) -> None:
    """A network of four channels comes back with its own first layer, too."""
    model = exported("resnet", tmp_path / "out", {"in_chans": channels})
    back = load(tmp_path / "out", in_chans=asked)
    x = torch.randn(2, asked, 32, 32)
    assert back(x).shape == (2, 5)
    if channels == asked:
        assert torch.equal(back(x), model(x))
        assert torch.equal(load(tmp_path / "out")(x), model(x))


def test_feature_maps_of_a_vit_of_its_own_depth(tmp_path: Path) -> None:
    exported("vit", tmp_path / "out", {"depth": 3})
    features = load(tmp_path / "out", features_only=True)
    maps = features(torch.randn(1, 3, 32, 32))
    assert [m.shape[1] for m in maps] == features.feature_info.channels() and len(maps) == 3
    two = load(tmp_path / "out", features_only=True, out_indices=(0, 2))
    assert len(two(torch.randn(1, 3, 32, 32))) == 2


def test_the_structure_says_what_is_not_told() -> None:
    """Arguments of the base need not be repeated, and timm's defaults of it are its own."""
    _, structure, _ = cut_model("resnet", {"in_chans": 2, "num_classes": 7}, channels=2)
    data = structure.model_dump()
    model = timm.create_model("cpt_pruned", base=structure.architecture, structure=data)
    assert model.eval()(torch.zeros(1, 2, 32, 32)).shape == (1, 7)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "out"
    exported("resnet", path)
    return path


def damaged(folder: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the folder with another config."""
    to.mkdir()
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (to / "config.json").write_text(json.dumps(config))
    (to / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return to


def branch(config: dict[str, Any]) -> dict[str, Any]:
    branches = config["model_args"]["structure"]["branches"]
    return next(b for b in branches.values() if b["kept"] and b["units"])


def without_a_branch(config: dict[str, Any]) -> None:
    config["model_args"]["structure"]["branches"].popitem()


def without_a_group(config: dict[str, Any]) -> None:
    branch(config)["units"].popitem()


def with_a_unit_as_text(config: dict[str, Any]) -> None:
    units = next(iter(branch(config)["units"].values()))
    units["kept"][-1] = str(units["kept"][-1])


def with_no_unit(config: dict[str, Any]) -> None:
    next(iter(branch(config)["units"].values()))["kept"] = []


def saying(section: str, key: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(config: dict[str, Any]) -> None:
        inner = config
        for part in section.split("."):
            inner = inner[part]
        inner[key] = value

    return change


STRUCTURE = "model_args.structure"
DAMAGE = {
    "branch": without_a_branch,
    "group": without_a_group,
    "text": with_a_unit_as_text,
    "no_unit": with_no_unit,
    "hub": saying("model_args", "base", "hf-hub:timm/resnet18.a1_in1k"),
    "hub_twice": lambda c: (
        saying("model_args", "base", "hf-hub:x/y")(c),
        saying(STRUCTURE, "architecture", "hf-hub:x/y")(c),
    ),
    "itself": saying(STRUCTURE, "architecture", "cpt_pruned"),
    "other": saying("model_args", "base", "resnet18"),
    "pickle": saying("model_args", "checkpoint_path", "/tmp/x.pth"),
    "pickle_within": saying(f"{STRUCTURE}.model_kwargs", "checkpoint_path", "/tmp/x.pth"),
    "pretrained": saying(f"{STRUCTURE}.model_kwargs", "pretrained", True),
    "argument": saying("model_args", "drop_rate", 0.5),
    "offset": saying("pretrained_cfg", "label_offset", 1),
    "custom": saying("pretrained_cfg", "custom_load", "hf"),
    "stem": saying("pretrained_cfg", "first_conv", "layer1.0.conv1"),
    "head": saying("pretrained_cfg", "classifier", "layer1"),
    "classes": lambda c: c.update(num_classes=4),
    "path": saying("model_args", "structure", "/etc/hostname"),
    "extra": saying(STRUCTURE, "note", 1),
    "version": saying(STRUCTURE, "schema_version", 99),
    "differs": saying(STRUCTURE, "differs", "it is another"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_refused(
    kind: str, folder: Path, tmp_path: Path, no_network: None
) -> None:
    path = damaged(folder, tmp_path / "bad", DAMAGE[kind])
    with pytest.raises(ValueError) as refused:
        load(path)
    assert len(str(refused.value)) <= 400 and "\n" not in str(refused.value)


def _nan(weights: dict[str, torch.Tensor]) -> None:
    weights["conv1.0.weight"][0, 0, 0, 0] = float("nan")


def _infinite(weights: dict[str, torch.Tensor]) -> None:
    weights["bn1.running_var"][0] = float("inf")


def _missing(weights: dict[str, torch.Tensor]) -> None:
    del weights["bn1.weight"]


def _smaller(weights: dict[str, torch.Tensor]) -> None:
    weights["bn1.weight"] = weights["bn1.weight"][:-1].clone()


def _more(weights: dict[str, torch.Tensor]) -> None:
    weights["bn9.weight"] = torch.zeros(1)


@pytest.mark.parametrize("classes", [5, 3])
@pytest.mark.parametrize("change", [_nan, _infinite, _missing, _smaller])
def test_damaged_weights_are_refused(
    change: Callable[[dict[str, torch.Tensor]], None], classes: int, folder: Path, tmp_path: Path
) -> None:
    """With other classes timm would load what fits, and leave the rest at random."""
    path = damaged(folder, tmp_path / "bad", lambda config: None)
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors")
    with pytest.raises(ValueError, match=r"^weights: (conv1.0|bn1)"):
        load(path, num_classes=classes)


def exchanged(config: dict[str, Any]) -> None:
    """Another unit takes the place of one: as many are left, and all shapes are the same."""
    units = next(u for u in branch(config)["units"].values() if len(u["kept"]) < u["total"])
    gone = sorted(set(range(units["total"])) - set(units["kept"]))
    units["kept"] = sorted([*units["kept"][1:], gone[0]])


def test_a_unit_exchanged_for_another_is_seen(folder: Path, tmp_path: Path) -> None:
    path = damaged(folder, tmp_path / "bad", exchanged)
    with pytest.raises(ValueError, match=r"^config.json: model_args.checksum: structure and weigh"):
        load(path)


def test_weights_exchanged_for_others_are_seen(folder: Path, tmp_path: Path) -> None:
    path = damaged(folder, tmp_path / "bad", lambda config: None)
    weights = load_file(path / "model.safetensors")
    weights["bn1.weight"] = weights["bn1.weight"] * 2
    save_file(weights, path / "model.safetensors")
    with pytest.raises(ValueError, match=r"^config.json: model_args.checksum: structure and weigh"):
        load(path)


def test_a_folder_without_its_checksum_is_refused(folder: Path, tmp_path: Path) -> None:
    path = damaged(folder, tmp_path / "bad", lambda config: config["model_args"].pop("checksum"))
    with pytest.raises(ValueError, match=r"^config.json: model_args.checksum: is missing"):
        load(path)


def test_a_file_that_is_cut_off_is_refused(folder: Path, tmp_path: Path) -> None:
    path = damaged(folder, tmp_path / "bad", lambda config: None)
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"^cpt_pruned: "):
        load(path)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_entry_of_a_structure_that_is_changed_is_refused_or_harmless(
    folder: Path, data: st.DataObject
) -> None:
    """Where weights are loaded, too, a checksum sees more: a kept unit exchanged for another."""
    config = json.loads((folder / "config.json").read_text())
    structure = config["model_args"]["structure"]
    branches = structure["branches"]
    name = data.draw(st.sampled_from(sorted(branches)))
    value = data.draw(
        st.one_of(st.none(), st.booleans(), st.integers(-2, 99), st.text(max_size=3), st.just([]))
    )
    key = data.draw(st.sampled_from(["kept", "removable", "units", "branch", "total"]))
    before = json.dumps(structure)
    if key == "branch":
        branches[name] = value
    elif key == "total":
        units = branches[name]["units"]
        units[next(iter(units))]["total"] = value
    else:
        branches[name][key] = value
    if json.dumps(structure) == before or key == "removable":
        return
    with pytest.raises(ValueError):
        timm.create_model("cpt_pruned", base=structure["architecture"], structure=structure)


def test_weights_that_are_not_finite_are_not_exported(tmp_path: Path) -> None:
    model, structure, _ = cut_model("resnet")
    state = {**model.state_dict()}
    state["fc.bias"] = state["fc.bias"] * float("nan")
    with pytest.raises(ValueError, match=r"^weights: fc.bias"):
        export(structure, state, tmp_path / "out")
    with pytest.raises(ValueError, match=r"^url: unknown; allowed are input_size"):
        export(structure, model.state_dict(), tmp_path / "out", url="http://x")
    assert not (tmp_path / "out").exists()


def test_an_export_that_is_another_network_is_seen(folder: Path) -> None:
    model = load(folder).train()
    check_export(folder, model, torch.randn(2, 3, 32, 32))
    assert model.training
    model.layer1[0].act2 = nn.SiLU()
    with pytest.raises(ValueError, match=r"^export: what .* is not the network that was trained"):
        check_export(folder, model, torch.randn(2, 3, 32, 32))


def test_a_deeply_nested_structure_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"^structure: .* is not JSON"):
        cpt_nas.load_structure(tmp_path / "deep.json")
    with pytest.raises(ValueError, match=r"^structure: .* cannot be read"):
        cpt_nas.load_structure(tmp_path)
