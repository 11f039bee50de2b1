"""PyTorch in eager mode, on the CPU or on CUDA: models and layers set up to run in one setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from hwprofiles.allocator import keep_freed_memory
from hwprofiles.device import fixed_threads
from hwprofiles.layers import LayerSpec, build
from hwprofiles.plan import Widths
from hwprofiles.runtimes.base import (
    Runner,
    Runtime,
    Setting,
    Tolerances,
    known_dtype,
    place,
)
from hwprofiles.runtimes.timers import Case

# Every layer of a chain gets weights of its own, as in the network, if all fit into this much.
MAX_OWN_BYTES = 2 * 2**30
# Everything is calibrated to whole networks, so their blocks are longer.
NETWORK_BLOCK_S = 10e-3


class Eager(Runtime):
    """PyTorch as it is: every operation is launched from Python."""

    name = "eager"
    # Bfloat16 has 8 bits.
    tolerances: ClassVar[Tolerances] = {torch.float32: 1e-6, torch.bfloat16: 0.1}
    graph_optimization = "none"

    def check(self, setting: Setting) -> None:
        known_dtype(self, setting, [*self.tolerances])

    def provider(self, setting: Setting) -> str:
        return "torch"

    def build(self, model: nn.Module, example: Tensor, setting: Setting) -> Runner:
        return place(model, setting)


class InputPool:
    """Inputs of all layers share one buffer of random numbers and one of zeros.

    Hundreds of cases wait for their next round; with own inputs they would not fit into memory.
    ``reset`` starts the next case; within one case no two tensors overlap.
    """

    def __init__(self, setting: Setting, size: int) -> None:
        self.setting = setting
        self.random = torch.rand(size, device=setting.device).to(setting.dtype)
        self.zeros = torch.zeros_like(self.random)
        self.used = 0

    def reset(self) -> None:
        self.used = 0

    def __call__(self, shape: tuple[int, ...], zeros: bool) -> Tensor:
        size = torch.Size(shape).numel()
        flat = (self.zeros if zeros else self.random)[self.used : self.used + size]
        self.used += size
        if self.setting.channels_last and len(shape) == 4:
            b, c, h, w = shape
            return flat.view(b, h, w, c).permute(0, 3, 1, 2)
        return flat.view(shape)


class Builder:
    """Builds layers to be timed; layers of one signature share their weights only if they must.

    Args:
        work: all layers that are going to be built, with their widths.
        setting: where and how they run.
    """

    def __init__(self, work: Sequence[tuple[LayerSpec, Widths]], setting: Setting) -> None:
        self.setting = setting
        elements = max(_input_elements(spec, i, setting.batch_size) for spec, (i, _) in work)
        self.pool = InputPool(setting, elements)
        params = sum(spec.params_coefficients.at(*widths) for spec, widths in work)
        self.own = params * setting.dtype.itemsize <= MAX_OWN_BYTES
        self._shared: dict[tuple[str, int, int], Case] = {}

    def case(self, spec: LayerSpec, in_channels: int, out_channels: int) -> Case:
        """A call of this layer at these widths, on an input from the pool."""
        key = (spec.signature, in_channels, out_channels)
        if key in self._shared:
            return self._shared[key]
        s = self.setting
        self.pool.reset()
        function, x = build(
            spec,
            in_channels,
            out_channels,
            s.batch_size,
            s.dtype,
            s.device,
            s.channels_last,
            self.pool,
        )
        case = call_of(function, x)
        if not self.own or not spec.params:
            self._shared[key] = case
        return case


def _input_elements(spec: LayerSpec, in_channels: int, batch_size: int) -> int:
    assert spec.operation is not None
    shapes = [t.at(in_channels, batch_size) for t in spec.operation.tensors()]
    return sum(torch.Size(shape).numel() for shape in shapes)


def call_of(function: Callable[[Tensor], object], x: Tensor) -> Case:
    """``function`` on ``x``, as a case to time."""
    return lambda: function(x)


@contextmanager
def pinned(setting: Setting) -> Iterator[None]:
    """Fix the threads, the random state and cuDNN's choices, as the workload records them.

    All are restored afterwards. Only freed memory is kept from now on (``allocator.py``).
    """
    keep_freed_memory()
    devices = [setting.device] if setting.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(fixed_threads(setting.threads))
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.backends.cudnn.flags(benchmark=False, allow_tf32=False))
        torch.manual_seed(0)
        yield
