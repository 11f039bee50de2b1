"""OpenVINO on the CPU.

The precision is always stated: by default OpenVINO computes in bfloat16 on processors that have it,
which is faster and less exact.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hwprofiles.runtimes.base import (
    Runner,
    Setting,
    Tolerances,
    known_dtype,
    not_read,
    not_taken,
    own_format,
)
from hwprofiles.runtimes.file_runtime import FileRuntime, Files
from hwprofiles.runtimes.onnx_file import EXPORTER, onnx_bytes

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
# Names of the precisions among what a device says that it is able to do.
CAPABILITIES = {torch.float32: "FP32", torch.bfloat16: "BF16"}


class OpenVino(FileRuntime):
    """Models compiled for latency, one stream."""

    name = "openvino"
    packages = ("openvino", "onnx")
    extra = "openvino"
    # Convolutions in another order of additions; bfloat16 has 8 bits, through all layers.
    tolerances: ClassVar[Tolerances] = {torch.float32: 1e-3, torch.bfloat16: 0.1}
    distribution = "openvino"
    exporter = EXPORTER

    def check(self, setting: Setting) -> None:
        own_format(self, setting)
        able = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        known_dtype(self, setting, [d for d in PRECISIONS if CAPABILITIES[d] in able])

    def provider(self, setting: Setting) -> str:
        return "CPU"

    def convert(self, model: nn.Module, example: Tensor, dynamic_batch: bool = False) -> Files:
        import openvino

        content = onnx_bytes(model, example, dynamic_batch)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.xml"
            try:
                graph = _core().read_model(io.BytesIO(content))
                openvino.save_model(graph, path, compress_to_fp16=False)  # by default it would
            except RuntimeError as error:
                raise not_taken(self.name, model, error) from error
            return {".xml": path.read_bytes(), ".bin": path.with_suffix(".bin").read_bytes()}

    def load(self, files: Files, setting: Setting) -> Runner:
        return _Runner(self._compiled(files, setting))

    def fused(self, files: Files, setting: Setting) -> list[str] | None:
        groups = []
        for node in self._compiled(files, setting).get_runtime_model().get_ordered_ops():
            told = str(node.get_rt_info()["originalLayersNames"].astype(str))
            names = dict.fromkeys(n.removesuffix("/WithoutBiases") for n in told.split(","))
            # Folded into a constant is not executed.
            if len(names) > 1 and node.get_rt_info()["layerType"].astype(str) != "Const":
                groups.append(" + ".join(names))
        return groups

    def _compiled(self, files: Files, setting: Setting) -> Any:
        core = _core()
        hints = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[setting.dtype],
            "INFERENCE_NUM_THREADS": setting.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
        }
        try:
            graph = core.read_model(files[".xml"], files[".bin"])
            return core.compile_model(graph, "CPU", hints)
        except RuntimeError as error:
            raise not_read(self.name, error) from error


class _Runner:
    def __init__(self, compiled: Any) -> None:
        self.request = compiled.create_infer_request()

    def __call__(self, x: Tensor) -> Tensor:
        # In bfloat16 as well the file's input and output are float32.
        self.request.infer([x.float().numpy()], share_inputs=True, share_outputs=True)
        return torch.from_numpy(self.request.get_output_tensor(0).data)


def _core() -> Any:
    import openvino

    return openvino.Core()
