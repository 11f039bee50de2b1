"""Multiply-adds of a layer: fvcore's count, and attention, which fvcore passes over.

Fused attention is counted as the two products that it is made of, so that a network costs the same
whether its attention is fused or not. Where fvcore counts nothing, torch's own counter is asked,
which counts a multiply-add as two. What only torch counts (recurrent layers), and what neither
counts (Fourier transforms), is remarked on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

with warnings.catch_warnings():  # fvcore warns on import about its own dependencies
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape

NOT_COUNTED = ("bilinear", "cdist", "fft_", "_fft_", "stft", "istft")
"""Beginnings of torch's operators whose work neither fvcore nor torch counts."""


def count_macs(function: Callable[[Tensor], Any], x: Tensor) -> tuple[float, str]:
    """Multiply-adds of ``function(x)``, and a remark where they are not fvcore's.

    Args:
        function: a module or function, on the CPU.
        x: its input.
    """
    analysis = FlopCountAnalysis(_AsModule(function), x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention)
    analysis.set_op_handle("aten::baddbmm", lambda given, out: _product(given[1:], out))
    analysis.set_op_handle("aten::matmul", _product, "aten::mv", _product)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        macs, unknown = float(analysis.total()), list(analysis.unsupported_ops())
        if macs or not unknown:
            return macs, ""
        macs = _torchs_count(function, x)
    if macs:
        return macs, "as torch counts them, for fvcore does not"
    left_out = any(_is_work(name) for name in unknown)
    return 0.0, "not counted, for neither fvcore nor torch does" if left_out else ""


class _AsModule(nn.Module):
    """fvcore counts modules only."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def _attention(inputs: list[Any], outputs: list[Any]) -> float:
    """Queries by keys, and the result by values."""
    query, key, value = (get_shape(v) for v in inputs[:3])
    batch, (tokens, width), others = query[:-2], query[-2:], key[-2]
    return float(math.prod(batch) * tokens * others * (width + value[-1]))


def _product(inputs: list[Any], outputs: list[Any]) -> float:
    """As fvcore counts it, which knows no products with vectors."""
    left, right = (get_shape(v) for v in inputs[:2])
    if len(left) == 1:
        return float(math.prod(right))
    return float(math.prod(left) * (right[-1] if len(right) > 1 else 1))


def _torchs_count(function: Callable[[Tensor], Any], x: Tensor) -> float:
    # Composed of products that the counter knows, not one kernel that it may not know.
    plain = sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False)
    with torch.no_grad(), plain[0], plain[1], FlopCounterMode(display=False) as counter:
        function(x)
    return counter.get_total_flops() / 2


def _is_work(operator: str) -> bool:
    """Whether an operator multiplies and adds more than once an element, or may."""
    namespace, _, name = operator.partition("::")
    return namespace not in ("aten", "prim") or name.startswith(NOT_COUNTED)
