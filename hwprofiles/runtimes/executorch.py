"""ExecuTorch with the XNNPACK backend: what phones and boards run PyTorch models with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hwprofiles.runtimes.base import (
    Runner,
    Setting,
    Tolerances,
    known_dtype,
    not_read,
    own_format,
)
from hwprofiles.runtimes.file_runtime import FileRuntime, Files, converted


class ExecuTorch(FileRuntime):
    """Programs lowered to XNNPACK, run in this process. One pool of threads serves them all."""

    name = "executorch"
    packages = ("executorch", "torchao", "flatbuffers")
    extra = "executorch"
    # Convolutions in another order of additions.
    tolerances: ClassVar[Tolerances] = {torch.float32: 1e-3}
    distribution = "executorch"
    exporter = "torch.export"

    def require(self) -> None:
        with _quiet():  # torchao tells of what it does without
            super().require()

    def check(self, setting: Setting) -> None:
        own_format(self, setting)
        known_dtype(self, setting, [*self.tolerances])

    def provider(self, setting: Setting) -> str:
        return "XNNPACK"

    def convert(self, model: nn.Module, example: Tensor, dynamic_batch: bool = False) -> Files:
        with _quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
                XnnpackPartitioner,
            )
            from executorch.exir import to_edge_transform_and_lower

            def lower(network: nn.Module, x: Tensor) -> bytes:
                shapes = None
                if dynamic_batch:  # memory is planned for the largest
                    shapes = ({0: torch.export.Dim("batch", min=1, max=len(x))},)
                exported = torch.export.export(network, (x,), dynamic_shapes=shapes)
                lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
                return bytes(lowered.to_executorch().buffer)

            return {".pte": converted(self.name, model, example, lower)}

    def load(self, files: Files, setting: Setting) -> Runner:
        with _quiet():
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime

            portable_lib._unsafe_reset_threadpool(setting.threads)
            try:
                return _Runner(files[".pte"], Runtime.get().load_program(files[".pte"]))
            except RuntimeError as error:
                raise not_read(self.name, error) from error


class _Runner:
    def __init__(self, content: bytes, program: Any) -> None:
        self.content, self.program = content, program  # the method reads them, and owns neither
        self.method = program.load_method("forward")

    def __call__(self, x: Tensor) -> Tensor:
        return self.method.execute([x])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Its native parts write to the process's standard error on every load."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
