"""The formats that a finished network is written in: a class a format, a registry by name.

What converts and runs a model is the runtime's (:mod:`hwprofiles.runtimes`); a format says which
files are written and by which names inputs and outputs are known in them.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from cpt_nas.deploy.description import DESCRIPTION, is_described
from cpt_nas.deploy.source import Source, load_network
from cpt_nas.pruning.export import CONFIG, FILES, is_copy
from hwprofiles.runtimes import find_runtime
from hwprofiles.runtimes.base import Runner, Runtime, Setting
from hwprofiles.runtimes.file_runtime import FileRuntime
from hwprofiles.runtimes.onnx_file import INPUT, OUTPUT

Content = Mapping[str, bytes]
"""File name -> content."""

STEM = "model"


class Format(ABC):
    """One format.

    Attributes:
        name: as for ``--format``.
        runtimes: that read it; it is compared and timed in the first, or in the one of the profile.
        last: the file that stands for all of them.
        input, output: by which names they are known in the file; None: by their place.
        plans_memory: an open batch has a largest one, that of the example.
    """

    name: ClassVar[str]
    runtimes: ClassVar[tuple[str, ...]]
    last: ClassVar[str] = DESCRIPTION
    input: ClassVar[str | None] = None
    output: ClassVar[str | None] = None
    plans_memory: ClassVar[bool] = False

    def runtime(self, preferred: str | None = None) -> Runtime:
        """What it is compared and timed in, with its packages at hand.

        Args:
            preferred: taken where it reads the format.

        Raises:
            ValueError: packages are missing; names them and the extra.
        """
        return find_runtime(preferred if preferred in self.runtimes else self.runtimes[0])

    @property
    def described(self) -> bool:
        """Whether a description is written beside its files."""
        return self.last == DESCRIPTION

    @abstractmethod
    def content(self, source: Source, x: Tensor, dynamic_batch: bool) -> Content:
        """The finished network's files.

        Args:
            source: of the network.
            x: [batch, channels, height, width], an input; the batch is fixed to its own.
            dynamic_batch: leave the batch open.

        Raises:
            RuntimeBuildError: the network is not taken.
        """

    @abstractmethod
    def load(self, content: Content, x: Tensor, runtime: Runtime, setting: Setting) -> Runner:
        """What these files compute, read anew, on inputs like ``x``."""

    @abstractmethod
    def dense(
        self, model: nn.Module, x: Tensor, runtime: Runtime, setting: Setting, dynamic_batch: bool
    ) -> Runner:
        """The uncut network in the same form, which is timed beside the finished one."""

    @abstractmethod
    def is_own(self, folder: Path) -> bool:
        """Whether a folder that is not empty may be written over."""


class TimmFolder(Format):
    """timm's local-dir folder, run by PyTorch as it is; its config.json holds all the rest."""

    name = "timm"
    runtimes = ("eager", "compiled")
    last = CONFIG

    def content(self, source: Source, x: Tensor, dynamic_batch: bool) -> Content:
        return {name: (source.folder / name).read_bytes() for name in FILES}

    def load(self, content: Content, x: Tensor, runtime: Runtime, setting: Setting) -> Runner:
        with tempfile.TemporaryDirectory() as folder:
            for name, data in content.items():
                (Path(folder) / name).write_bytes(data)
            return runtime.build(load_network(Path(folder)), x, setting)

    def dense(
        self, model: nn.Module, x: Tensor, runtime: Runtime, setting: Setting, dynamic_batch: bool
    ) -> Runner:
        return runtime.build(model, x, setting)

    def is_own(self, folder: Path) -> bool:
        return is_copy(folder)


class RuntimeFile(Format):
    """What a runtime reads, with a description beside it."""

    def content(self, source: Source, x: Tensor, dynamic_batch: bool) -> Content:
        files = self._reader().convert(source.model, x, dynamic_batch)
        return {STEM + ending: data for ending, data in files.items()}

    def load(self, content: Content, x: Tensor, runtime: Runtime, setting: Setting) -> Runner:
        assert isinstance(runtime, FileRuntime)
        files = {name.removeprefix(STEM): data for name, data in content.items()}
        return runtime.load(files, setting)

    def dense(
        self, model: nn.Module, x: Tensor, runtime: Runtime, setting: Setting, dynamic_batch: bool
    ) -> Runner:
        assert isinstance(runtime, FileRuntime)
        return runtime.load(runtime.convert(model, x, dynamic_batch), setting)

    def is_own(self, folder: Path) -> bool:
        return is_described(folder)

    def _reader(self) -> FileRuntime:
        runtime = self.runtime()
        assert isinstance(runtime, FileRuntime)
        return runtime


class Onnx(RuntimeFile):
    """One ONNX file, weights inside."""

    name = "onnx"
    runtimes = ("onnxruntime", "onnxruntime-tensorrt")
    input, output = INPUT, OUTPUT


class OpenVinoIr(RuntimeFile):
    """OpenVINO's IR, which is always a pair: the graph and its weights."""

    name = "openvino"
    runtimes = ("openvino",)
    input, output = INPUT, OUTPUT


class ExecuTorchProgram(RuntimeFile):
    """A program for ExecuTorch, lowered to XNNPACK."""

    name = "executorch"
    runtimes = ("executorch",)
    plans_memory = True


class TorchScriptFile(RuntimeFile):
    """A traced and frozen module for libtorch."""

    name = "torchscript"
    runtimes = ("torchscript",)


FORMATS: dict[str, Format] = {
    f.name: f for f in (TimmFolder(), Onnx(), OpenVinoIr(), ExecuTorchProgram(), TorchScriptFile())
}


def find_format(name: str) -> Format:
    """The format of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in FORMATS:
        raise ValueError(f"format: {name!r}, allowed are {', '.join(FORMATS)}")
    return FORMATS[name]
