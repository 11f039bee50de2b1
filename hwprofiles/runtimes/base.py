"""What a runtime is: how a model is built for it, what it needs, and what decides its times.

A runtime is one module of this package with one class, listed in :mod:`hwprofiles.runtimes`. It
takes a plain PyTorch model and one example input and answers with a runner, a callable on inputs of
that shape. What it writes on the way is gone when ``build`` returns.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import ClassVar

import torch
from torch import Tensor, nn

from hwprofiles.device import RuntimeFingerprint
from hwprofiles.runtimes.timers import CpuTimer, CudaTimer, Timer

Runner = Callable[[Tensor], Tensor]
"""A model built for a runtime: inputs of the example's shape -> the model's output."""


Tolerances = Mapping[torch.dtype, float]
"""How far outputs may be from eager mode's in float32, relative to the largest output, by dtype."""


class RuntimeBuildError(ValueError):
    """A model that a runtime cannot take, or that it computes wrongly, in one line."""


@dataclass(frozen=True)
class Setting:
    """Where and how everything is run.

    Attributes:
        device: torch's name of the device.
        dtype: what is computed in.
        batch_size: examples a call.
        channels_last: memory format.
        threads: on the CPU.
    """

    device: torch.device
    dtype: torch.dtype
    batch_size: int
    channels_last: bool
    threads: int = 1

    @property
    def precision(self) -> str:
        """The dtype's name, as 'float32'."""
        return precision(self.dtype)

    @property
    def words(self) -> str:
        """As in a sentence: 'cpu, 1 thread, batch 1, float32'."""
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}"
        layout = ", channels last" if self.channels_last else ""
        on = self.device.type + threads * (self.device.type == "cpu")
        return f"{on}, batch {self.batch_size}, {self.precision}{layout}"

    def timer(self) -> Timer:
        """CUDA events on a CUDA device, else the wall clock."""
        return CudaTimer(self.device) if self.device.type == "cuda" else CpuTimer()


