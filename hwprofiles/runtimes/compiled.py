"""torch.compile, on the CPU or on CUDA."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from hwprofiles.runtimes.base import (
    Runner,
    Runtime,
    Setting,
    Tolerances,
    known_dtype,
    not_taken,
    place,
)


class Compiled(Runtime):
    """The default mode of torch.compile for a fixed input shape."""

    name = "compiled"
    # Fused arithmetic rounds otherwise; bfloat16 has 8 bits.
    tolerances: ClassVar[Tolerances] = {torch.float32: 1e-4, torch.bfloat16: 0.1}

    def check(self, setting: Setting) -> None:
        known_dtype(self, setting, [*self.tolerances])

    def provider(self, setting: Setting) -> str:
        return "inductor"

    def build(self, model: nn.Module, example: Tensor, setting: Setting) -> Runner:
        network = place(model, setting)
        compiled = torch.compile(network, dynamic=False, fullgraph=True)
        x = example.to(setting.device, setting.dtype)
        try:
            with torch.inference_mode():
                compiled(x)
        except Exception as error:  # the compiler's own, of many kinds
            raise not_taken(self.name, model, error) from error
        return compiled
