"""TorchScript: a traced model, run by libtorch without Python, on the CPU or on CUDA."""

from __future__ import annotations

import io
import warnings
from typing import ClassVar

import torch
from torch import Tensor, nn

from hwprofiles.runtimes.base import Runner, Setting, Tolerances, known_dtype, not_read
from hwprofiles.runtimes.file_runtime import FileRuntime, Files, converted


class TorchScript(FileRuntime):
    """Traced and frozen: what is constant is folded, batch norms into convolutions."""

    name = "torchscript"
    # Folded batch norms round otherwise.
    tolerances: ClassVar[Tolerances] = {torch.float32: 1e-4}
    graph_optimization = "frozen"
    exporter = "torch.jit.trace"

    def check(self, setting: Setting) -> None:
        known_dtype(self, setting, [*self.tolerances])
        if setting.channels_last:
            raise ValueError(f"channels_last: {self.name} chooses the memory format by itself")

    def provider(self, setting: Setting) -> str:
        return "torch"

    def convert(self, model: nn.Module, example: Tensor, dynamic_batch: bool = False) -> Files:
        # A trace takes any batch, unless the model computes with it in Python; whoever needs
        # others than the example's compares outputs at them.
        def trace(network: nn.Module, x: Tensor) -> bytes:
            content = io.BytesIO()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of shapes that are traced as constants
                traced = torch.jit.trace(network, x, check_trace=False)
                torch.jit.save(torch.jit.freeze(traced), content)
            return content.getvalue()

        return {".pt": converted(self.name, model, example, trace)}

    def load(self, files: Files, setting: Setting) -> Runner:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.jit.load(io.BytesIO(files[".pt"]), map_location=setting.device)
        except RuntimeError as error:
            raise not_read(self.name, error) from error
