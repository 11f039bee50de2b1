"""Which layers a runtime runs as one, where it says so."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor, nn

from hwprofiles.runtimes import find_runtime
from hwprofiles.runtimes.base import Setting
from hwprofiles.runtimes.file_runtime import FileRuntime

CPU = Setting(torch.device("cpu"), torch.float32, 1, channels_last=False)


class _Blocks(nn.Module):
    """Two residual blocks; the first one's addition has one reader, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.expand, self.act, self.project = nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Conv2d(32, 16, 1)
        self.head, self.fc = nn.Conv2d(16, 16, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.project(self.act(self.expand(x)))
        return self.fc(self.head(x).mean((2, 3)))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_groups_are_named_as_in_the_file(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip("its packages are not installed")
    runtime = find_runtime(name)
    assert isinstance(runtime, FileRuntime)
    groups = runtime.fused(runtime.convert(_Blocks(), torch.rand(1, 3, 16, 16)), CPU)
    assert groups is not None
    assert "/expand/Conv + /act/Relu" in groups
    members = [node for group in groups for node in group.split(" + ")]
    assert len(members) == len(set(members))
    # Where the addition is fused, it is into the convolution before it.
    assert not any(group.startswith("/Add") for group in groups)
    assert all("/head/Conv" not in group for group in groups if "/Add" in group)


def test_one_that_does_not_say_it_says_nothing() -> None:
    runtime = find_runtime("torchscript")
    assert isinstance(runtime, FileRuntime)
    assert runtime.fused({}, CPU) is None
