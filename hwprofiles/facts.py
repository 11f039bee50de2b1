"""What is known of an uncut network beside its latency, for whoever reads a profile.

None of it is in a prediction. Fusions are asked for in a session of their own, since runtimes slow
down where they have to tell.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from hwprofiles import fresh_process, memory
from hwprofiles.fresh_process import Fresh
from hwprofiles.runtimes.base import Runner, Runtime, Setting
from hwprofiles.runtimes.eager import call_of
from hwprofiles.runtimes.file_runtime import FileRuntime
from hwprofiles.schema import Memory
from hwprofiles.single_calls import Tail, time_single_calls
from hwprofiles.tracing import Traced


@dataclass(frozen=True)
class Facts:
    """Of one network; None: not known.

    Attributes:
        memory: what it takes.
        tail: the slow ones among its calls.
        fresh: in a process of its own.
        file_bytes: of what the runtime reads.
        fused: what the runtime runs as one, in the names of the file that it reads.
    """

    memory: Memory
    tail: Tail
    fresh: Fresh
    file_bytes: int | None
    fused: list[str] | None


def gather_facts(
    runtime: Runtime,
    network: nn.Module,
    runner: Runner,
    x: Tensor,
    setting: Setting,
    traced: Traced,
    typical_s: float,
) -> Facts:
    """Find out about a network.

    Args:
        runtime: what it runs in.
        network: placed in the setting.
        runner: it, built for the runtime.
        x: an input.
        setting: how it runs.
        traced: its layers.
        typical_s: how long a call takes, about.
    """
    tail = time_single_calls(call_of(runner, x), setting.timer(), typical_s)
    files, fused = None, None
    if isinstance(runtime, FileRuntime):
        files = runtime.convert(network, x)
        fused = runtime.fused(files, setting)
    fresh = fresh_process.run_fresh(runtime, network, files, x, setting)
    peak = fresh.peak_bytes
    if x.is_cuda and files is None:  # other runtimes do not ask PyTorch for memory
        peak = memory.peak_cuda_bytes(runner, x) + memory.parameter_bytes(network)
    return Facts(
        Memory(
            parameter_bytes=memory.parameter_bytes(network),
            activation_bytes=sum(s.activation_bytes for s in traced.layers) * len(x),
            peak_analytic_bytes=memory.peak_analytic_bytes(network, x),
            peak_measured_bytes=peak,
        ),
        tail,
        fresh,
        None if files is None else sum(map(len, files.values())),
        fused,
    )
