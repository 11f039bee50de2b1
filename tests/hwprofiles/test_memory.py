"""Memory: sums are exact, the analytic peak is that of small cases counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hwprofiles import memory


class Chain(nn.Module):
    """Every layer's output is dropped when the next one is done."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(5):
            x = x + 1
        return x


class Residual(nn.Module):
    """The first output lives until the addition."""

    def forward(self, x: Tensor) -> Tensor:
        kept = x + 1
        y = kept * 2
        y = y * 3
        return kept + y


class Views(nn.Module):
    """Makes nothing new."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).reshape(-1).view(-1, 2)


def test_parameter_bytes_count_each_tensor_once() -> None:
    layer = nn.Linear(10, 10)
    shared = nn.Sequential(layer, layer, nn.BatchNorm1d(10))
    # 110 parameters, 20 of the norm, 20 running statistics, one 8-byte counter.
    assert memory.parameter_bytes(shared) == 4 * 150 + 8


@pytest.mark.parametrize(("model", "alive"), [(Chain(), 2), (Residual(), 3), (Views(), 0)])
def test_peak_of_live_tensors(model: nn.Module, alive: int) -> None:
    x = torch.zeros(2, 1000)
    assert memory.peak_analytic_bytes(model, x) == (1 + alive) * 2 * 1000 * 4


@pytest.mark.gpu
def test_measured_peak_on_cuda() -> None:
    model = nn.Linear(1024, 8192).cuda()
    x = torch.rand(1024, 1024, device="cuda")
    assert memory.peak_cuda_bytes(model, x) >= x.nbytes + 1024 * 8192 * 4
