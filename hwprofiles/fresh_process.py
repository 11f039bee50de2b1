"""One network in a process of its own: the memory that it takes, and how long its first call does.

A process knows its lifetime's maximum of memory only, an allocator keeps what was freed, and what
runs for the first time in a process is compiled, cached and laid out then. So a fresh process runs
this file: it loads the network as the runtime reads it, and calls it.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hwprofiles.device import fixed_threads, synchronize
from hwprofiles.runtimes import find_runtime
from hwprofiles.runtimes.base import Runner, Runtime, Setting
from hwprofiles.runtimes.file_runtime import FileRuntime, Files

TIMEOUT_S = 300
REQUEST, MODEL = "request", "model"


@dataclass(frozen=True)
class Fresh:
    """What a network took in a process of its own; None: could not be measured.

    Attributes:
        peak_bytes: how much the process grew at most, from when the libraries were loaded; on the
            CPU.
        load_s: seconds to make the network ready: read, rewritten, compiled.
        first_call_s: seconds of its first call.
    """

    peak_bytes: int | None = None
    load_s: float | None = None
    first_call_s: float | None = None


def run_fresh(
    runtime: Runtime, network: nn.Module, files: Files | None, x: Tensor, setting: Setting
) -> Fresh:
    """Load and call a network in a fresh process.

    Args:
        runtime: what it runs in.
        network: placed in the setting.
        files: as a runtime that reads files has converted it; None: the runtime reads none.
        x: an input.
        setting: how it runs.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for suffix, content in (files or {}).items():
            (folder / f"{MODEL}{suffix}").write_bytes(content)
        try:
            torch.save((runtime.name, setting, list(files or {}), x), folder / REQUEST)
            if files is None:
                torch.save(network, folder / MODEL)
        except (pickle.PicklingError, AttributeError, TypeError, RuntimeError):
            return Fresh()  # a class that another process cannot import
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        try:
            done = subprocess.run(
                # -P: the folder that this process was started in is not searched for modules.
                [sys.executable, "-P", "-m", "hwprofiles.fresh_process", name],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                env=environment,
            )
        except subprocess.TimeoutExpired:
            return Fresh()
    if done.returncode != 0:
        return Fresh()
    return Fresh(**json.loads(done.stdout.splitlines()[-1]))


@torch.inference_mode()
def _here(folder: Path) -> Fresh:
    """Load what ``run_fresh`` has written into this process, and call it."""
    name, setting, suffixes, x = torch.load(folder / REQUEST, weights_only=False)
    runtime = find_runtime(name)
    with fixed_threads(setting.threads):
        # The libraries' own set-up and the code that the model imports are not its memory.
        if isinstance(runtime, FileRuntime):
            files = {s: (folder / f"{MODEL}{s}").read_bytes() for s in suffixes}
            runtime.check(setting)
        else:
            torch.load(folder / MODEL, weights_only=False, map_location="meta")
            nn.Conv2d(8, 8, 3)(torch.zeros(1, 8, 16, 16))
            nn.Linear(256, 256)(torch.zeros(64, 256))
        synchronize(setting.device)
        before = _status_bytes("VmRSS")
        _forget_peak()
        start = time.perf_counter()
        runner: Runner
        if isinstance(runtime, FileRuntime):
            runner = runtime.load(files, setting)
        else:
            network = torch.load(folder / MODEL, weights_only=False)
            # Eager mode runs what was loaded; a copy of it would count twice.
            runner = network if name == "eager" else runtime.build(network, x, setting)
        loaded = time.perf_counter()
        runner(x)
        synchronize(setting.device)
        called = time.perf_counter()
    peak = _status_bytes("VmHWM") if setting.device.type == "cpu" else None
    grown = None if before is None or peak is None else max(peak - before, 0)
    return Fresh(grown, loaded - start, called - loaded)


def _status_bytes(field: str) -> int | None:
    """A line of /proc/self/status; None without one.

    Not getrusage: its ru_maxrss is inherited from the process that started this one.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    kib = next((line.split()[1] for line in lines if line.startswith(f"{field}:")), None)
    return None if kib is None else int(kib) * 1024


def _forget_peak() -> None:
    """What importing took at its worst is over; Linux starts VmHWM anew."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    print(json.dumps(asdict(_here(Path(sys.argv[1])))))
