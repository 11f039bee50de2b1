"""Every format: what is written computes what the plain model computes, and says how to use it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hwprofiles
from cpt_nas.deploy import deploy as module
from cpt_nas.deploy.comparison import batches_of
from cpt_nas.deploy.deploy import Deployed, Wanted, deploy
from cpt_nas.deploy.formats import FORMATS, Format
from cpt_nas.deploy.latency import CUT, DENSE
from cpt_nas.deploy.source import load_source
from hwprofiles import Measurement
from hwprofiles.runtimes import RUNTIMES
from hwprofiles.runtimes.base import Setting, difference
from tests.support.run_folders import (
    CUT_S,
    DENSE_S,
    INPUT,
    add_export,
    synthetic_profile,
    write_run,
)

SETTING = Setting(torch.device("cpu"), torch.float32, 2, channels_last=False)
FILES = {
    "timm": {"config.json", "model.safetensors"},
    "onnx": {"model.onnx", "model.json"},
    "openvino": {"model.xml", "model.bin", "model.json"},
    "executorch": {"model.pte", "model.json"},
    "torchscript": {"model.pt", "model.json"},
}


def _here(name: str) -> bool:
    packages = RUNTIMES[FORMATS[name].runtimes[0]].packages
    return all(importlib.util.find_spec(package) for package in packages)


@pytest.fixture(
    params=[
        pytest.param(n, marks=pytest.mark.skipif(not _here(n), reason="needs an extra"))
        for n in FORMATS
    ]
)
def form(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = add_export(write_run(tmp_path_factory.mktemp("runs") / "run"))
    hwprofiles.save(synthetic_profile("home", 1e-6), folder / "profile.yaml")  # of batch 2
    return folder


def untimed(run: Path, output: Path, name: str, **more: Any) -> Deployed:
    return deploy(run, output, Wanted(format=name, timing=False, **more))


def inputs(batch: int) -> Tensor:
    return torch.randn(batch, *INPUT, generator=torch.Generator().manual_seed(3))


@torch.inference_mode()
@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
def test_the_file_computes_what_the_model_computes(
    form: Format, run: Path, tmp_path: Path, dynamic: bool
) -> None:
    """Read anew; an open batch truly takes others; what stands beside it says how to use it."""
    done = untimed(run, tmp_path / "out", form.name, dynamic_batch=dynamic)
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES[form.name]
    assert done.comparison.n == done.comparison.same_class == 64
    assert done.comparison.difference <= done.allowed
    assert done.inputs.words == "64 of the run's test pictures" and done.inputs.why is None
    names = FILES[form.name] - {"model.json"}
    content = {name: (tmp_path / "out" / name).read_bytes() for name in names}
    runner = form.load(content, inputs(2), form.runtime(), SETTING)
    plain = load_source(run).model
    for batch in (2, 1) if dynamic else (2,):
        got = runner(inputs(batch))
        assert difference(got, plain(inputs(batch))) <= done.allowed
    if form.name == "timm":
        return
    said = json.loads((tmp_path / "out" / "model.json").read_text())
    assert said["preprocessing"] == {
        **{"input_size": [1, 8, 8], "mean": [0.3], "std": [0.4]},
        **{"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"},
    }
    first = None if dynamic else 2
    assert said["input"]["shape"] == [first, 1, 8, 8] and said["output"]["shape"] == [first, 2]
    assert said["label_names"] == ["cat", "dog"]
    assert said["format"] == form.name and said["architecture"] == "cpt_resnet20"
    assert said["files"] == sorted(names)
    versions = {"torch", "timm", "cpt-nas", "python", form.runtime().distribution}
    assert versions <= set(said["versions"])
    assert said["compared"]["difference"] <= said["compared"]["allowed"]
    assert str(run) not in json.dumps(said)


@pytest.mark.skipif(not _here("onnx"), reason="needs an extra")
def test_names_and_open_batch_of_an_onnx_file(run: Path, tmp_path: Path) -> None:
    import onnxruntime

    untimed(run, tmp_path / "out", "onnx", dynamic_batch=True)
    said = json.loads((tmp_path / "out" / "model.json").read_text())
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for port, key in ((session.get_inputs()[0], "input"), (session.get_outputs()[0], "output")):
        shape = [None if isinstance(size, str) else size for size in port.shape]
        assert (port.name, shape) == (said[key]["name"], said[key]["shape"])
        assert shape[0] is None


def test_from_an_exported_folder(run: Path, tmp_path: Path) -> None:
    """There is no run: no pictures and no promise, unless they are named."""
    untimed(run, tmp_path / "model", "timm")
    done = untimed(tmp_path / "model", tmp_path / "out", "torchscript")
    assert done.inputs.words == "64 random inputs"
    assert "an exported folder does not say where its pictures are" in str(done.inputs.why)
    again = untimed(tmp_path / "model", tmp_path / "copy", "timm")
    assert again.comparison.difference == 0.0
    assert (tmp_path / "copy/config.json").read_bytes() == (run / "export/config.json").read_bytes()


def test_pictures_that_are_named(run: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    for i in range(3):
        Image.new("L", (9 + i, 12), 60 * i).save(tmp_path / "pictures" / "deep" / f"{i}.png")
    done = untimed(run, tmp_path / "out", "torchscript", data=tmp_path / "pictures")
    assert done.comparison.n == 3 and done.inputs.words.startswith("3 pictures of ")
    assert float(done.inputs.x[1].mean()) == pytest.approx((60 / 255 - 0.3) / 0.4, rel=1e-5)


def test_pictures_that_are_gone_are_replaced_by_noise_and_it_is_said(tmp_path: Path) -> None:
    folder = add_export(write_run(tmp_path / "run"))
    recipe = (folder / "recipe.yaml").read_text()
    gone = recipe.replace("name: digits\n  root: null", "name: images\n  root: gone")
    assert gone != recipe
    (folder / "recipe.yaml").write_text(gone)
    done = untimed(folder, tmp_path / "out", "torchscript")
    assert done.inputs.words == "64 random inputs"
    assert "not at hand (data.root: no such folder: gone)" in str(done.inputs.why)


class Stopwatch(list[Any]):
    """Fake times in place of hwprofiles'; holds what was timed."""

    def __call__(self, runners: Any, setting: Setting, **more: Any) -> dict[str, Measurement]:
        self.append((runners, setting))
        times = {DENSE: 8e-3, CUT: 2e-3}
        return {label: Measurement((times[label],) * 11) for label in runners}


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(module, "time_runners", watch)
    return watch


