"""A second opinion on multiply-adds."""

from __future__ import annotations

from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn


def fvcore_total(model: nn.Module, x: Tensor) -> float:
    """What fvcore counts for the model as one."""
    analysis = FlopCountAnalysis(model.eval(), x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    return analysis.total()
