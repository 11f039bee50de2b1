"""Inference memory: exact sums, an analytic peak, and the measured peak.

On the CPU the measured peak is that of a fresh process, which runs this file: a process knows its
lifetime maximum only, and the allocator keeps what was freed.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

TIMEOUT_S = 300


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


def peak_measured_bytes(model: nn.Module, x: Tensor, threads: int) -> int | None:
    """Peak of one forward pass, parameters included; None where it cannot be measured.

    Args:
        model: on the device to be measured.
        x: [B, ...] on the same device.
        threads: of the fresh process.
    """
    if x.is_cuda:
        return _cuda_peak(model, x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        try:
            torch.save((model, x), path)
        except (pickle.PicklingError, AttributeError, TypeError, RuntimeError):
            return None  # a class that another process cannot import
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        try:
            done = subprocess.run(
                # -P: this package's folder is not searched for modules.
                [sys.executable, "-P", __file__, str(path), str(threads)],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                env=environment,
            )
        except subprocess.TimeoutExpired:
            return None
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else None


def _cuda_peak(model: nn.Module, x: Tensor) -> int:
    with torch.inference_mode():
        model(x)
        torch.cuda.synchronize(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        before = torch.cuda.memory_allocated(x.device)
        model(x)
        torch.cuda.synchronize(x.device)
    grown = torch.cuda.max_memory_allocated(x.device) - before
    return parameter_bytes(model) + x.numel() * x.element_size() + grown


def _here(path: str, threads: int) -> int | None:
    """Run the model in ``path`` in this process: how much its peak memory grew, in bytes."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        # The libraries' own set-up and the code that the model imports are not its memory.
        torch.load(path, weights_only=False, map_location="meta")
        nn.Conv2d(8, 8, 3)(torch.zeros(1, 8, 16, 16))
        nn.Linear(256, 256)(torch.zeros(64, 256))
        before = _status_bytes("VmRSS")
        model, x = torch.load(path, weights_only=False)  # written by peak_measured_bytes
        model(x)
    peak = _status_bytes("VmHWM")
    return None if before is None or peak is None else max(peak - before, 0)


def _status_bytes(field: str) -> int | None:
    """A line of /proc/self/status; None without one.

    Not getrusage: its ru_maxrss is inherited from the process that started this one.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    kib = next((line.split()[1] for line in lines if line.startswith(f"{field}:")), None)
    return None if kib is None else int(kib) * 1024


def _address(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in _tensors(item)]
    return []


if __name__ == "__main__":
    print(_here(sys.argv[1], int(sys.argv[2])))
