"""A network in a process of its own: what it grows by, what its first call takes."""

from __future__ import annotations

import importlib.util
import shutil
import sys

import pytest
import torch
from torch import Tensor, nn

from hwprofiles import memory
from hwprofiles.fresh_process import Fresh, run_fresh
from hwprofiles.runtimes import find_runtime
from hwprofiles.runtimes.base import Setting
from hwprofiles.runtimes.file_runtime import FileRuntime

MIB = 2**20
CPU = Setting(torch.device("cpu"), torch.float32, 1024, channels_last=False)


def _wide() -> tuple[nn.Module, Tensor]:
    """64 MiB of weights and a hidden activation of 32 MiB, far above a process's own noise."""
    model = nn.Sequential(nn.Linear(1024, 8192), nn.ReLU(), nn.Linear(8192, 1024)).eval()
    return model, torch.rand(1024, 1024)


def test_the_peak_is_the_networks() -> None:
    model, x = _wide()
    fresh = run_fresh(find_runtime("eager"), model, None, x, CPU)
    analytic = memory.peak_analytic_bytes(model, x)
    assert fresh.peak_bytes is not None and fresh.first_call_s is not None
    # Whole pages, and the matrix product's workspace comes on top.
    assert 0.9 * analytic < fresh.peak_bytes < 1.25 * analytic + 16 * MIB
    assert fresh.load_s is not None and 0 < fresh.first_call_s < 60


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="not installed")
@pytest.mark.slow
def test_another_runtime_has_a_peak_of_its_own() -> None:
    model, x = _wide()
    runtime = find_runtime("onnxruntime")
    assert isinstance(runtime, FileRuntime)
    fresh = run_fresh(runtime, model, runtime.convert(model, x), x, CPU)
    assert fresh.peak_bytes is not None
    # Neither the file nor PyTorch's copy of the weights is in it; its own two copies may be.
    assert 90 * MIB < fresh.peak_bytes < 260 * MIB
    assert fresh.load_s and fresh.first_call_s


def test_a_model_that_no_other_process_can_import_is_not_known() -> None:
    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    eager = find_runtime("eager")
    assert run_fresh(eager, Local(), None, torch.zeros(1, 1), CPU) == Fresh()
    assert Fresh() == Fresh(peak_bytes=None, load_s=None, first_call_s=None)


def test_a_process_that_fails_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert run_fresh(find_runtime("eager"), nn.ReLU(), None, torch.zeros(1, 1), CPU) == Fresh()