def test_latency_beside_the_promise(run: Path, tmp_path: Path, stopwatch: Stopwatch) -> None:
    """In the profile's own setting; what is timed is what was written, and a dense one."""
    done = deploy(run, tmp_path / "out", Wanted())
    assert done.latency is not None and done.latency.promise is not None
    ((runners, setting),) = stopwatch
    assert (setting.batch_size, setting.threads) == (2, 1)
    assert {label: len(x) for label, (_, x) in runners.items()} == {DENSE: 2, CUT: 2}
    assert done.latency.measured[CUT].median_s == 2e-3
    promise = done.latency.promise
    assert promise.seconds == pytest.approx({DENSE: DENSE_S, CUT: CUT_S})
    assert promise.notes == []


def test_a_promise_of_another_setting_is_said(
    run: Path, tmp_path: Path, stopwatch: Stopwatch
) -> None:
    done = deploy(run, tmp_path / "out", Wanted(format="torchscript", batch_size=3))
    assert done.latency is not None and done.latency.promise is not None
    assert done.latency.promise.notes == [
        "promised in another setting: runtime eager, measured in torchscript; batch_size 2, "
        "measured in 3"
    ]


def test_a_network_that_was_not_cut_has_one_time(tmp_path: Path, stopwatch: Stopwatch) -> None:
    folder = add_export(write_run(tmp_path / "dense", searching=False))
    done = deploy(folder, tmp_path / "out", Wanted(format="torchscript"))
    assert done.latency is not None and list(done.latency.measured) == [DENSE]
    assert done.latency.promise is None


def test_its_own_folder_is_written_again_in_another_format(run: Path, tmp_path: Path) -> None:
    if not _here("onnx"):
        pytest.skip("needs an extra")
    untimed(run, tmp_path / "out", "onnx")
    (tmp_path / "out" / "notes").write_text("mine")
    untimed(run, tmp_path / "out", "torchscript")
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES["torchscript"] | {"notes"}


def test_another_size_where_the_network_takes_it(run: Path, tmp_path: Path) -> None:
    untimed(run, tmp_path / "out", "torchscript", img_size=16)
    said = json.loads((tmp_path / "out" / "model.json").read_text())
    assert said["input"]["shape"] == [2, 1, 16, 16]
    assert said["preprocessing"]["input_size"] == [1, 16, 16]


@pytest.mark.parametrize(
    ("n", "sizes", "expected"),
    [(5, [2], [2, 2, 2]), (3, [1, 4], [1, 4]), (1, [1, 2, 3], [1, 2, 3]), (4, [1, 2], [1, 2, 1])],
)
def test_every_input_and_every_batch_is_tried(
    n: int, sizes: Sequence[int], expected: list[int]
) -> None:
    found = list(batches_of(torch.arange(n), sizes))
    assert [len(batch) for batch in found] == expected
    assert torch.cat(found).tolist() == [i % n for i in range(sum(expected))]
