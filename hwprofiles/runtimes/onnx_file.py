"""A PyTorch model as one ONNX file with a fixed batch, the form that other runtimes read.

Torch has two exporters. The tracing one is used: it takes a tenth of the other's time, folds what
is constant, and writes one file, while the newer one puts weights beside it. A profile exports a
hundred networks. The runtimes' fingerprints name the exporter.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from hwprofiles.runtimes.base import not_taken

OPSET = 17  # the first with layer normalisation
INPUT, OUTPUT = "input", "output"
EXPORTER = f"torch.onnx tracing, opset {OPSET}"


def onnx_bytes(model: nn.Module, example: Tensor) -> bytes:
    """The model in eval mode as the content of an ONNX file, in float32.

    Args:
        model: not changed.
        example: [batch, channels, height, width]; the file's batch is fixed to it.

    Raises:
        RuntimeBuildError: the exporter does not take the model; says what it does not know.
    """
    network = copy.deepcopy(model).cpu().float().eval()
    with _quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                network,
                (example.detach().cpu().float().contiguous(),),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
        except Exception as error:  # the exporter's own, of many kinds
            raise not_taken("the ONNX exporter", model, error) from error
        return file.read_bytes()


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
