"""The runtimes that networks are measured in, one module each."""

from hwprofiles.runtimes.base import Runtime
from hwprofiles.runtimes.compiled import Compiled
from hwprofiles.runtimes.eager import Eager
from hwprofiles.runtimes.executorch import ExecuTorch
from hwprofiles.runtimes.onnxruntime import OnnxRuntime, TensorRt
from hwprofiles.runtimes.openvino import OpenVino
from hwprofiles.runtimes.torchscript import TorchScript

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        *(Eager(), Compiled(), TorchScript()),
        *(OnnxRuntime(), TensorRt(), OpenVino(), ExecuTorch()),
    )
}


def find_runtime(name: str) -> Runtime:
    """The runtime of this name, with its packages at hand.

    Raises:
        ValueError: there is none of this name, or its packages are not installed.
    """
    if name not in RUNTIMES:
        raise ValueError(f"runtime: {name!r}, allowed are {', '.join(RUNTIMES)}")
    RUNTIMES[name].require()
    return RUNTIMES[name]
