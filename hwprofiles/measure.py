"""Measuring: models -> layers x widths -> times -> a profile."""

from __future__ import annotations

import copy
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from hwprofiles import memory
from hwprofiles.device import check_device, fingerprint, fixed_threads
from hwprofiles.fit import (
    LayerFit,
    Point,
    WeightsFit,
    find_channel_step,
    fit_layer,
    fit_scale,
    fit_weights,
)
from hwprofiles.layers import LayerSpec, Traced, build, trace_all
from hwprofiles.plan import Widths, plan_chains, sweep_widths
from hwprofiles.profile import Profile
from hwprofiles.schema import (
    Anchor,
    Calibration,
    ChannelStep,
    CostModel,
    Created,
    EndToEnd,
    FitRange,
    LatencyCoefficients,
    LayerProfile,
    Memory,
    Protocol,
    Sample,
    StepPoint,
    Sweep,
    Units,
    Weights,
    Workload,
)
from hwprofiles.schema import Latency as LatencySection
from hwprofiles.timing import (
    Case,
    CpuTimer,
    CudaTimer,
    Measurement,
    Progress,
    Rounds,
    Timer,
    anchor_workload,
    measure_rounds,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Every layer gets its own weights in a chain, as in the network, unless they need more than this.
MAX_OWN_BYTES = 2 * 2**30
# The channel step is looked for in so many layers, of at least such a width.
SWEPT_LAYERS = 3
MIN_SWEPT_WIDTH = 16


@dataclass(frozen=True)
class Setting:
    """Where and how everything is run."""

    device: torch.device
    dtype: torch.dtype
    batch_size: int
    channels_last: bool

    def timer(self) -> Timer:
        return CudaTimer(self.device) if self.device.type == "cuda" else CpuTimer()


class InputPool:
    """Inputs of all layers share one buffer of random numbers and one of zeros.

    Hundreds of cases wait for their next round; with own inputs they would not fit into memory.
    ``reset`` starts the next case; within one case no two tensors overlap.
    """

    def __init__(self, setting: Setting, size: int) -> None:
        self.setting = setting
        self.random = torch.rand(size, device=setting.device).to(setting.dtype)
        self.zeros = torch.zeros_like(self.random)
        self.used = 0

    def reset(self) -> None:
        self.used = 0

    def __call__(self, shape: tuple[int, ...], zeros: bool) -> Tensor:
        size = torch.Size(shape).numel()
        flat = (self.zeros if zeros else self.random)[self.used : self.used + size]
        self.used += size
        if self.setting.channels_last and len(shape) == 4:
            b, c, h, w = shape
            return flat.view(b, h, w, c).permute(0, 3, 1, 2)
        return flat.view(shape)


def measure(
    models: Mapping[str, nn.Module],
    input_size: Sequence[int],
    batch_size: int = 1,
    device: str = "cpu",
    threads: int = 1,
    dtype: str = "float32",
    channels_last: bool = False,
    name: str | None = None,
    rounds: int = 15,
    min_s: float = 8.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Profile:
    """Measure every layer of some models, and the models, in one setting.

    The models are copied, not touched; random state and the number of threads are restored.

    Args:
        models: name -> model.
        input_size: (channels, height, width) of one example.
        batch_size: examples a call.
        device: 'cpu' or 'cuda'.
        threads: of torch on the CPU.
        dtype: 'float32' or 'bfloat16', of parameters and inputs.
        channels_last: memory format.
        name: of the profile; default like 'cpu-t1-b1'.
        rounds: readings of every point at least, 10 or more.
        min_s: go on for so many seconds, after warming up.
        seed: of the order within the rounds.
        progress: called with (stage, done, total).

    Raises:
        ValueError: a setting that is not allowed or not available here.
    """
    size = _input_size(input_size)
    _positive("batch_size", batch_size)
    if dtype not in DTYPES:
        raise ValueError(f"dtype: {dtype!r}, allowed are {', '.join(DTYPES)}")
    if not models:
        raise ValueError("models: none given, at least one is needed")
    setting = Setting(check_device(device), DTYPES[dtype], batch_size, channels_last)
    begin = time.perf_counter()
    with _pinned(setting, threads):
        networks = {label: _place(model, setting) for label, model in models.items()}
        x = _example(setting, size)
        traced = {label: trace_all(network, x) for label, network in networks.items()}
        unique = {s.signature: s for t in traced.values() for s in t.layers}
        step = _sweep_channel_step(traced, setting, seed, progress)
        timed = _time_everything(
            traced, networks, x, step.value, setting, rounds, min_s, seed, progress
        )
        memories = {
            label: _memory(network, x, traced[label], threads)
            for label, network in networks.items()
        }
    workload = Workload(
        device="cuda" if device == "cuda" else "cpu",
        models=list(models),
        input_size=size,
        batch_size=batch_size,
        dtype="bfloat16" if dtype == "bfloat16" else "float32",
        threads=threads,
        channels_last=channels_last,
    )
    return _assemble(
        name or _default_name(workload),
        workload,
        traced,
        unique,
        step,
        timed,
        memories,
        _protocol(timed.rounds, setting),
        Created(
            utc=datetime.now(UTC).isoformat(timespec="seconds"),
            tool_version=metadata.version("cpt-nas"),
            command=_command(workload),
            seed=seed,
            wall_s=time.perf_counter() - begin,
        ),
    )


def time_models(
    models: Mapping[str, tuple[nn.Module, Tensor]],
    threads: int = 1,
    rounds: int = 15,
    block_s: float = 2e-3,
    min_s: float = 0.0,
    channels_last: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Measurement]:
    """Time whole models against each other, in interleaved rounds.

    Args:
        models: label -> (model, input), all on one device.
        threads: of torch on the CPU.
        rounds: readings of every model, at least 10.
        block_s: how long one reading should last, in seconds.
        min_s: go on for so many seconds, after warming up.
        channels_last: memory format; the models are copied.
        seed: of the order within the rounds.
        progress: called with (stage, done, total).

    Raises:
        ValueError: too few rounds or a number of threads that the machine does not have.
    """
    if not models:
        raise ValueError("models: none given, at least one is needed")
    first = next(iter(models.values()))[1]
    setting = Setting(first.device, first.dtype, len(first), channels_last)
    cases: dict[str, Case] = {}
    with _pinned(setting, threads), torch.inference_mode():
        for label, (model, x) in models.items():
            network = _place(model, setting)
            x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
            cases[label] = _call(network, x)
        anchor = anchor_workload(setting.device, setting.dtype)
        timed = measure_rounds(
            cases, anchor, setting.timer(), (), rounds, block_s, min_s, seed, progress
        )
    return timed.measurements


@dataclass(frozen=True)
class _Timed:
    """Sizes by signature with their times, and the networks'."""

    layers: dict[str, dict[Widths, Measurement]]
    networks: dict[str, Measurement]
    rounds: Rounds


def _time_everything(
    traced: Mapping[str, Traced],
    networks: Mapping[str, nn.Module],
    x: Tensor,
    step: int,
    setting: Setting,
    rounds: int,
    min_s: float,
    seed: int,
    progress: Progress | None,
) -> _Timed:
    plans = {label: plan_chains(t.layers, step) for label, t in traced.items()}
    builder = _Builder(traced, plans, setting)
    layers: dict[str, dict[Widths, str]] = {}
    chains = []
    with torch.inference_mode():
        for label, t in traced.items():
            for widths in plans[label]:
                chain = []
                for spec, (cin, cout) in zip(t.layers, widths, strict=True):
                    key = f"{spec.signature} at {cin} -> {cout}"
                    layers.setdefault(spec.signature, {})[cin, cout] = key
                    chain.append((key, builder.case(spec, cin, cout)))
                chains.append(chain)
        timed = measure_rounds(
            {label: _call(network, x) for label, network in networks.items()},
            anchor_workload(setting.device, setting.dtype),
            setting.timer(),
            chains,
            rounds,
            min_s=min_s,
            seed=seed,
            progress=progress,
        )
    times = timed.measurements
    return _Timed(
        {s: {w: times[key] for w, key in keys.items()} for s, keys in layers.items()},
        {label: times[label] for label in networks},
        timed,
    )


class _Builder:
    """Builds layers to be timed; layers of one signature share their weights only if they must."""

    def __init__(
        self,
        traced: Mapping[str, Traced],
        plans: Mapping[str, list[list[Widths]]],
        setting: Setting,
    ) -> None:
        specs = [s for t in traced.values() for s in t.layers]
        self.setting = setting
        self.pool = InputPool(setting, max(_input_elements(s, setting.batch_size) for s in specs))
        params = sum(
            s.params_coefficients.at(i, o)
            for label, t in traced.items()
            for widths in plans[label]
            for s, (i, o) in zip(t.layers, widths, strict=True)
        )
        self.own = params * setting.dtype.itemsize <= MAX_OWN_BYTES
        self._shared: dict[tuple[str, int, int], Case] = {}

    def case(self, spec: LayerSpec, in_channels: int, out_channels: int) -> Case:
        key = (spec.signature, in_channels, out_channels)
        if key in self._shared:
            return self._shared[key]
        s = self.setting
        self.pool.reset()
        function, x = build(
            spec,
            in_channels,
            out_channels,
            s.batch_size,
            s.dtype,
            s.device,
            s.channels_last,
            self.pool,
        )
        case = _call(function, x)
        if not self.own or not spec.params:
            self._shared[key] = case
        return case


def _input_elements(spec: LayerSpec, batch_size: int) -> int:
    assert spec.operation is not None
    shapes = [t.at(spec.in_channels, batch_size) for t in spec.operation.tensors()]
    return sum(torch.Size(shape).numel() for shape in shapes)


def _sweep_channel_step(
    traced: Mapping[str, Traced], setting: Setting, seed: int, progress: Progress | None
) -> ChannelStep:
    """Time the square layers that do most work at many widths of their input and output."""
    layers = [s for t in traced.values() for s in t.layers]
    counts = Counter(s.signature for s in layers)
    square = {
        s.signature: s
        for s in layers
        if s.form == "dense" and s.in_channels == s.out_channels >= MIN_SWEPT_WIDTH
    }
    swept = sorted(square.values(), key=lambda s: s.macs * counts[s.signature])[-SWEPT_LAYERS:]
    if not swept:
        return ChannelStep(value=1, sweeps=[])
    plans = {}
    for spec in swept:
        full, widths = spec.in_channels, sweep_widths(spec.in_channels)
        plans[spec.signature] = [(full, w) for w in widths] + [(w, full) for w in widths[:-1]]
    builder = _Builder(
        {s.signature: Traced([s], []) for s in swept},
        {signature: [[size] for size in sizes] for signature, sizes in plans.items()},
        setting,
    )
    with torch.inference_mode():
        cases = {
            f"{signature} at {i} -> {o}": builder.case(square[signature], i, o)
            for signature, sizes in plans.items()
            for i, o in sizes
        }
        timed = measure_rounds(
            cases,
            anchor_workload(setting.device, setting.dtype),
            setting.timer(),
            seed=seed,
            progress=_named(progress, "channel step, "),
        ).measurements
    sweeps = {}
    for spec in swept:
        full = spec.in_channels
        label = spec.signature + " at {} -> {}"
        sweeps[spec.signature] = {
            w: timed[label.format(full, w)].median_s + timed[label.format(w, full)].median_s
            for w in sweep_widths(full)
        }
    return ChannelStep(
        value=find_channel_step(list(sweeps.values())),
        sweeps=[
            Sweep(layer=s, points=[StepPoint(channels=w, median_s=t) for w, t in points.items()])
            for s, points in sweeps.items()
        ],
    )


def _assemble(
    name: str,
    workload: Workload,
    traced: Mapping[str, Traced],
    unique: Mapping[str, LayerSpec],
    step: ChannelStep,
    timed: _Timed,
    memories: Mapping[str, Memory],
    protocol: Protocol,
    created: Created,
) -> Profile:
    fits: dict[str, LayerFit] = {}
    for signature, spec in unique.items():
        points = [Point(i, o, m.median_s) for (i, o), m in timed.layers[signature].items()]
        fits[signature] = fit_layer(points, spec.form, (spec.in_channels, spec.out_channels))
    costs = {signature: fit.coefficients for signature, fit in fits.items()}
    sums = {
        label: sum(costs[s.signature].at(s.in_channels, s.out_channels) for s in t.layers)
        for label, t in traced.items()
    }
    scale = fit_scale(
        [timed.networks[label].median_s for label in sums], [sums[label] for label in sums]
    )
    weights = fit_weights(
        [t.layers for t in traced.values()], costs, DTYPES[workload.dtype].itemsize
    )
    counts = {label: Counter(s.signature for s in t.layers) for label, t in traced.items()}
    return Profile(
        name=name,
        created=created,
        fingerprint=fingerprint(workload.device),
        workload=workload,
        protocol=protocol,
        units=Units(time="s", memory="byte", macs="1 per multiply-add"),
        weights=_weights(weights),
        cost_model=CostModel(
            form="a + b*Cin + c*Cout + d*Cin*Cout; one-channel layers a + b*C",
            loss="relative squared error, coefficients not negative",
            channel_step=step,
            calibration=Calibration(scale=scale, offset_s=0.0, n=len(sums)),
        ),
        layers=[
            _layer(
                spec,
                fits[signature],
                timed.layers[signature],
                {label: c[signature] for label, c in counts.items() if c[signature]},
            )
            for signature, spec in unique.items()
        ],
        dense={
            label: _end_to_end(timed.networks[label], sums[label], scale, t, memories[label])
            for label, t in traced.items()
        },
    )


def _layer(
    spec: LayerSpec,
    fit: LayerFit,
    times: Mapping[Widths, Measurement],
    count: dict[str, int],
) -> LayerProfile:
    c = fit.coefficients
    ins, outs = [i for i, _ in times], [o for _, o in times]
    return LayerProfile(
        signature=spec.signature,
        type=spec.type,
        form=spec.form,
        in_channels=spec.in_channels,
        out_channels=spec.out_channels,
        count=count,
        macs=spec.macs,
        params=spec.params,
        activation_bytes=spec.activation_bytes,
        coefficients=LatencyCoefficients(
            const_s=c.const, per_in_s=c.per_in, per_out_s=c.per_out, per_in_out_s=c.per_in_out
        ),
        fit_range=FitRange(in_channels=(min(ins), max(ins)), out_channels=(min(outs), max(outs))),
        fit_error=fit.error,
        dense=LatencySection(**_quartiles(times[spec.in_channels, spec.out_channels])),
        samples=[
            Sample(in_channels=i, out_channels=o, **_quartiles(m)) for (i, o), m in times.items()
        ],
    )


def _end_to_end(
    measured: Measurement, total: float, scale: float, traced: Traced, memories: Memory
) -> EndToEnd:
    return EndToEnd(
        **_quartiles(measured),
        p90_s=measured.quantile(0.9),
        p99_s=measured.quantile(0.99),
        sum_of_layers_s=total,
        explained=total / measured.median_s,
        calibrated_error=scale * total / measured.median_s - 1,
        macs=sum(s.macs for s in traced.layers),
        params=sum(s.params for s in traced.layers),
        memory=memories,
        unattributed_ops=traced.views,
    )


def _weights(fit: WeightsFit) -> Weights:
    return Weights(
        kappa=fit.kappa,
        alpha=fit.alpha,
        seconds_per_layer=fit.seconds_per_layer,
        seconds_per_mac=fit.seconds_per_mac,
        seconds_per_param_byte=fit.seconds_per_param_byte,
        share_layers=fit.shares[0],
        share_macs=fit.shares[1],
        share_params=fit.shares[2],
        fit_error=fit.error,
    )


def _quartiles(m: Measurement) -> dict[str, Any]:
    return {"median_s": m.median_s, "q25_s": m.q25_s, "q75_s": m.q75_s, "n": m.n}


def _memory(network: nn.Module, x: Tensor, traced: Traced, threads: int) -> Memory:
    return Memory(
        parameter_bytes=memory.parameter_bytes(network),
        activation_bytes=sum(s.activation_bytes for s in traced.layers) * len(x),
        peak_analytic_bytes=memory.peak_analytic_bytes(network, x),
        peak_measured_bytes=memory.peak_measured_bytes(network, x, threads),
    )


def _protocol(timed: Rounds, setting: Setting) -> Protocol:
    return Protocol(
        timer=setting.timer().name,
        rounds=timed.rounds,
        warm_up_s=timed.warm_up_s,
        statistic="median over rounds of times divided by the anchor's slowness",
        cache="as in the network: layers are called one after the other",
        anchor=Anchor(
            first_s=timed.anchors_s[0], last_s=timed.anchors_s[-1], spread=timed.anchor_spread
        ),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        spread=timed.spread,
        verdict="noisy" if timed.verdict == "noisy" else "ok",
    )


def _place(model: nn.Module, setting: Setting) -> nn.Module:
    network = copy.deepcopy(model).to(device=setting.device, dtype=setting.dtype).eval()
    if setting.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return network


def _example(setting: Setting, size: tuple[int, int, int]) -> Tensor:
    x = torch.rand(setting.batch_size, *size, device=setting.device).to(setting.dtype)
    return x.contiguous(memory_format=torch.channels_last) if setting.channels_last else x


def _call(function: Callable[[Tensor], object], x: Tensor) -> Case:
    return lambda: function(x)


@contextmanager
def _pinned(setting: Setting, threads: int) -> Iterator[None]:
    """Threads, random state and the CUDA library's choices, as recorded in the workload."""
    devices = [setting.device] if setting.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(fixed_threads(threads))
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.backends.cudnn.flags(benchmark=False, allow_tf32=False))
        torch.manual_seed(0)
        yield


def _named(progress: Progress | None, prefix: str) -> Progress | None:
    if progress is None:
        return None
    return lambda stage, done, total: progress(prefix + stage, done, total)


def _default_name(w: Workload) -> str:
    parts: list[str] = [w.device, f"t{w.threads}"] if w.device == "cpu" else [w.device]
    parts.append(f"b{w.batch_size}")
    parts += ["bf16"] if w.dtype == "bfloat16" else []
    parts += ["nhwc"] if w.channels_last else []
    return "-".join(parts)


def _command(w: Workload) -> str:
    """The command that measures the same again; paths are left out."""
    words = ["hwprofiles measure", *w.models, "--input-size", *map(str, w.input_size)]
    words += ["--batch-size", str(w.batch_size), "--device", w.device, "--threads", str(w.threads)]
    words += ["--dtype", w.dtype, *(["--channels-last"] if w.channels_last else [])]
    return " ".join(words)


def _input_size(values: Sequence[int]) -> tuple[int, int, int]:
    if len(values) != 3 or any(v < 1 for v in values):
        raise ValueError(
            f"input_size: {tuple(values)}, allowed are three positive numbers: "
            "channels, height, width"
        )
    return (values[0], values[1], values[2])


def _positive(field: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{field}: {value}, allowed is 1 or more")
