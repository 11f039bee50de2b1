"""What every runtime promises, by name."""

from __future__ import annotations

import copy
import gc
import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hwprofiles.runtimes import RUNTIMES, base, find_runtime
from hwprofiles.runtimes.base import Runtime, RuntimeBuildError, Setting, build_checked

CPU = Setting(torch.device("cpu"), torch.float32, 2, channels_last=False)


def _here(name: str) -> bool:
    return all(importlib.util.find_spec(package) for package in RUNTIMES[name].packages)


ON_CPU = [name for name in RUNTIMES if name != "onnxruntime-tensorrt"]


@pytest.fixture(
    params=[
        pytest.param(
            name,
            marks=[
                pytest.mark.skipif(not _here(name), reason="its packages are not installed"),
                *([pytest.mark.slow] if name == "compiled" else []),  # starts a C++ compiler
            ],
        )
        for name in ON_CPU
    ]
)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return find_runtime(request.param)


class _Small(nn.Module):
    """A residual network with all that blocks are made of, its statistics not the initial ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 9, 3, padding=1, bias=False), nn.BatchNorm2d(9)
        self.conv2, self.bn2 = nn.Conv2d(9, 9, 3, padding=1, groups=9), nn.BatchNorm2d(9)
        self.norm, self.act, self.fc = nn.LayerNorm(9), nn.GELU(), nn.Linear(9, 5)
        for norm in (self.bn1, self.bn2):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = x + self.act(self.bn2(self.conv2(x)))
        return self.fc(self.norm(x.mean((2, 3))))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return _Small()


@pytest.fixture
def example() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_outputs_are_eager_modes(runtime: Runtime, model: nn.Module, example: Tensor) -> None:
    runtime.check(CPU)
    runner = build_checked(runtime, model, example, CPU)
    other = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    plain = copy.deepcopy(model).eval()
    for x in (other, example):
        got = runner(x)
        assert got.dtype == torch.float32
        assert base.difference(got, plain(x)) <= runtime.tolerances[torch.float32]


def test_the_model_is_not_changed(runtime: Runtime, model: nn.Module, example: Tensor) -> None:
    before = copy.deepcopy(model.state_dict())
    runtime.build(model.train(), example, CPU)
    assert model.training and all(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class _Wrong(_Small):
    """Computes something else when it is copied, which every runtime does."""

    def __deepcopy__(self, memo: object) -> nn.Module:
        other = _Small()
        other.load_state_dict(self.state_dict())
        if not getattr(self, "copied", False):
            self.copied = True
            nn.init.zeros_(other.fc.bias)
            nn.init.zeros_(other.fc.weight)
        return other


def test_other_outputs_are_refused(runtime: Runtime, example: Tensor) -> None:
    with pytest.raises(RuntimeBuildError, match=f"runtime: {runtime.name} computes other outputs"):
        build_checked(runtime, _Wrong(), example, CPU)


@torch.inference_mode()
def test_one_thread_is_one_thread(runtime: Runtime, model: nn.Module) -> None:
    """Neither do others compute, nor do any wait actively, when it runs or afterwards."""
    x = torch.rand(2, 3, 96, 96)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runner = runtime.build(model, x, CPU)
        runner(x)
        wall, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() < wall + 0.2:
            runner(x)
        assert time.process_time() - cpu < 1.2 * (time.perf_counter() - wall)
        cpu = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - cpu < 0.05
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts Linux's threads")
@pytest.mark.parametrize("name", ["onnxruntime"])
def test_as_many_threads_as_asked(name: str, model: nn.Module, example: Tensor) -> None:
    if not _here(name):
        pytest.skip("its packages are not installed")
    counts = []
    for threads in (1, 3):
        before = len(os.listdir("/proc/self/task"))
        runner = find_runtime(name).build(model, example, replace(CPU, threads=threads))
        counts.append(len(os.listdir("/proc/self/task")) - before)
        del runner
        gc.collect()
    assert counts == [0, 2]  # the caller is one of them


@pytest.fixture
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path


def test_nothing_is_left_behind(
    runtime: Runtime, model: nn.Module, example: Tensor, own_tmp: Path
) -> None:
    if runtime.name == "compiled":
        pytest.skip("torch.compile keeps its cache of compiled code on purpose")
    here = sorted(os.listdir())
    runner = runtime.build(model, example, CPU)
    with torch.inference_mode():
        runner(example)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    assert not [*own_tmp.iterdir()] and sorted(os.listdir()) == here
    assert not children.is_file() or not children.read_text()


def test_another_version_is_another_fingerprint(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = runtime.fingerprint(CPU)
    assert ours == runtime.fingerprint(CPU) and ours.name == runtime.name
    monkeypatch.setattr(base.metadata, "version", lambda package: "99.0.1+abc")
    other = runtime.fingerprint(CPU)
    assert other.version == "99.0.1" and other != ours


def test_what_it_cannot_do_is_refused(runtime: Runtime) -> None:
    with pytest.raises(ValueError, match="dtype: float64, allowed in"):
        runtime.check(replace(CPU, dtype=torch.float64))
    if runtime.name not in ("eager", "compiled"):
        with pytest.raises(ValueError, match=r"channels_last: .* chooses the memory format"):
            runtime.check(replace(CPU, channels_last=True))
    if runtime.name not in ("eager", "compiled", "torchscript"):
        with pytest.raises(ValueError, match="device: cuda"):
            runtime.check(replace(CPU, device=torch.device("cuda")))


class _Unknown(nn.Module):
    """Its operation depends on values, and no graph can be made of what it answers."""

    def forward(self, x: Tensor) -> object:
        y = torch.linalg.eigvals(x[:, 0]).real if bool(x.sum() > 0) else x
        return {"y": y, "name": "eigenvalues"}


def test_a_model_that_it_cannot_take_is_one_line(runtime: Runtime, example: Tensor) -> None:
    if runtime.name == "eager":
        pytest.skip("takes everything")
    with pytest.raises(RuntimeBuildError, match="does not take _Unknown: ") as caught:
        runtime.build(_Unknown(), example, CPU)
    assert "\n" not in str(caught.value)


def test_bfloat16_is_stated_and_near(model: nn.Module, example: Tensor) -> None:
    if not _here("openvino"):
        pytest.skip("its packages are not installed")
    runtime, setting = find_runtime("openvino"), replace(CPU, dtype=torch.bfloat16)
    try:
        runtime.check(setting)
    except ValueError as refusal:
        assert "allowed in openvino here: float32" in str(refusal)  # an older processor
        return
    with torch.inference_mode():
        exact = runtime.build(model, example, CPU)(example)
        rounded = build_checked(runtime, model, example, setting)(example)
    assert 1e-4 < base.difference(rounded, exact) < runtime.tolerances[torch.bfloat16]


def test_a_name_and_a_package_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="runtime: 'onnx', allowed are eager, compiled, torchscr"):
        find_runtime("onnx")
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"openvino needs openvino, onnx, .* extra \[openvino\]"):
        find_runtime("openvino")
    find_runtime("eager")
