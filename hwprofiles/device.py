"""The machine and its software: a fingerprint to tell whether a profile was made here."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from hwprofiles.processor import core_numbers, cpu_quota, processor_name, usable_cores

# What makes timings differ. The kernel and the interpreter are recorded, too, but not compared.
COVERED = (
    "device.type",
    "device.name",
    "device.cores",
    "device.isa",
    "device.memory_bytes",
    "device.compute_capability",
    "host.cpu",
    "host.cores",
    "host.cpu_quota",
    "software.torch",
    "software.timm",
    "software.cuda",
    "software.cudnn",
    "software.onednn",
    "runtime.name",
    "runtime.version",
    "runtime.provider",
    "runtime.precision",
    "runtime.graph_optimization",
    "runtime.exporter",
    "runtime.spinning",
)


Cores = Annotated[int, Field(ge=1, le=10**6)]
Text = Annotated[str, Field(max_length=1000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=True)


class Device(_Section):
    """What the layers run on."""

    type: Literal["cpu", "cuda"]
    name: Text
    cores: Cores = Field(description="CPU cores usable, or multiprocessors")
    isa: Text | None = Field(description="instruction set that torch uses; null on CUDA")
    memory_bytes: Annotated[int, Field(ge=0, le=2**60)]
    compute_capability: Text | None
    driver: Text | None


class Host(_Section):
    cpu: Text = Field(description="the board, if known, and the kinds of cores")
    cores: Cores
    cpu_quota: Annotated[float, Field(gt=0, le=10**6)] | None = Field(
        default=None, description="cores that the control group may keep busy; null: all"
    )
    os: Text
    kernel: Text


class Software(_Section):
    python: Text
    torch: Text
    timm: Text
    fvcore: Text
    cuda: Text | None
    cudnn: Text | None
    onednn: bool


class RuntimeFingerprint(_Section):
    """What decides a runtime's times besides the machine, the model and the threads."""

    name: Text = Field(description="eager, compiled, onnxruntime, openvino, executorch, ...")
    version: Text = Field(description="of the library")
    provider: Text = Field(description="what executes in it: a backend or execution provider")
    precision: Text = Field(description="what is computed in, as 'float32'")
    graph_optimization: Text = Field(description="how far the graph is rewritten; none in eager")
    exporter: Text | None = Field(description="what made the file it reads; null: none is read")
    spinning: bool = Field(description="idle threads wait actively")


class Fingerprint(_Section):
    """Machine, software and runtime; ``id`` hashes the keys listed in ``covers``."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    covers: list[Text]
    device: Device
    host: Host
    software: Software
    runtime: RuntimeFingerprint


@dataclass(frozen=True)
class Difference:
    """One key in which a machine or a setting differs from a profile's."""

    field: str
    profile_value: object
    here: object
    place: str = "here"

    def __str__(self) -> str:
        return f"{self.field}: profile has {self.profile_value}, {self.place} is {self.here}"


def fingerprint(device_type: str, runtime: RuntimeFingerprint) -> Fingerprint:
    """The fingerprint of this machine with a device of this type, and a runtime on it.

    Raises:
        ValueError: there is no such device here.
    """
    host = Host(
        cpu=processor_name(),
        cores=os.cpu_count() or 1,
        cpu_quota=cpu_quota(),
        os=platform.system(),
        kernel=_kernel(),
    )
    software = Software(
        python=platform.python_version(),
        torch=str(torch.__version__),
        timm=metadata.version("timm"),
        fvcore=metadata.version("fvcore"),
        cuda=torch.version.cuda if device_type == "cuda" else None,
        cudnn=str(torch.backends.cudnn.version()) if device_type == "cuda" else None,
        onednn=torch.backends.mkldnn.is_available(),
    )
    device = _cuda() if device_type == "cuda" else _cpu()
    return sealed(device, host, software, runtime)


def sealed(
    device: Device, host: Host, software: Software, runtime: RuntimeFingerprint
) -> Fingerprint:
    """The fingerprint of these, with the id that hashes what decides times."""
    parts = {"device": device, "host": host, "software": software, "runtime": runtime}
    covered = {key: _value(parts, key) for key in COVERED}
    digest = hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()
    return Fingerprint(
        id=digest[:12],
        covers=list(COVERED),
        device=device,
        host=host,
        software=software,
        runtime=runtime,
    )


def differences(profile: Fingerprint, here: Fingerprint) -> list[Difference]:
    """The covered keys whose values differ."""
    a, b = profile.model_dump(), here.model_dump()
    return [
        Difference(key, _value(a, key), _value(b, key))
        for key in COVERED
        if _value(a, key) != _value(b, key)
    ]


def check_device(device_type: str) -> torch.device:
    """The torch device of this type.

    Raises:
        ValueError: an unknown type, or none is here.
    """
    if device_type not in ("cpu", "cuda"):
        raise ValueError(f"device: {device_type!r}, allowed are cpu and cuda")
    if device_type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: 'cuda', but torch sees no CUDA device here; allowed is cpu")
    return torch.device(device_type)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Run torch with this many threads, and put the old number back afterwards.

    Raises:
        ValueError: fewer than one, or more than the cores that this process may keep busy.
    """
    cores, quota = usable_cores(), cpu_quota()
    if not 1 <= threads <= cores:
        limit = "" if quota is None else f", whose CPU quota is {quota:g} of its cores"
        raise ValueError(f"threads: {threads}, allowed are 1..{cores} on this machine{limit}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cpu() -> Device:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(
        type="cpu",
        name=processor_name(core_numbers()),
        cores=usable_cores(),
        isa=torch.backends.cpu.get_cpu_capability(),
        memory_bytes=_rounded(memory),
        compute_capability=None,
        driver=None,
    )


def _cuda() -> Device:
    check_device("cuda")
    properties = torch.cuda.get_device_properties(0)
    return Device(
        type="cuda",
        name=properties.name,
        cores=properties.multi_processor_count,
        isa=None,
        memory_bytes=_rounded(properties.total_memory),
        compute_capability=f"{properties.major}.{properties.minor}",
        driver=_nvidia_driver(),
    )


def _rounded(memory_bytes: int) -> int:
    """To whole gigabytes: the same machine reports some megabytes more or less after a boot."""
    return round(memory_bytes / 2**30) * 2**30


def _nvidia_driver() -> str | None:
    path = Path("/proc/driver/nvidia/version")
    if not path.is_file():
        return None
    words = path.read_text().split()
    return next((word for word in words if word[:1].isdigit() and "." in word), None)


def _kernel() -> str:
    """The version without the builder's suffix."""
    return re.split(r"[^0-9.]", platform.release())[0].rstrip(".")


def _value(parts: Any, key: str) -> Any:
    for name in key.split("."):
        parts = parts[name] if isinstance(parts, dict) else getattr(parts, name)
    return parts
