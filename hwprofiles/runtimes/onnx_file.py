"""A PyTorch model as one ONNX file, the form that other runtimes read.

Torch has two exporters. The tracing one is used: it takes a tenth of the other's time, folds what
is constant, and writes one file, while the newer one puts weights beside it. A profile exports a
hundred networks. The runtimes' fingerprints name the exporter.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from hwprofiles.runtimes.base import RuntimeBuildError, require_packages
from hwprofiles.runtimes.file_runtime import converted

OPSET = 17  # the first with layer normalisation
INPUT, OUTPUT = "input", "output"
EXPORTER = f"torch.onnx tracing, opset {OPSET}"
LIMIT_BYTES = 2 * 2**30  # of a protobuf message, which an ONNX file is


def require_exporter() -> None:
    """Refuse where the package is missing that torch's exporter finishes a file with.

    Raises:
        ValueError: names it, and what installs it.
    """
    require_packages("the ONNX exporter", ["onnx"], "onnx")


def onnx_bytes(model: nn.Module, example: Tensor, dynamic_batch: bool = False) -> bytes:
    """The model in eval mode as the content of an ONNX file, in float32.

    Args:
        model: not changed.
        example: [batch, channels, height, width].
        dynamic_batch: leave the file's batch open; else it is fixed to the example's.

    Raises:
        RuntimeBuildError: the exporter does not take the model; says which layer and what is not
            known. Or its weights are more than a file can hold.
        ValueError: onnx is not installed.
    """
    require_exporter()
    weights = itertools.chain(model.parameters(), model.buffers())
    size = sum(4 * t.numel() for t in weights)
    if size >= LIMIT_BYTES:
        raise RuntimeBuildError(
            f"runtime: an ONNX file holds less than {LIMIT_BYTES / 2**30:g} GiB (protobuf's limit),"
            f" and the weights of {type(model).__name__} take {size / 2**30:.3g} GiB"
        )
    axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}} if dynamic_batch else None

    def convert(network: nn.Module, x: Tensor) -> bytes:
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            torch.onnx.export(
                network,
                (x,),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes=axes,
            )
            return file.read_bytes()

    return converted("the ONNX exporter", model, example, convert)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own deprecation and on traced constants."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
