"""ONNX Runtime: on the CPU, and on NVIDIA devices by its CUDA or TensorRT provider.

Idle threads of a session sleep. By default they spin, and everything else in the process, a second
session or PyTorch itself, then runs many times slower; a measurement of several networks in turn
would measure that.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hwprofiles.runtimes.base import (
    Runner,
    RuntimeBuildError,
    Setting,
    Tolerances,
    known_dtype,
    not_read,
)
from hwprofiles.runtimes.file_runtime import FileRuntime, Files
from hwprofiles.runtimes.onnx_file import EXPORTER, INPUT, OUTPUT, onnx_bytes
from hwprofiles.runtimes.onnx_fusions import fused_nodes

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


class OnnxRuntime(FileRuntime):
    """Sessions with all graph optimisations and a thread pool each; CUDA's provider on CUDA."""

    name = "onnxruntime"
    packages = ("onnxruntime", "onnx")
    extra = "onnx"
    # Convolutions in another order of additions; on CUDA in TF32 as well, which has 10 bits.
    tolerances: ClassVar[Tolerances] = {torch.float32: 1e-3}
    distribution = "onnxruntime"
    graph_optimization = "all"
    exporter = EXPORTER

    def check(self, setting: Setting) -> None:
        import onnxruntime

        known_dtype(self, setting, [*self.tolerances])
        if setting.channels_last:
            raise ValueError(f"channels_last: {self.name} chooses the memory format by itself")
        provider, here = self.provider(setting), onnxruntime.get_available_providers()
        if provider not in here:
            raise ValueError(
                f"device: {setting.device.type}, but this onnxruntime has no {provider}; it has "
                f"{', '.join(here)}"
            )

    def convert(self, model: nn.Module, example: Tensor, dynamic_batch: bool = False) -> Files:
        return {".onnx": onnx_bytes(model, example, dynamic_batch)}

    def load(self, files: Files, setting: Setting) -> Runner:
        session = self._session(files, setting)
        provider = self.provider(setting)
        if session.get_providers()[0] != provider:  # it falls back to the CPU by itself
            raise RuntimeBuildError(
                f"runtime: {self.name} runs in {session.get_providers()[0]}, wanted is {provider}"
            )
        return _CpuRunner(session) if provider == CPU else _CudaRunner(session)

    def fused(self, files: Files, setting: Setting) -> list[str] | None:
        import onnx

        if self.provider(setting) == TENSORRT:
            return None  # whole subgraphs, whose inside it does not tell
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            self._session(files, setting, path)
            optimized = onnx.load(path).graph
        return fused_nodes(onnx.load_from_string(files[".onnx"]).graph, optimized, [INPUT])

    def _session(self, files: Files, setting: Setting, optimized: Path | None = None) -> Any:
        """``optimized``: where the graph is written that it makes of the file's."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setting.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4 if optimized else 3  # it warns that the file is of this CPU
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        try:
            return onnxruntime.InferenceSession(
                files[".onnx"], options, providers=[self.provider(setting)]
            )
        except Exception as error:  # onnxruntime's own, of many kinds
            raise not_read(self.name, error) from error

    def provider(self, setting: Setting) -> str:
        return CUDA if setting.device.type == "cuda" else CPU


class TensorRt(OnnxRuntime):
    """The same with NVIDIA's TensorRT provider, on CUDA devices."""

    name = "onnxruntime-tensorrt"

    def provider(self, setting: Setting) -> str:
        return TENSORRT


class _CpuRunner:
    def __init__(self, session: Any) -> None:
        self.session = session

    def __call__(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {INPUT: x.numpy()})[0])


class _CudaRunner:
    """Input and output stay on the device, as they would in a pipeline there."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.binding = session.io_binding()
        self.shape = tuple(session.get_outputs()[0].shape)[1:]  # of one example

    def __call__(self, x: Tensor) -> Tensor:
        import numpy as np

        x = x.contiguous()
        out = torch.empty((len(x), *self.shape), dtype=torch.float32, device=x.device)
        index = x.device.index or 0
        for bind, name, tensor in [
            (self.binding.bind_input, INPUT, x),
            (self.binding.bind_output, OUTPUT, out),
        ]:
            bind(name, "cuda", index, np.float32, tuple(tensor.shape), tensor.data_ptr())
        torch.cuda.current_stream(x.device).synchronize()  # onnxruntime has a stream of its own
        self.session.run_with_iobinding(self.binding)
        return out
