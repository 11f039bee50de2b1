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
# Shares of the dense widths at which a layer with two widths is timed, and one with one width.
DENSE_FORM_SHARES = (
    (1.0, 1.0),
    (0.75, 0.75),
    (0.5, 0.5),
    (0.25, 0.25),
    (1 / 16, 1 / 16),
    (1.0, 0.5),
    (0.5, 1.0),
    (1.0, 0.25),
    (0.25, 1.0),
)
CHANNEL_FORM_SHARES = (1.0, 0.75, 0.5, 0.25, 1 / 16)
# The sweep for the channel step covers at most this many widths below the dense one.
STEP_WINDOW = 64
STEP_ROUNDS = 10

Size = tuple[str, int, int]


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
    block_s: float = 2e-3,
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
        rounds: readings of every point, at least 10.
        block_s: how long one reading should last, in seconds.
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
        step = _sweep_channel_step(list(unique.values()), traced, setting, seed, progress)
        timed = _time_everything(
            unique, networks, x, step.value, setting, rounds, block_s, seed, progress
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
        _protocol(timed.rounds, setting, rounds, block_s),
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
        timed = measure_rounds(cases, anchor, setting.timer(), rounds, block_s, seed, progress)
    return timed.measurements


@dataclass(frozen=True)
class _Timed:
    """Sizes by signature with their times, and the networks'."""

    layers: dict[str, dict[tuple[int, int], Measurement]]
    networks: dict[str, Measurement]
    rounds: Rounds


def _time_everything(
    unique: Mapping[str, LayerSpec],
    networks: Mapping[str, nn.Module],
    x: Tensor,
    step: int,
    setting: Setting,
    rounds: int,
    block_s: float,
    seed: int,
    progress: Progress | None,
) -> _Timed:
    sizes = [(s.signature, i, o) for s in unique.values() for i, o in sample_sizes(s, step)]
    with torch.inference_mode():
        cases: dict[Size | str, Case] = dict(_build_all(unique, sizes, setting))
        cases |= {label: _call(network, x) for label, network in networks.items()}
        labels = {str(i): key for i, key in enumerate(cases)}
        timed = measure_rounds(
            {i: cases[key] for i, key in labels.items()},
            anchor_workload(setting.device, setting.dtype),
            setting.timer(),
            rounds,
            block_s,
            seed,
            progress,
        )
    layers: dict[str, dict[tuple[int, int], Measurement]] = {s: {} for s in unique}
    whole: dict[str, Measurement] = {}
    for i, key in labels.items():
        if isinstance(key, str):
            whole[key] = timed.measurements[i]
        else:
            layers[key[0]][key[1:]] = timed.measurements[i]
    return _Timed(layers, whole, timed)


def sample_sizes(spec: LayerSpec, step: int) -> list[tuple[int, int]]:
    """The (in_channels, out_channels) at which a layer is timed; the dense ones come first.

    Args:
        spec: the layer.
        step: the channel step; other widths than the dense ones are multiples of it.
    """
    dense = (spec.in_channels, spec.out_channels)
    if not spec.scalable:
        return [dense]

    def width(channels: int, share: float, multiple: int) -> int:
        if share == 1.0 or channels <= multiple:
            return channels
        return max(multiple, round(share * channels / multiple) * multiple)

    if spec.form == "dense":
        sizes = [(width(dense[0], i, step), width(dense[1], o, step)) for i, o in DENSE_FORM_SHARES]
    else:
        multiple = spec.channel_multiple
        multiple *= -(-step // multiple) if dense[0] > step else 1
        widths = [width(dense[0], share, multiple) for share in CHANNEL_FORM_SHARES]
        sizes = [(w, spec.out_channels_at(w)) for w in widths]
    return list(dict.fromkeys(sizes))


def _build_all(
    unique: Mapping[str, LayerSpec], sizes: Sequence[Size], setting: Setting
) -> Iterator[tuple[Size, Case]]:
    def elements(spec: LayerSpec) -> int:
        assert spec.operation is not None
        shapes = [t.at(spec.in_channels, setting.batch_size) for t in spec.operation.tensors()]
        return sum(torch.Size(shape).numel() for shape in shapes)

    pool = InputPool(setting, max(elements(spec) for spec in unique.values()))
    for signature, cin, cout in sizes:
        pool.reset()
        function, x = build(
            unique[signature],
            cin,
            cout,
            setting.batch_size,
            setting.dtype,
            setting.device,
            setting.channels_last,
            pool,
        )
        yield (signature, cin, cout), _call(function, x)


def _sweep_channel_step(
    specs: Sequence[LayerSpec],
    traced: Mapping[str, Traced],
    setting: Setting,
    seed: int,
    progress: Progress | None,
) -> ChannelStep:
    """Time one square layer, the one with most work, at many widths of its input and its output."""
    counts = Counter(s.signature for t in traced.values() for s in t.layers)
    square = [s for s in specs if s.form == "dense" and s.in_channels == s.out_channels >= 8]
    if not square:
        return ChannelStep(value=1, layer="", sweep=[])
    spec = max(square, key=lambda s: s.macs * counts[s.signature])
    widths = sweep_widths(spec.in_channels)
    sizes = [(spec.signature, spec.in_channels, w) for w in widths]
    sizes += [(spec.signature, w, spec.out_channels) for w in widths[:-1]]
    with torch.inference_mode():
        cases = {
            f"{i} {o}": c for (_, i, o), c in _build_all({spec.signature: spec}, sizes, setting)
        }
        timed = measure_rounds(
            cases,
            anchor_workload(setting.device, setting.dtype),
            setting.timer(),
            STEP_ROUNDS,
            seed=seed,
            progress=_named(progress, "channel step, "),
        ).measurements
    full = spec.in_channels
    seconds = {w: timed[f"{full} {w}"].median_s + timed[f"{w} {full}"].median_s for w in widths}
    return ChannelStep(
        value=find_channel_step(seconds),
        layer=spec.signature,
        sweep=[StepPoint(channels=w, median_s=t) for w, t in seconds.items()],
    )


def sweep_widths(channels: int) -> list[int]:
    """Widths up to ``channels``: all of a narrow layer, of a wide one those around multiples of 8."""
    low = max(channels // 2, channels - STEP_WINDOW)
    widths = range(low, channels + 1)
    if len(widths) > 24:
        return [w for w in widths if w % 8 in (0, 1, 2, 4, 7) or w == channels]
    return list(widths)


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
    times: Mapping[tuple[int, int], Measurement],
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


def _protocol(timed: Rounds, setting: Setting, rounds: int, block_s: float) -> Protocol:
    return Protocol(
        timer=setting.timer().name,
        rounds=rounds,
        block_s=block_s,
        warm_up_s=timed.warm_up_s,
        statistic="median over rounds of times divided by the anchor's slowness",
        cache="warm: a layer is called repeatedly; calibration corrects for it",
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
