"""Second opinions on multiply-adds: fvcore's of a whole model, and attention as it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def fvcore_total(model: nn.Module, x: Tensor) -> float:
    """What fvcore counts for the model as one. It counts no fused attention."""
    analysis = FlopCountAnalysis(model.eval(), x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    return analysis.total()


def attention_total(model: nn.Module, x: Tensor) -> float:
    """Multiply-adds of the fused attention that the model calls: q k^T, and that times v."""
    with torch.no_grad(), _FusedAttention() as seen:
        model.eval()(x)
    return seen.macs


class _FusedAttention(TorchFunctionMode):
    macs = 0.0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            q, k, v = args[:3]
            heads = q[..., 0, 0].numel()
            self.macs += heads * q.shape[-2] * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        return func(*args, **(kwargs or {}))
