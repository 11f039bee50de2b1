"""cpt-nas export: what it prints, and what it refuses in one line, with nothing left behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cpt_nas.deploy import deploy as module
from hwprofiles import save
from hwprofiles.runtimes import base, onnx_file, openvino
from tests.support.run_folders import add_export, synthetic_profile, write_run
from tests.support.shell import Shell

TORCHSCRIPT = ["--format", "torchscript", "--no-timing"]


@pytest.fixture
def cpt_nas(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capfd)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    add_export(write_run(folder / "run"))
    save(synthetic_profile("home", 1e-6), folder / "run" / "profile.yaml")
    write_run(folder / "running", status="running", epochs_done=2)
    (folder / "notes").mkdir()
    (folder / "notes" / "model.json").write_text('{"mine": 1}')
    (folder / "plain").mkdir()
    (folder / "plain" / "config.json").write_text('{"architecture": "resnet18"}')
    (folder / "plain" / "model.safetensors").write_bytes(b"weights")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"no picture")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "work"))


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(cpt_nas: Shell, folder: Path, *arguments: str) -> str:
    before = contents(folder)
    done = cpt_nas("export", *arguments, cwd=folder)
    assert contents(folder) == before
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert len(lines[0]) <= 300
    return lines[0]


def test_what_is_printed(cpt_nas: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEASURED_S", 0.05)
    done = cpt_nas("export", "run", "-o", "model", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "model: timm: config.json" in done.stdout
    assert "outputs on 64 of the run's test pictures: the largest difference" in done.stdout
    assert "is 0 of the largest one (allowed is 1e-06), the same class for 64 of 64" in done.stdout
    for part in (
        "dense",
        "cut / dense",
        "promised ms",
        "0.552",
        "0.368",
        "promised by home: eager",
    ):
        assert part in done.stdout
    assert "measured in eager" in done.stdout and "another setting" not in done.stdout
    done = cpt_nas("export", "model", *TORCHSCRIPT, "-o", "file", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "no pictures: an exported folder does not say" in done.stdout
    assert "latency" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--format", "onx"], "format: 'onx', allowed are timm, onnx, openvino, executorch"),
        (["running", *TORCHSCRIPT], "run: running has no export/config.json; has it finished"),
        (["plain", *TORCHSCRIPT], "config.json is not of a network that cpt-nas has exported"),
        (["run", *TORCHSCRIPT, "--dtype", "float16"], "dtype: 'float16', allowed are float32"),
        (["run", *TORCHSCRIPT, "--dtype", "bfloat16"], "dtype: bfloat16, allowed in torchscript"),
        (["run", *TORCHSCRIPT, "--device", "tpu"], "device: 'tpu', allowed are cpu and cuda"),
        (["run", *TORCHSCRIPT, "--threads", "999"], "threads: 999, allowed are 1.."),
        (["run", *TORCHSCRIPT, "--data", "nowhere"], "data: no such folder: nowhere"),
        (["run", *TORCHSCRIPT, "--data", "empty"], "data: empty holds no images"),
        (["run", *TORCHSCRIPT, "--data", "pictures"], "a.png is not a readable image"),
        (["run", *TORCHSCRIPT, "--profile", "absent.yaml"], "absent.yaml"),
        (["run", *TORCHSCRIPT, "--img-size", "1000000"], "img-size: 1000000 does not fit run"),
        (["run", "--img-size", "16"], "img-size: 16, but a folder for timm takes img_size when"),
    ],
)
def test_mistakes_are_one_line(
    cpt_nas: Shell, folder: Path, arguments: list[str], message: str
) -> None:
    assert message in refused(cpt_nas, folder, *arguments, "-o", "new")


@pytest.mark.parametrize("target", ["notes", "run", "run/export", "plain", "run/recipe.yaml"])
@pytest.mark.parametrize("format_", ["timm", "torchscript"])
def test_what_is_there_stays(cpt_nas: Shell, folder: Path, target: str, format_: str) -> None:
    arguments = ["--format", format_, "--no-timing", "-o", target]
    assert f"output: {target} " in refused(cpt_nas, folder, "run", *arguments)


def test_a_missing_package_is_named_with_the_extra(
    cpt_nas: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda package: None)
    for format_, extra in (
        ("onnx", "onnx"),
        ("openvino", "openvino"),
        ("executorch", "executorch"),
    ):
        line = refused(cpt_nas, folder, "run", "--format", format_, "-o", "new")
        assert f"the extra [{extra}] installs it" in line


def test_outputs_that_differ_are_refused(
    cpt_nas: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwprofiles.runtimes.torchscript import TorchScript

    real = TorchScript.load

    def wrong(self: TorchScript, files: Any, setting: Any) -> Any:
        runner = real(self, files, setting)
        return lambda x: runner(x) * 1.001

    monkeypatch.setattr(TorchScript, "load", wrong)
    line = refused(cpt_nas, folder, "run", *TORCHSCRIPT, "-o", "new")
    assert "format: torchscript: outputs are not the plain model's: on 64 of the run's test" in line
    assert "allowed is 0.0001" in line


class _Baked(nn.Module):
    """Takes its batch for a constant when it is traced."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.pretrained_cfg = inner.pretrained_cfg

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).reshape(int(x.shape[0]), 2)


class _Eigen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.linalg.eigvals(x).real.sum()


def test_an_open_batch_that_is_not_open_is_refused(
    cpt_nas: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpt_nas.deploy import source

    real = source.load_network
    monkeypatch.setattr(source, "load_network", lambda path, **more: _Baked(real(path, **more)))
    line = refused(cpt_nas, folder, "run", *TORCHSCRIPT, "--dynamic-batch", "-o", "new")
    assert "batch-size: what was made does not run at a batch of 1" in line


def test_a_layer_that_the_exporter_does_not_take_is_named(
    cpt_nas: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    from cpt_nas.deploy import source

    real = source.load_network

    def with_a_strange_layer(path: Path, **more: Any) -> nn.Module:
        model = real(path, **more)
        model.act1 = _Eigen()
        return model

    monkeypatch.setattr(source, "load_network", with_a_strange_layer)
    line = refused(cpt_nas, folder, "run", "--format", "onnx", "-o", "new")
    assert "the ONNX exporter does not take" in line and "because of act1 (_Eigen)" in line


def test_too_large_for_one_onnx_file(
    cpt_nas: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx_file, "LIMIT_BYTES", 100)
    line = refused(cpt_nas, folder, "run", "--format", "onnx", "-o", "new")
    assert "an ONNX file holds less than" in line and "protobuf" in line


def test_a_precision_that_the_processor_lacks(
    cpt_nas: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")

    class Older:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32"]

    monkeypatch.setattr(openvino, "_core", Older)
    arguments = ["--format", "openvino", "--dtype", "bfloat16", "-o", "new"]
    line = refused(cpt_nas, folder, "run", *arguments)
    assert "dtype: bfloat16, allowed in openvino here: float32" in line


def test_executorch_needs_a_largest_batch(cpt_nas: Shell, folder: Path) -> None:
    pytest.importorskip("executorch")
    pytest.importorskip("torchao")
    arguments = ["--format", "executorch", "--dynamic-batch", "--batch-size", "1", "-o", "new"]
    assert "dynamic-batch: executorch plans its memory" in refused(
        cpt_nas, folder, "run", *arguments
    )


def test_a_full_disk_leaves_nothing(
    cpt_nas: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("hwprofiles.output.write_whole", full)
    line = refused(cpt_nas, folder, "run", *TORCHSCRIPT, "-o", "new")
    assert "No space left on device" in line
