"""A training that starts from trained weights: tried, said, recorded, and not loaded twice."""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from timm.models import generate_default_cfgs, register_model
from torch import nn

from cpt_nas.models.cifar_resnet import CifarResNet, cifar_cfg
from cpt_nas.train.recipe import Recipe, load_recipe
from cpt_nas.train.train import train
from hwprofiles.streams import PlainConsole
from tests.support.trainings import QUIET, Stop, everything, interrupted_after, recipe

OWN = {"train_limit": 64, "mean": None, "std": None}  # as the first run was normalised, or nearly
SMALL: dict[str, Any] = {"data": OWN, "train": {"epochs": 2, "lr": 1e-3}}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense run on all digits, good enough to be told from chance."""
    folder = tmp_path_factory.mktemp("first") / "run"
    what = recipe(data={"train_limit": 1000}, train={"epochs": 6}, search=None)
    assert train(what, folder, console=QUIET)["test_acc"] > 60
    return folder


@pytest.fixture
def file(first: Path, tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth.tar"
    path.write_bytes((first / "last.pth.tar").read_bytes())
    return path


def started(file: Path, **changes: Any) -> Recipe:
    return recipe(**(SMALL | {"model": {"checkpoint": str(file)}} | changes))


@pytest.mark.parametrize("search", [True, False], ids=["search", "dense"])
def test_the_weights_are_tried_said_and_recorded(
    file: Path, first: Path, tmp_path: Path, search: bool
) -> None:
    what = started(file) if search else started(file, search=None)
    written = io.StringIO()
    result = train(what, tmp_path / "run", console=PlainConsole(file=written, width=40))
    there = json.loads((first / "result.json").read_text())["test_acc"]
    (line,) = [x for x in written.getvalue().splitlines() if x.startswith("weights of ")]
    assert "weights.pth.tar" in line and "missing none; unexpected none" in line
    weights = result["weights"]
    assert f"{weights['test_acc']:.1f} % of the test images right before training" in line
    assert weights["test_acc"] == pytest.approx(there, abs=5)  # other statistics normalise
    assert weights["source"] == "weights.pth.tar" and len(weights["sha256"]) == 64
    exported = (tmp_path / "run" / "export" / "config.json").read_text()
    assert "weights" not in exported and "checkpoint" not in exported


def test_resumed_is_uninterrupted_without_the_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = started(file)
    train(what, tmp_path / "whole", console=QUIET)
    restore = interrupted_after(1, monkeypatch)
    with pytest.raises(Stop):
        train(what, tmp_path / "run", console=QUIET)
    restore()
    file.unlink()
    train(what, tmp_path / "run", resume=True, console=QUIET)
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")


@pytest.mark.parametrize(
    ("content", "said"), [(b"PK\x03\x04", "is damaged"), (None, "No such file")]
)
def test_a_bad_file_leaves_nothing(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "w.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^model.checkpoint: .*{said}"):
        train(started(path), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_size_and_normalisation_are_the_weights_own_unless_stated(tmp_path: Path) -> None:
    def data(text: str, *overrides: str) -> Any:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return load_recipe(path, overrides).data

    trained = "model: {name: resnet18, pretrained: true}\n"
    config = timm.get_pretrained_cfg("resnet18")
    assert data(trained).input_size == config.input_size
    assert data(trained).mean == config.mean and data(trained).std == config.std
    stated = data(trained + "data: {input_size: [3, 96, 96], mean: null, std: [1, 1, 1]}")
    assert (stated.input_size, stated.mean, stated.std) == ((3, 96, 96), None, (1, 1, 1))
    assert data(trained, "data.input_size=[1, 8, 8]").mean == (0.449,)
    assert data("model: {name: resnet18}").mean is None
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"pretrained_cfg": {"mean": [0.3] * 3, "std": [0.2] * 3, "input_size": [3, 9, 9]}}
        )
    )
    beside = data(f"model: {{name: resnet18, checkpoint: {tmp_path}/model.safetensors}}")
    assert (beside.input_size, beside.mean, beside.std) == ((3, 9, 9), (0.3,) * 3, (0.2,) * 3)
    cifar = data("model: {name: cpt_resnet20, checkpoint: w.pth}")
    assert cifar.mean == (0.4914, 0.4822, 0.4465) and cifar.input_size == (3, 32, 32)
    whole = load_recipe(tmp_path / "recipe.yaml")
    assert Recipe.from_mapping(whole.model_dump()) == whole


@pytest.fixture
def hub(first: Path, tmp_path: Path) -> Iterator[str]:
    """A name in timm's registry whose pretrained weights are in a file: no network is needed."""
    name, known = "cpt_on_a_hub", importlib.import_module("timm.models._registry")
    torch.save(torch.load(first / "last.pth.tar")["state_dict"], tmp_path / "hub.pth")
    module = ModuleType("hub_of_a_test")
    config = cifar_cfg(file=str(tmp_path / "hub.pth"), input_size=(1, 8, 8))
    module.default_cfgs = generate_default_cfgs({f"{name}.digits": config})  # type: ignore
    sys.modules["hub_of_a_test"] = module

    def cpt_on_a_hub(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return timm.models.build_model_with_cfg(CifarResNet, name, pretrained, **kwargs)

    cpt_on_a_hub.__module__ = "hub_of_a_test"
    module.cpt_on_a_hub = cpt_on_a_hub  # type: ignore
    register_model(cpt_on_a_hub)
    yield name
    for table in (known._model_entrypoints, known._model_to_module):
        table.pop(name, None)
    for key in [k for k in known._model_pretrained_cfgs if k.startswith(name)]:
        del known._model_pretrained_cfgs[key]
    known._module_to_models.pop("hub_of_a_test", None)
    del sys.modules["hub_of_a_test"]


@pytest.mark.parametrize("classes", [10, 12])
def test_timms_own_weights(hub: str, tmp_path: Path, classes: int) -> None:
    model = {"name": hub, "pretrained": True, "kwargs": {**recipe().model.kwargs}}
    if classes != 10:
        model["kwargs"]["num_classes"] = classes
    result = train(recipe(**(SMALL | {"model": model})), tmp_path / "run", console=QUIET)
    weights = result["weights"]
    assert weights["source"] == f"timm's {hub}.digits"
    assert weights["new_head"] is (classes != 10)
    assert (weights["test_acc"] > 50) is (classes == 10)


def test_a_network_without_weights_in_timm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^model.pretrained: timm has no weights of 'cpt_res"):
        train(recipe(model={"pretrained": True}), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_both_starts_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="checkpoint: there is pretrained, too"):
        recipe(model={"pretrained": True, "checkpoint": "w.pth"})