class Runtime(ABC):
    """One runtime.

    Attributes:
        name: as in a profile and for ``--runtime``.
        packages: modules that must be installed.
        extra: of the distribution, which installs them; None: nothing is needed.
        tolerances: of its outputs. A dtype that is not here cannot be computed in.
        distribution: the package whose version counts.
        graph_optimization: how far graphs are rewritten.
        exporter: what makes the file that it reads; None: it reads none.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str | None] = None
    tolerances: ClassVar[Tolerances]
    distribution: ClassVar[str] = "torch"
    graph_optimization: ClassVar[str] = "default"
    exporter: ClassVar[str | None] = None

    def missing(self) -> list[str]:
        """Its packages that are not installed."""
        return _missing(self.packages)

    def require(self) -> None:
        """Refuse where its packages are not installed, or cannot be imported.

        Raises:
            ValueError: names them, and what installs them.
        """
        require_packages(self.name, self.packages, self.extra)

    @abstractmethod
    def check(self, setting: Setting) -> None:
        """Refuse a device, a precision or a memory format that the runtime lacks here.

        Raises:
            ValueError: names the field, its value and what is allowed.
        """

    @abstractmethod
    def provider(self, setting: Setting) -> str:
        """What executes in it, in this setting: a backend or execution provider."""

    def fingerprint(self, setting: Setting) -> RuntimeFingerprint:
        """What decides times in it, in this setting. Idle threads never spin (``build``)."""
        return RuntimeFingerprint(
            name=self.name,
            version=version_of(self.distribution),
            provider=self.provider(setting),
            precision=setting.precision,
            graph_optimization=self.graph_optimization,
            exporter=self.exporter,
            spinning=False,
        )

    @abstractmethod
    def build(self, model: nn.Module, example: Tensor, setting: Setting) -> Runner:
        """A runner of the model: a callable on inputs like ``example``, to the model's output.

        The model is not changed. What the runner holds goes with it.

        Raises:
            RuntimeBuildError: the model cannot be taken; says what is not known.
        """


def require_packages(who: str, packages: Sequence[str], extra: str | None) -> None:
    """Refuse where packages are not installed, or cannot be imported.

    Args:
        who: needs them.
        packages: modules.
        extra: of the distribution, which installs them.

    Raises:
        ValueError: names them, and what installs them.
    """
    missing = _missing(packages)
    if missing:
        raise ValueError(
            f"runtime: {who} needs {', '.join(missing)}, which this environment lacks; "
            f"the extra [{extra}] installs it (or pip install {' '.join(missing)})"
        )
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(
                f"runtime: {who} needs {package}, which cannot be imported here: "
                f"{_first_line(error)}; the extra [{extra}] installs what it needs"
            ) from error


def _missing(packages: Sequence[str]) -> list[str]:
    return [p for p in packages if importlib.util.find_spec(p) is None]


def own_format(runtime: Runtime, setting: Setting) -> None:
    """For runtimes that choose the memory format by themselves, and run on the CPU alone."""
    if setting.device.type != "cpu":
        raise ValueError(f"device: {setting.device.type}, allowed in {runtime.name} is cpu")
    if setting.channels_last:
        raise ValueError(f"channels_last: {runtime.name} chooses the memory format by itself")


def known_dtype(runtime: Runtime, setting: Setting, allowed: Sequence[torch.dtype]) -> None:
    """Refuse another dtype than these."""
    if setting.dtype not in allowed:
        names = " and ".join(precision(dtype) for dtype in allowed)
        raise ValueError(f"dtype: {setting.precision}, allowed in {runtime.name} here: {names}")


def not_taken(
    runtime: str, model: nn.Module, error: BaseException, layer: str | None = None
) -> RuntimeBuildError:
    """The error of a library that does not take a model, or one layer of it, in one line."""
    whole = f"{type(model).__name__}, because of {layer}" if layer else type(model).__name__
    return RuntimeBuildError(f"runtime: {runtime} does not take {whole}: {_first_line(error)}")


def not_read(runtime: str, error: BaseException) -> RuntimeBuildError:
    """The error of a library that does not read the file that was made for it, in one line."""
    return RuntimeBuildError(f"runtime: {runtime} does not read the model: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def precision(dtype: torch.dtype) -> str:
    """A dtype's name, as 'float32'."""
    return str(dtype).removeprefix("torch.")


def version_of(distribution: str) -> str:
    """The installed version, without a build's suffix."""
    return metadata.version(distribution).partition("+")[0]


def place(model: nn.Module, setting: Setting) -> nn.Module:
    """A copy of the model in eval mode, on the setting's device, in its dtype and layout."""
    network = copy.deepcopy(model).to(device=setting.device, dtype=setting.dtype).eval()
    if setting.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return network


def example_input(setting: Setting, size: tuple[int, int, int]) -> Tensor:
    """A random batch of examples of this size."""
    x = torch.rand(setting.batch_size, *size, device=setting.device).to(setting.dtype)
    return x.contiguous(memory_format=torch.channels_last) if setting.channels_last else x


def difference(got: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest wanted value."""
    got, wanted = got.detach().cpu().float(), wanted.detach().cpu().float()
    if got.shape != wanted.shape:
        return float("inf")
    return float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))


@torch.inference_mode()
def build_checked(runtime: Runtime, model: nn.Module, example: Tensor, setting: Setting) -> Runner:
    """``runtime.build``, and the outputs compared with eager mode's in float32.

    Raises:
        RuntimeBuildError: the model cannot be taken, or its outputs differ by more than the
            runtime's tolerance.
    """
    runner = runtime.build(model, example, setting)
    plain = copy.deepcopy(model).to(device=setting.device, dtype=torch.float32).eval()
    far = difference(runner(example), plain(example.float()))
    allowed = runtime.tolerances[setting.dtype]
    if not far <= allowed:  # NaN is not
        raise RuntimeBuildError(
            f"runtime: {runtime.name} computes other outputs than PyTorch: they differ by "
            f"{far:.2g} of the largest one, allowed is {allowed:g}"
        )
    return runner
