"""What runtimes that read files promise of the files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hwprofiles.runtimes import RUNTIMES, base, onnx_file
from hwprofiles.runtimes.base import RuntimeBuildError, Setting
from hwprofiles.runtimes.file_runtime import FileRuntime

CPU = Setting(torch.device("cpu"), torch.float32, 2, channels_last=False)


def _here(name: str) -> bool:
    return all(importlib.util.find_spec(package) for package in RUNTIMES[name].packages)


@pytest.fixture(
    params=[
        pytest.param(
            name, marks=pytest.mark.skipif(not _here(name), reason="its packages are not installed")
        )
        for name, runtime in RUNTIMES.items()
        if isinstance(runtime, FileRuntime) and name != "onnxruntime-tensorrt"
    ]
)
def runtime(request: pytest.FixtureRequest) -> FileRuntime:
    found = RUNTIMES[request.param]
    assert isinstance(found, FileRuntime)
    return found


class _Net(nn.Module):
    """Its forward pass reshapes by the batch, as attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.fc = nn.Linear(8, 4)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.norm(self.conv(x)))
        x = x.reshape(x.shape[0], 2, 4, -1).transpose(1, 2)
        return self.fc(x.reshape(x.shape[0], 8, -1).mean(2))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return _Net().eval()


def inputs(batch: int) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))


@torch.inference_mode()
def test_an_open_batch_takes_others(runtime: FileRuntime, model: nn.Module) -> None:
    files = runtime.convert(model, inputs(4), dynamic_batch=True)
    runner = runtime.load(files, CPU)
    for batch in (4, 1, 3):
        got = runner(inputs(batch))
        assert got.shape == (batch, 4)
        assert base.difference(got, model(inputs(batch))) <= runtime.tolerances[torch.float32]


def test_the_files_say_all(runtime: FileRuntime, model: nn.Module, tmp_path: Path) -> None:
    """Weights are inside, however few they are, and what was written is what is read."""
    files = runtime.convert(model, inputs(1))
    assert len(files) == (2 if runtime.name == "openvino" else 1)  # there a graph and its weights
    assert sum(map(len, files.values())) > 4 * sum(p.numel() for p in model.parameters())
    again = {}
    for ending, content in files.items():
        (tmp_path / f"m{ending}").write_bytes(content)
        again[ending] = (tmp_path / f"m{ending}").read_bytes()
    with torch.inference_mode():
        got = runtime.load(again, CPU)(inputs(1))
        assert base.difference(got, model(inputs(1))) <= runtime.tolerances[torch.float32]


def test_the_layer_that_is_not_taken_is_named(runtime: FileRuntime, model: nn.Module) -> None:
    if runtime.name == "torchscript":
        pytest.skip("a trace takes any operation")
    model.inner[0] = _Eigenvalues()
    with pytest.raises(RuntimeBuildError, match=r"_Net, because of inner.0 \(_Eigenvalues\): ."):
        runtime.convert(model, inputs(2))


class _Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 1e9):
            return x
        return torch.linalg.eigvals(x).real[..., None, :] + x


def test_a_file_of_another_kind_is_one_line(runtime: FileRuntime) -> None:
    files = dict.fromkeys((".onnx", ".xml", ".bin", ".pte", ".pt"), b"nothing")
    with pytest.raises(RuntimeBuildError, match=f"{runtime.name} does not read the model: ") as no:
        runtime.load(files, CPU)
    assert "\n" not in str(no.value)


def test_more_than_an_onnx_file_holds(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "LIMIT_BYTES", 1000)
    with pytest.raises(RuntimeBuildError, match=r"holds less than .*protobuf.* weights of _Net"):
        onnx_file.onnx_bytes(model, inputs(1))
