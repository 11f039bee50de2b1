"""ExecuTorch with the XNNPACK backend: what phones and boards run PyTorch models with."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hwprofiles.runtimes.base import (
    Runner,
    Runtime,
    Setting,
    Tolerances,
    known_dtype,
    not_taken,
    own_format,
)


class ExecuTorch(Runtime):
    """Programs lowered to XNNPACK, run in this process. One pool of threads serves them all."""

    name = "executorch"
    packages = ("executorch", "torchao", "flatbuffers")
    extra = "executorch"
    # Convolutions in another order of additions.
    tolerances: ClassVar[Tolerances] = {torch.float32: 1e-3}
    distribution = "executorch"
    exporter = "torch.export"

    def check(self, setting: Setting) -> None:
        own_format(self, setting)
        known_dtype(self, setting, [*self.tolerances])

    def provider(self, setting: Setting) -> str:
        return "XNNPACK"

    def build(self, model: nn.Module, example: Tensor, setting: Setting) -> Runner:
        with _quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
                XnnpackPartitioner,
            )
            from executorch.exir import to_edge_transform_and_lower
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime

            network = copy.deepcopy(model).cpu().float().eval()
            try:
                exported = torch.export.export(network, (example.detach().cpu().float(),))
                lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
                content = lowered.to_executorch().buffer
            except Exception as error:  # the exporter's own, of many kinds
                raise not_taken(self.name, model, error) from error
            portable_lib._unsafe_reset_threadpool(setting.threads)
            return _Runner(content, Runtime.get().load_program(content))


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
