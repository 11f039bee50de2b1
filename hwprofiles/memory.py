"""Inference memory: exact sums, an analytic peak, and the peak that CUDA's allocator measures.

On the CPU a peak is measured in a fresh process (``fresh_process.py``).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, each tensor once."""
    tensors = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def peak_analytic_bytes(model: nn.Module, x: Tensor) -> int:
    """Parameters, buffers, input and the tensors alive at the worst moment of a forward pass.

    Workspaces that a kernel allocates inside itself are not seen.

    Args:
        model: in the mode to be measured.
        x: [B, ...].
    """
    with torch.no_grad(), _LiveBytes() as live:
        model(x)
    return parameter_bytes(model) + x.numel() * x.element_size() + live.peak


class _LiveBytes(TorchDispatchMode):
    """Follows every storage that is made, from the first tensor on it to the last."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._tensors: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        known = {_address(t) for t in _tensors(args)} - set(self._tensors)
        output = func(*args, **(kwargs or {}))
        for t in _tensors(output):
            address = _address(t)
            if address in known or not t.numel():  # a view of a parameter or of the input
                continue
            if address not in self._tensors:
                self.now += t.untyped_storage().nbytes()
            self._tensors[address] = self._tensors.get(address, 0) + 1
            weakref.finalize(t, self._forget, address, t.untyped_storage().nbytes())
        self.peak = max(self.peak, self.now)
        return output

    def _forget(self, address: int, size: int) -> None:
        self._tensors[address] -= 1
        if not self._tensors[address]:
            del self._tensors[address]
            self.now -= size


def peak_cuda_bytes(runner: Callable[[Tensor], object], x: Tensor) -> int:
    """How much CUDA memory a call takes at most, the input included and parameters not.

    Args:
        runner: PyTorch's allocator serves it.
        x: [B, ...] on the device.
    """
    with torch.inference_mode():
        runner(x)
        torch.cuda.synchronize(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        before = torch.cuda.memory_allocated(x.device)
        runner(x)
        torch.cuda.synchronize(x.device)
    return torch.cuda.max_memory_allocated(x.device) - before + x.numel() * x.element_size()


def _address(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in _tensors(item)]
    return []
